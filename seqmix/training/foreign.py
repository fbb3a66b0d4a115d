"""Settings of somebody else that `seqmix fit` or `test` is about to read: of a run's folder, of a record, of a board.

Lightning's parser builds any class that a config names, reads files that it names in the place of one, and lets it say
how checkpoints are unpickled. Of others it gets none of that: keys that a run writes, classes behind the gate of
`seqmix._trust`, and for the trainer numbers and words.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from seqmix._suggest import unknown_name
from seqmix._trust import load_class, require_trust
from seqmix.models._specs import check_mixers, named
from seqmix.training.config.files import MODEL_ENTRIES, SECTIONS, Config, canonical, parse_value

__all__ = ["check_settings", "modules_named"]

_KEYS = ("seed_everything", "trainer", "model", "data", "pretrain", "test_after_fit", *MODEL_ENTRIES, *SECTIONS)
# A run has its own folder, and sends its checkpoints nowhere.
_PLACES = ("default_root_dir", "model_registry")
# Shipped configs have it, and it writes nothing.
_HARMLESS = "lightning.pytorch.callbacks.EarlyStopping"
_WORD = re.compile(r"[\w:,+-]*")


def check_settings(config: Config, trust: Iterable[str] | None, where: str) -> None:
    """`ValueError` for what a config must not say, unless the modules that it names are trusted.

    Args:
        config: as in a file.
        trust: modules beyond seqmix that it may name; None for a config of the user's own, which may say anything.
        where: what it is, for the message.
    """
    if trust is None:
        return
    config = canonical(config)
    for key in config:
        if key not in _KEYS:
            raise ValueError(f"{where}: {unknown_name('key of a run:', key, _KEYS)}")
    check_mixers(config.get("mixer"), trust, f"{where}: mixer")
    data = config.get("data")
    if isinstance(data, dict) and "class_path" in data:
        from seqmix.training.loading import task_class

        task_class(data["class_path"], trust)
        config["data"] = data.get("init_args")
    _check_trainer(config.pop("trainer", None) or {}, trust, f"{where}: trainer")
    _check_place(config.get("checkpoints"), f"{where}: checkpoints")
    _check_classes(config, trust, where)


def modules_named(config: Config) -> set[str]:
    """Modules of classes and mixers in a config: those of one that the user has handed over are trusted with that."""
    config = canonical(config)
    mixer = config.get("mixer")
    specs = [named(spec).get("name") if isinstance(spec, dict) else spec for spec in _listed(mixer)]
    mixers = {str(name).partition(":")[0] for name in specs if ":" in str(name)}
    return mixers | {name.rpartition(".")[0] for name in _classes(config, {})} - {""}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_trainer(trainer: Any, trust: Iterable[str], where: str) -> None:
    if not isinstance(trainer, dict):
        raise ValueError(f"{where}: expected arguments, got {trainer!r:.80}")
    for key, value in trainer.items():
        if key in _PLACES and value is not None:
            raise ValueError(f"{where}.{key}: expected none, a run has its own folder, got {value!r:.80}")
        if key == "callbacks":
            _check_callbacks(value or [], trust, f"{where}.callbacks")
            continue
        for item in _listed(value):
            if isinstance(item, dict) and "class_path" in item:
                _check_classes(item, trust, f"{where}.{key}")
            # In the place of a class a text is its path, or a file that says which.
            elif isinstance(item, dict | list) or (isinstance(item, str) and not _is_word(item)):
                raise ValueError(f"{where}.{key}: expected a number or a word, got {item!r:.80}")


def _check_callbacks(callbacks: Any, trust: Iterable[str], where: str) -> None:
    from lightning.pytorch import Callback

    for entry in _listed(callbacks):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: expected class_path and init_args, got {entry!r:.80}")
        if entry.get("class_path") != _HARMLESS:
            load_class(entry.get("class_path"), Callback, trust, where)
        _check_place(entry.get("init_args"), where)
        _check_classes(entry.get("init_args"), trust, where)


def _check_place(arguments: Any, where: str) -> None:
    if isinstance(arguments, dict) and arguments.get("dirpath") is not None:
        raise ValueError(f"{where}.dirpath: expected none, a run has its own folder, got {arguments['dirpath']!r:.80}")


def _check_classes(value: Any, trust: Iterable[str], where: str) -> None:
    for name in _classes(value, {}):
        require_trust(name.rpartition(".")[0], trust, where)


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None and not (text and os.path.lexists(text))


def _classes(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Every class that something in `value` names, also a text that is YAML: where any type goes, parsers read it."""
    if id(value) in seen:  # of an alias
        return
    if isinstance(value, dict | list):
        seen[id(value)] = value  # kept, so that no other takes its id
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).rpartition(".")[2] == "class_path":
                yield str(item)
            yield from _classes(item, seen)
    elif isinstance(value, list):
        for item in value:
            yield from _classes(item, seen)
    elif isinstance(value, str):
        try:
            parsed = parse_value(value)
        except ValueError:
            return
        if not isinstance(parsed, str):
            yield from _classes(parsed, seen)
