"""How far a sweep is: one line, redrawn on a terminal."""

import sys
from collections.abc import Iterable

from seqmix._live_line import LiveLine, clock

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
        self.total, self.jobs = total, jobs
        self.done = self.failed = 0
        self._seconds: dict[str, list[float]] = {}
        self._line = LiveLine(refresh, lines_every, at_once=False)

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
        if not self._line.due:
            return
        line = self.text(self.left(waiting, [(name, seconds) for name, _, seconds in running]))
        line += "".join(f"; {description} ({clock(seconds)})" for _, description, seconds in running)
        self._line.show(line)

    def tell(self, line: str) -> None:
        """Print a line above the progress."""
        self.clear()
        print(line, flush=True)
        if sys.stdout.isatty():
            self._line.hurry()

    def text(self, left: float | None) -> str:
        """`12/60 done, 1 failed, 0:03:20 left`."""
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} done{failed}" + (f", {clock(left)} left" if left is not None else "")

    def clear(self) -> None:
        """Remove the line from the terminal."""
        self._line.clear()
