"""A line that tells how far something is: redrawn on a terminal, written now and then into a file."""

import shutil
import sys
import time

__all__ = ["LiveLine", "clock"]


class LiveLine:
    """One line of the terminal.

    Args:
        refresh: seconds between two drawings on a terminal.
        lines_every: seconds between two lines elsewhere.
        at_once: whether the first is due now, elsewhere too.
    """

    def __init__(self, refresh: float, lines_every: float, at_once: bool = True) -> None:
        self.refresh, self.lines_every = refresh, lines_every
        self._next = 0.0 if at_once or sys.stdout.isatty() else time.monotonic() + lines_every
        self._width = 0

    @property
    def due(self) -> bool:
        """Whether it is time to show it again."""
        return time.monotonic() >= self._next

    def hurry(self) -> None:
        """Make it due."""
        self._next = 0.0

    def show(self, line: str) -> None:
        """Draw it, cut to the width of the terminal, or write it."""
        if sys.stdout.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\r" + line.ljust(self._width))
            self._width = len(line)
            self._next = time.monotonic() + self.refresh
        else:
            sys.stdout.write(line + "\n")
            self._next = time.monotonic() + self.lines_every
        sys.stdout.flush()

    def clear(self) -> None:
        """Remove it from the terminal."""
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()
            self._width = 0


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
