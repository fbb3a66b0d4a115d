"""What is being done, on stderr: one line that is overwritten on a terminal, one line a step elsewhere."""

import shutil
import sys


class Progress:
    """Call it with a text as work goes on; `begin` names a step, `end` clears the line."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.title = total, 0, ""
        self.live = sys.stderr.isatty()

    def begin(self, title: str) -> None:
        """The next of `total` steps."""
        self.done += 1
        self.title = f"[{self.done}/{self.total}] {title}"
        if self.live:
            self("")
        else:
            print(self.title, file=sys.stderr, flush=True)

    def __call__(self, text: str) -> None:
        if self.live:
            line = f"{self.title}: {text}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Make room for a table."""
        if self.live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
