"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["write_text_whole", "write_whole"]


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """`write(part)` a file beside `path`, then rename: a reader sees the old file or the new one, never half of one."""
    path = path.resolve()  # a link stays a link
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        # mkstemp's files are for their owner alone
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for a text in UTF-8, its line ends as they are."""
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline=""))
