"""SIGINT and SIGTERM end every command alike: with a sentence and status 130, at a place where nothing is lost."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interrupted", "handled_signals", "interruptible", "signal_name"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked a command to end. No `Exception`, so that nothing takes it for a failure of its own."""


def signal_name(number: int) -> str:
    """`SIGTERM` for 15."""
    return signal.Signals(number).name


@contextmanager
def handled_signals(handle: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """`handle(number)` is called for both signals inside; gives what puts the earlier handlers back before the end.

    Processes that are forked inside, such as workers that load data, act on a signal as if there were no handler.
    Threads other than the main one have no signals.
    """
    owner = os.getpid()
    previous: dict[int, Any] = {}

    def act(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            handle(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            previous[number] = signal.signal(number, act)
    try:
        yield restore
    finally:
        restore()


@contextmanager
def interruptible() -> Iterator[None]:
    """Both signals raise `Interrupted` inside, wherever the program is."""

    def end(number: int) -> None:
        raise Interrupted(f"interrupted by {signal_name(number)}")

    with handled_signals(end):
        yield
