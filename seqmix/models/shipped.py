"""Models that come with seqmix: small trained networks, each with a proof that it answers words of every length.

A folder each, as `save_pretrained` writes it, with `certificate.json` and `about.json`: a line, the task, the command
that trained it. `seqmix:NAME` stands for it wherever a folder of a model does.
"""

import json
from pathlib import Path
from typing import Any

from seqmix._suggest import unknown_name

__all__ = ["PREFIX", "about_shipped", "certificate_of", "is_shipped", "list_models", "shipped_folder"]

PREFIX = "seqmix:"
_FOLDER = Path(__file__).parent / "weights"


def list_models() -> list[str]:
    """Names, sorted: `from_pretrained("seqmix:a5")` takes `"a5"`."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/about.json"))


def is_shipped(name: Any) -> bool:
    """Whether `name` is `seqmix:NAME`."""
    return isinstance(name, str) and name.startswith(PREFIX)


def shipped_folder(name: str) -> Path:
    """Where `seqmix:NAME` lies; `ValueError` with the nearest names if there is none."""
    short = name.removeprefix(PREFIX)
    if short not in list_models():
        raise unknown_name("model", short, list_models())
    return _FOLDER / short


def about_shipped(name: str) -> dict[str, Any]:
    """`text`, one line; `task`, its name and arguments; `command`, which trained it."""
    about: dict[str, Any] = json.loads((shipped_folder(name) / "about.json").read_text())
    return about


def certificate_of(name: str) -> Path:
    """The file that `seqmix certify --verify` checks."""
    return shipped_folder(name) / "certificate.json"
