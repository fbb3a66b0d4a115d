"""Files and folders that appear whole or not at all."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "check_output",
    "replace_whole",
    "write_bytes_whole",
    "write_folder_whole",
    "write_text_whole",
    "write_together",
    "write_whole",
]


def check_output(option: str, path: Path, *suffixes: str) -> None:
    """`ValueError` unless `path` can be a file, and ends in one of the suffixes where there are some."""
    if not path.parent.is_dir() or path.is_dir() or (suffixes and path.suffix not in suffixes):
        ends = f" that ends in {' or '.join(suffixes)}," if suffixes else ""
        raise ValueError(f"{option}: expected a file{ends} in a folder that exists, got {str(path)!r}")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(part)` a file beside `path`, then rename: a reader sees the old file or the new one, never half of one."""
    write_together({path: write})


def replace_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write_whole` where a link must not be followed: the file takes its place, and what it led to stays as it is."""
    _replace({path: write})


def write_together(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    """`write_whole` for files that belong together: none is replaced before all of them are on the disk."""
    _replace({path.resolve(): write for path, write in writers.items()})  # a link stays a link


def _replace(writers: Mapping[Path, Callable[[Path], Any]]) -> None:
    parts: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            parts[path] = Path(name)
            write(parts[path])
            with open(name, "rb") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            # mkstemp's files are for their owner alone
            kept = path.exists() and not path.is_symlink()
            os.chmod(name, path.stat().st_mode & 0o777 if kept else 0o666 & ~umask)
        for path, part in parts.items():
            os.replace(part, path)
    except BaseException:
        for part in parts.values():
            part.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for a text in UTF-8, its line ends as they are."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))


def write_bytes_whole(path: Path, data: bytes) -> None:
    """`write_whole` for what is made already, such as a figure."""
    write_whole(path, lambda part: part.write_bytes(data))


def write_folder_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(part)` fills a folder beside `path`, which then takes its place at once; the old one is removed.

    If `write` raises, the old folder is left as it was. Where the system cannot swap two folders, there is a moment
    without any.
    """
    path = path.resolve()
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        write(part)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, path.stat().st_mode & 0o777 if path.exists() else 0o777 & ~umask)
        if not path.exists():
            os.rename(part, path)
            return
        if not _swap(part, path):
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
            os.rename(path, old)  # an empty folder gives way
            try:
                os.rename(part, path)
            except BaseException:
                os.rename(old, path)
                raise
            part = old
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(one: Path, other: Path) -> bool:
    # Linux alone swaps names, and Python has no name for it.
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    at_here, exchange = -100, 2
    return bool(rename(at_here, os.fsencode(one), at_here, os.fsencode(other), exchange) == 0)
