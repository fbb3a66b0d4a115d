"""KEY=VALUE on top of a config: as people type it, and as code says it that has the value."""

import json
from copy import deepcopy
from typing import Any, Self

from seqmix.training.config.files import Config, parse_value, set_by_path

__all__ = ["Change", "changed"]


class Change(str):
    """KEY=VALUE, as a record has it, of a value that is there: nobody reads it from the text again."""

    key: str
    value: Any

    def __new__(cls, key: str, value: Any, text: str | None = None) -> Self:
        change = super().__new__(cls, f"{key}={json.dumps(value) if text is None else text}")
        change.key, change.value = key, value
        return change

    def __getnewargs__(self) -> tuple[str, Any, str]:  # type: ignore[override]
        return self.key, self.value, self.partition("=")[2]


def changed(settings: Config, change: str) -> Config:
    """`settings` with a change; `ValueError` for text that is none."""
    key, equals, text = change.partition("=")
    if not key or not equals or key.startswith("-"):
        raise ValueError(f"--set: expected KEY=VALUE such as trainer.max_steps=500, got {change!r}")
    if isinstance(change, Change):
        return set_by_path(settings, change.key, deepcopy(change.value))
    return set_by_path(settings, key, parse_value(text))
