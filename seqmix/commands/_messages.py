"""What commands tell on stderr: problems, warnings and mistakes, one line each."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["tell", "told"]


def told(program: str, action: Callable[[], int]) -> int:
    """The exit status of `action`; its mistakes and warnings are told in one line each."""
    try:
        with warnings.catch_warnings():
            from seqmix.leaderboard.records.store import TornLineWarning

            warnings.filterwarnings("always", category=TornLineWarning)
            warnings.showwarning = _show_warning
            return action()
    except BrokenPipeError:
        # Whoever read the table has seen enough; the interpreter must not write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, ImportError) and "pip install" not in str(error):
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2


def tell(problems: Iterable[str]) -> None:
    """Print what is wrong with lines of a file."""
    for problem in problems:
        print(f"seqmix leaderboard: {problem}", file=sys.stderr)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"seqmix leaderboard: warning: {message}", file=sys.stderr)
