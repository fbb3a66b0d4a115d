"""What commands tell on stderr: problems, warnings and mistakes, one line each; and the exit status that goes with it.

0: done, or whoever reads the output has seen enough; 1: what was looked at is not right; 2: a mistake in the arguments,
or a file that cannot be read or written; 130: a signal ended the command; 141: training ended since nobody reads what
it says.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from seqmix._posix import NotHereError
from seqmix._signals import Interrupted, interruptible

__all__ = ["exits", "silence", "tell", "torn_lines_told"]

Main = Callable[[Any], int]


def exits(program: str = "seqmix") -> Callable[[Main], Main]:
    """Makes an exit status of what a command's `main` raises, told in one line that begins with `program`.

    What is no mistake of the user's, such as an import that fails without a word on how to install it, keeps its
    traceback.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(argv: Any) -> int:
            try:
                try:
                    status = _told(main, argv, program)
                finally:
                    sys.stdout.flush(), sys.stderr.flush()
                return status
            except BrokenPipeError:
                silence()
                return 0

        return run

    return decorate


def silence() -> None:
    """What is still to be written goes nowhere: nobody reads it, and the interpreter must not try when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _told(main: Main, argv: Any, program: str) -> int:
    try:
        with interruptible():
            return main(argv)
    except (KeyboardInterrupt, Interrupted) as stop:
        print(f"{program}: {str(stop) or 'interrupted by SIGINT'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, ImportError, OSError, NotHereError) as error:
        if isinstance(error, ImportError) and "pip install" not in str(error):
            raise
        if isinstance(error, OSError) and error.errno is None:
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
    except (MemoryError, RuntimeError) as error:
        # So says torch that there is no memory.
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        print(f"{program}: error: not enough memory: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


@contextmanager
def torn_lines_told() -> Iterator[None]:
    """What warns of half-written lines in files of records says so in one line, every time."""
    from seqmix.leaderboard.records.store import TornLineWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=TornLineWarning)
        warnings.showwarning = _show_warning
        yield


def tell(problems: Iterable[str]) -> None:
    """Print what is wrong with lines of a file."""
    for problem in problems:
        print(f"seqmix leaderboard: {problem}", file=sys.stderr)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"seqmix leaderboard: warning: {message}", file=sys.stderr)
