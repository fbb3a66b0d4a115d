"""What a check of a submission has found, sealed, so that its author cannot write it.

`check.json` lies in a folder that somebody else has filled. It counts if it is of the files that lie there now, every
byte of them, and if its seal was made with the reader's own key: an HMAC with the text in `SEQMIX_CHECK_KEY`, or else
with a random key in `~/.config/seqmix/check.key`, which the first check makes. Who has another key, or doubts, checks
again: `seqmix leaderboard validate FOLDER --trust MODULE` makes the run itself, and seals what comes of it.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

__all__ = ["CHECK", "folder_digest", "holds", "sealed"]

CHECK = "check.json"
_VARIABLE = "SEQMIX_CHECK_KEY"
_LEFT_OUT = ("__pycache__", ".git")  # trusted code is imported from its source


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder but the check's own; of links, of where they lead."""
    total = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*files, *links]):
            path = Path(place, name)
            inner = path.relative_to(folder).as_posix()
            if inner == CHECK:
                continue
            kind = "link" if path.is_symlink() else "file" if path.is_file() else "other"
            content = os.readlink(path).encode() if kind == "link" else _content(path) if kind == "file" else b""
            total.update(json.dumps([inner, kind, hashlib.sha256(content).hexdigest()]).encode())
    return total.hexdigest()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with a seal of this reader's key, which is made if there is none."""
    return content | {"seal": _seal(content, _key() or _new_key())}


def holds(content: dict[str, Any]) -> bool:
    """Whether `content` was sealed as it is, with this reader's key."""
    key, seal = _key(), content.get("seal")
    if key is None or not isinstance(seal, str):
        return False
    return hmac.compare_digest(_seal(content, key).encode(), seal.encode())


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _seal(content: dict[str, Any], key: bytes) -> str:
    text = json.dumps({name: value for name, value in content.items() if name != "seal"}, sort_keys=True)
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _key() -> bytes | None:
    if os.environ.get(_VARIABLE):
        return os.environ[_VARIABLE].encode()
    try:
        return _place().read_bytes() or None
    except OSError:
        return None


def _new_key() -> bytes:
    key = secrets.token_hex(32).encode()
    place = _place()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key)
    except OSError as error:
        raise ValueError(
            f"cannot keep the key of checks in {place}: {error.strerror}; {_VARIABLE} may hold one"
        ) from None
    return key


def _place() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "seqmix", "check.key")
