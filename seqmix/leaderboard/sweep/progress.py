"""How far a sweep is: one line, redrawn on a terminal."""

import shutil
import sys
import time
from collections.abc import Iterable

__all__ = ["Progress"]


class Progress:
    """Counts of runs, what is running, and the time left, from how long runs of the same config took.

    Args:
        total: number of runs of the sweep, those done before included.
        jobs: runs at a time.
        refresh: seconds between two drawings on a terminal.
        lines_every: seconds between two lines elsewhere.
    """

    def __init__(self, total: int, jobs: int, refresh: float = 0.5, lines_every: float = 60.0) -> None:
        self.total, self.jobs, self.refresh = total, jobs, refresh
        self.lines_every = lines_every
        self.done = self.failed = 0
        self._seconds: dict[str, list[float]] = {}
        self._next, self._width = 0.0 if sys.stdout.isatty() else time.monotonic() + lines_every, 0

    def learn(self, name: str, seconds: float) -> None:
        """Note how long a run of the config `name` took."""
        self._seconds.setdefault(name, []).append(seconds)

    def left(self, waiting: Iterable[str], running: Iterable[tuple[str, float]]) -> float | None:
        """Seconds left for waiting runs and for running ones (name, seconds so far); None before any is known."""
        known = [seconds for each in self._seconds.values() for seconds in each]
        if not known:
            return None

        def expected(name: str) -> float:
            own = self._seconds.get(name, known)
            return sum(own) / len(own)

        rest = [max(0.0, expected(name) - so_far) for name, so_far in running]
        total = sum(expected(name) for name in waiting) + sum(rest)
        return max(total / self.jobs, max(rest, default=0.0))

    def show(self, waiting: Iterable[str], running: list[tuple[str, str, float]]) -> None:
        """Draw the line; `running` has config, description and seconds so far of each run."""
        if time.monotonic() < self._next:
            return
        line = self.text(self.left(waiting, [(name, seconds) for name, _, seconds in running]))
        line += "".join(f"; {description} ({clock(seconds)})" for _, description, seconds in running)
        if sys.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\r" + line.ljust(self._width))
            self._width = len(line)
            self._next = time.monotonic() + self.refresh
        else:
            sys.stdout.write(line + "\n")
            self._next = time.monotonic() + self.lines_every
        sys.stdout.flush()

    def tell(self, line: str) -> None:
        """Print a line above the progress."""
        self.clear()
        print(line, flush=True)
        if sys.stdout.isatty():
            self._next = 0.0

    def text(self, left: float | None) -> str:
        """`12/60 done, 1 failed, 0:03:20 left`."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} done{failed}" + (f", {clock(left)} left" if left is not None else "")

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()
            self._width = 0


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
