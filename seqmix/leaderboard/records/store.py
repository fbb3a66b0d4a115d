"""Files of records: one run to a line, appended whole or not at all. `seqmix.leaderboard.records.schema` says what
is in one.

Writers hold a lock on the file (`flock`), write a record with one call at the end of the file, and wait until it is
on the disk. What a writer that died has left behind, a last line without its end, is no record: readers leave it out
with a warning, and the next writer removes it.
"""

import errno
import gc
import json
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqmix._posix import fcntl
from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.schema import MAX_BYTES, Record, plain, upgraded

__all__ = ["RunStore", "TornLineWarning", "latest", "numbered_runs", "read_runs", "scan_runs"]

Key = tuple[str, int]

# Bytes that are read, and lines that are parsed, at a time.
_BLOCK, _TOGETHER = 1 << 22, 500
_TOLD = 1000  # problems of a file that are kept
_BEGINNING = b'{"schema_version"'  # of every record that is written here


class TornLineWarning(UserWarning):
    """The last line of a file is the beginning of a record that was never finished."""


def read_runs(path: str | os.PathLike[str]) -> list[Record]:
    """All records of a file, in the order in which they were written.

    Raises:
        ValueError: lines that are no records, each with file, line and field, or a file that cannot be read.
    """
    records, problems = scan_runs(path)
    if problems:
        shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise ValueError("expected one record a line, got\n  " + "\n  ".join(shown))
    return records


def scan_runs(path: str | os.PathLike[str]) -> tuple[list[Record], list[str]]:
    """The good records of a file, and what is wrong with the other lines, as `FILE:LINE: field: what`."""
    store = _scanned(path)
    return store.records, store.problems


def numbered_runs(path: str | os.PathLike[str]) -> tuple[list[tuple[int, Record]], list[str]]:
    """As `scan_runs`, each record with the number of its line."""
    store = _scanned(path)
    return [(store._keys[record["id"], record["attempt"]], record) for record in store.records], store.problems


def _scanned(path: str | os.PathLike[str]) -> "RunStore":
    store = RunStore(path)
    try:
        with store.path.open("rb") as file, _uncollected():
            rest = b""
            while block := file.read(_BLOCK):
                rest = store._take(rest + block, last=False)
    except OSError as error:
        raise ValueError(f"{path}: expected a file of records, cannot read it: {error.strerror}") from None
    store._take(rest, last=True)
    return store


def latest(records: Iterable[Record]) -> list[Record]:
    """One record of each run: its last attempt."""
    runs: dict[str, Record] = {}
    for record in records:
        if record["id"] not in runs or record["attempt"] > runs[record["id"]]["attempt"]:
            runs[record["id"]] = record
    return list(runs.values())


class RunStore:
    """A file of records that many processes append to.

    Args:
        path: the file; made with the first record, its folder must exist.

    Attributes:
        records: the good records seen so far, by `refresh` or `append`.
        problems: what was wrong with other lines.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        self.records: list[Record] = []
        self.problems: list[str] = []
        self._keys: dict[Key, int] = {}
        self._offset = self._line = 0
        self._dropped = 0  # bytes of a line without an end that is too long to be kept
        self._file: tuple[int, int] | None = None

    def refresh(self) -> list[Record]:
        """Read what was appended since the last look, and return all records."""
        if self.path.exists():
            with self._locked(create=False) as descriptor:
                self._catch_up(descriptor)
        return self.records

    def require_store(self) -> None:
        """Raise `ValueError` where a file is there that is none: nothing is added to it, and nothing taken away."""
        if self.path.exists():
            with self._locked(create=False) as descriptor:
                self._require_store(self._catch_up(descriptor))

    def _require_store(self, rest: bytes) -> None:
        found = [] if self.records else self.problems[:1]
        if self._dropped and not self.records:
            found.append(f"{self.path}:{self._line + 1}: expected at most {MAX_BYTES} bytes")
        if rest and _is_object(rest):
            found += problems_of(json.loads(rest), older=True, line=rest)[: not self.records]
        if found:
            raise ValueError(f"{self.path} is no file of records: {found[0]}")
        # What is left of a line beyond the limit, `_dropped`, is not taken away, whatever it is.
        if rest and not self._dropped and not _is_object(rest) and rest[: len(_BEGINNING)] != _BEGINNING[: len(rest)]:
            shown = rest[:40].decode(errors="replace")
            raise ValueError(f"{self.path} ends with what is no record, nor the beginning of one: {shown!r}")

    def append(self, record: Record) -> None:
        """Write one record.

        Raises:
            ValueError: a field that is unknown, missing or wrong, an (id, attempt) that the file has already, a
                record of more than `MAX_BYTES`, or a file that is none of records.
            OSError: the disk is full; the file is as it was.
        """
        found = problems_of(record)
        if found:
            raise ValueError(f"record for {self.path}: {'; '.join(found)}")
        line = json.dumps(plain(record), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > MAX_BYTES:
            raise ValueError(f"record for {self.path}: expected at most {MAX_BYTES} bytes, got {len(line)}")
        with self._locked(create=True) as descriptor:
            rest = self._catch_up(descriptor)
            self._require_store(rest)
            key = record["id"], record["attempt"]
            if key in self._keys:
                raise ValueError(
                    f"record for {self.path}: id {key[0]}, attempt {key[1]} stands in line {self._keys[key]} already"
                )
            size = self._offset + len(rest)
            if self._dropped or (rest and _is_object(rest)):
                line = b"\n" + line  # somebody's editor has dropped the last line's end
            elif rest:
                self._warn(self._line + 1, "it is removed")
                size = self._offset
                os.ftruncate(descriptor, size)
            written = os.write(descriptor, line)
            if written != len(line):
                os.ftruncate(descriptor, size)
                raise OSError(errno.ENOSPC, "no space for a record", str(self.path))
            os.fsync(descriptor)
            self._catch_up(descriptor)

    @contextmanager
    def _locked(self, *, create: bool) -> Iterator[int]:
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if create else 0)
        while True:
            new = not self.path.exists()
            descriptor = os.open(self.path, flags, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                here = os.fstat(descriptor)
                # While this one waited, the file may have been replaced by another.
                if not self.path.exists() or not os.path.samestat(here, self.path.stat()):
                    continue
                if self._file != (here.st_dev, here.st_ino) or here.st_size < self._offset:
                    self._forget()
                    self._file = here.st_dev, here.st_ino
                if new:
                    _sync_folder(self.path.parent)
                yield descriptor
                return
            finally:
                os.close(descriptor)

    def _catch_up(self, descriptor: int) -> bytes:
        rest = b""
        while block := os.pread(descriptor, _BLOCK, self._offset + len(rest)):
            rest = self._take(rest + block, last=False)
        return rest

    def _take(self, data: bytes, *, last: bool) -> bytes:
        # Complete lines become records or problems; what follows the last of them is returned.
        *lines, rest = data.split(b"\n")
        self._offset += len(data) - len(rest)
        if self._dropped and (lines or last):
            self._line += 1
            self._tell(f"expected at most {MAX_BYTES} bytes, got {self._dropped + len(lines[0] if lines else rest)}")
            lines, rest, self._dropped = lines[1:], rest if lines else b"", 0
        if len(rest) > MAX_BYTES:
            self._dropped, self._offset, rest = self._dropped + len(rest), self._offset + len(rest), b""
        if last and rest:
            if _is_object(rest):
                lines.append(rest)
            else:
                self._warn(self._line + len(lines) + 1, "it is left out")
        for start in range(0, len(lines), _TOGETHER):
            some = lines[start : start + _TOGETHER]
            values = _values(some) or [None] * len(some)
            for line, value in zip(some, values, strict=True):
                self._line += 1
                if line.strip():
                    self._take_line(line, value)
        return rest

    def _tell(self, problem: str) -> None:
        if len(self.problems) < _TOLD:
            self.problems.append(f"{self.path}:{self._line}: {problem}")
        elif len(self.problems) == _TOLD:
            self.problems.append(f"{self.path}: more lines are wrong, which are not told")

    def _take_line(self, line: bytes, record: Any) -> None:
        size = len(line) + 1
        if size > MAX_BYTES:
            self._tell(f"expected at most {MAX_BYTES} bytes, got {size}")
            return
        if record is None:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                self._tell(f"not JSON: {error}")
                return
        found = problems_of(record, older=True, line=line)
        if not found:
            record = upgraded(record)
            key = record["id"], record["attempt"]
            if key not in self._keys:
                self._keys[key] = self._line
                self.records.append(record)
                return
            found = [f"id: {key[0]}, attempt {key[1]} stands in line {self._keys[key]} already"]
        for problem in found:
            self._tell(problem)

    def _warn(self, line: int, what: str) -> None:
        warnings.warn(
            f"{self.path}:{line}: the last line is the beginning of a record that was never finished; {what}",
            TornLineWarning,
            stacklevel=4,
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    # Records have no cycles, and a search for them looks at millions of objects again and again.
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _values(lines: list[bytes]) -> list[Any] | None:
    # One call for many lines: Python's parser shares keys within a call, which halves time and memory. The mark between
    # two lines, which nobody can have written into one, shows that each is a value by itself.
    if max(map(len, lines)) >= MAX_BYTES:
        return None
    mark = f'"{secrets.token_hex(8)}"'
    try:
        found = json.loads(b"[" + f",{mark},".encode().join(lines) + b"]")
    except (ValueError, RecursionError):
        return None
    apart = len(found) == 2 * len(lines) - 1 and all(f'"{item}"' == mark for item in found[1::2])
    return found[::2] if apart else None


def _is_object(line: bytes) -> bool:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _sync_folder(folder: Path) -> None:
    # A new file's name is on the disk only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
