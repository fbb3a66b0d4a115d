"""Limits of time that hold on a slow or a busy processor: in units of a piece of work that is timed beside them."""

import time

__all__ = ["pace"]

_SECONDS = 0.045  # of `_work` on the quiet machine of 2.5 GHz that the limits were set on


def pace() -> float:
    """How many times slower than that machine this one is now: at least 1, in processor time of plain Python."""
    taken = []
    for _ in range(3):
        begin = time.process_time()
        _work()
        taken.append(time.process_time() - begin)
    return max(1.0, min(taken) / _SECONDS)


def _work() -> int:
    seen: dict[str, int] = {}
    for number in range(150_000):
        key = str(number % 1000)
        seen[key] = seen.get(key, 0) + number
    return len(seen)
