"""Files of computations, a JSON line for each, written whole: what a file has is not computed again."""

import datetime
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqmix._bounded import MAX_JSON, read_text
from seqmix._posix import fcntl

__all__ = ["appending", "read_lines", "stamped"]

Line = dict[str, Any]


def read_lines(path: Path, fields: Collection[str]) -> list[Line]:
    """The lines of a file; one that has not these fields is a `ValueError` that names it.

    A last line without its end, which a run that was killed leaves behind, is left out.
    """
    lines = []
    *whole, _ = read_text(path, MAX_JSON).split("\n")
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(line, dict) or set(line) != set(fields):
            raise ValueError(f"{path}:{number}: expected the fields {', '.join(sorted(fields))}, got others")
        lines.append(line)
    return lines


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Line], None]]:
    """What appends a line; one run writes into a file at a time, and half a line of one that was killed goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--store: another run of a study writes into {path}") from None
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)

        def append(line: Line) -> None:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()

        yield append


def stamped(repro: Line) -> Line:
    """Facts of the code that computes, with the time of now."""
    return repro | {"utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
