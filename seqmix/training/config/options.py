"""Options of the command line, read into one config: registry entries, sections and Lightning's own alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seqmix.training.config.checks import KEYS, as_meant, check_option
from seqmix.training.config.files import FOLDER, MODEL_ENTRIES, Config, load_config, merge, parse_value, set_by_path

__all__ = ["Options", "read_options"]


@dataclass
class Options:
    """What the words of a command say.

    Attributes:
        config: of the configs named, merged.
        changes: to it, by path.
        configs: their names.
        trust: modules that configs of others may name.
        ckpt_path, run_dir: as typed.
        print_config: whether to print what they come to.
    """

    config: Config = field(default_factory=dict)
    changes: list[tuple[str, Any]] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)
    ckpt_path: str | None = None
    run_dir: str | None = None
    print_config: bool = False

    def changed(self, config: Config) -> Config:
        """`config` with the changes."""
        for path, value in self.changes:
            config = _changed(config, path, value)
        return config


def read_options(words: Sequence[str]) -> Options:
    """The options of `seqmix fit` and its like; `ValueError` for one that does not exist, with the nearest ones."""
    options, unread = Options(), list[tuple[str, str]]()
    rest = list(words)
    while rest:
        option = rest.pop(0)
        key, equals, text = option.partition("=")
        key = {"-c": "--config"}.get(key, key)
        if not key.startswith("--"):
            near = f"; did you mean --config {option}?" if (FOLDER / f"{option}.yaml").is_file() else ""
            raise ValueError(f"expected an option that starts with --, got {option!r}{near}")
        path = key[2:]
        if path == "print_config":
            options.print_config = True
            continue
        if not equals and rest and not rest[0].startswith("--"):
            text, equals = rest.pop(0), "="
        if path.startswith("model.") and path.split(".")[1] in MODEL_ENTRIES:
            path = path.removeprefix("model.")
        if not equals and path.partition(".")[0] in (*KEYS, "config", "trust", "ckpt_path", "run_dir"):
            raise ValueError(f"{key}: expected a value")
        if path == "config":
            options.config = merge(options.config, load_config(text))
            options.configs.append(text)
        elif path == "trust":
            options.trust.append(text)
        elif path in ("ckpt_path", "run_dir"):
            setattr(options, path, text)
        else:
            unread.append((path, text))
    for path, text in unread:
        check_option(path, options.config)
        options.changes.append((path, as_meant(path, parse_value(text), text)))
    return options


def _changed(config: Config, path: str, value: Any) -> Config:
    """`set_by_path`, and what Lightning's options can say beside: `trainer.callbacks+` and arguments of a class."""
    parts = path.removesuffix("+").split(".")
    if parts[0] == "trainer" and len(parts) > 1:
        before = (config.get("trainer") or {}).get(parts[1])
        if path.endswith("+"):
            entry = {"class_path": value} if isinstance(value, str) else value
            value = [*(before if isinstance(before, list) else [] if before is None else [before]), entry]
        elif len(parts) > 2 and parts[2] not in ("class_path", "init_args", "dict_kwargs"):
            parts.insert(2, "init_args")
        if len(parts) > 2 and isinstance(before, str):
            config = set_by_path(config, f"trainer.{parts[1]}", {"class_path": before})
    return set_by_path(config, ".".join(parts), value)
