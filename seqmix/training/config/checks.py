"""What is wrong with a config is told by its name before anything is imported: keys, names, arguments, types."""

from collections.abc import Iterable, Mapping
from typing import Any

from seqmix._annotations import misfit, takes_as_text
from seqmix._suggest import unknown_name
from seqmix.training.config.arguments import Part, parts_of, section_part
from seqmix.training.config.files import MODEL_ENTRIES, SECTIONS, Config

__all__ = ["KEYS", "as_meant", "check_config", "check_option"]

KEYS = ("seed_everything", "trainer", "model", "data", "pretrain", "test_after_fit", *MODEL_ENTRIES, *SECTIONS)
_OPTIONS = ("config", "ckpt_path", "run_dir", "trust", "print_config", "help")
# What others call arguments.
_SYNONYMS = {
    "learning_rate": "lr",
    "rate": "lr",
    "wd": "weight_decay",
    "batch": "batch_size",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "epochs": "max_epochs",
    "seed": "seed_everything",
    "width": "d_model",
    "dim": "d_model",
    "hidden_size": "d_model",
    "layers": "n_layers",
    "num_layers": "n_layers",
    "depth": "n_layers",
    "heads": "n_heads",
    "num_heads": "n_heads",
    "gpus": "devices",
    "gpu": "accelerator",
    "cpu": "accelerator",
    "device": "accelerator",
    "length": "train_length",
    "clip": "gradient_clip_val",
}
_AT_LEAST_0 = ("lr", "weight_decay")
_POSITIVE = ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")
_COUNTS = ("d_model", "n_layers", "batch_size")
_PRECISIONS = (
    *("64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"),
    *("transformer-engine", "transformer-engine-float16"),
)
_TESTED = ("last", "best", "none")


def check_config(config: Config) -> None:
    """`ValueError` for a key, name or argument that does not exist, with the nearest ones, or a value of a wrong type.

    Values that a class refuses for other reasons are told when it is built.
    """
    for key in config:
        if key not in KEYS:
            raise unknown_name("key of the config:", key, KEYS)
    for key in ("trainer", "model"):
        if not isinstance(config.get(key) or {}, Mapping):
            raise ValueError(f"{key}: expected arguments, got {config[key]!r:.80}")
    data = config.get("data")
    if "data" in config and not (isinstance(data, Mapping) and {"name", "class_path"} & data.keys()):
        raise ValueError(f"data: expected the name of a task with its arguments, or a class_path, got {data!r:.80}")
    parts = parts_of(config)
    for part, given in parts:
        known = {each.name: each for each in part.arguments or ()}
        if part.arguments is None:
            continue
        for key, value in given.items():
            if key in part.also:
                continue
            if key not in known:
                meant = _meant(key, known, (each for each, _ in parts if each is not part))
                raise unknown_name(f"argument of {part.owner}:", key, {*known, *part.also}, meant)
            expected = misfit(known[key].annotation, value) if _ours(part) else None
            if part.path == "optimizer" and key in _AT_LEAST_0 and isinstance(value, int | float) and value < 0:
                expected = "at least 0"
            if key in _COUNTS and isinstance(value, int) and value < 1:
                expected = "at least 1"
            if expected is not None:
                where = f"{part.owner}." if part.owner == part.path else f"{part.owner}: "
                raise ValueError(f"{where}{key} must be {expected}, got {value!r}")
    _check_trainer(config.get("trainer"))
    if config.get("test_after_fit", "last") not in _TESTED:
        raise ValueError(f"test_after_fit must be one of {', '.join(_TESTED)}, got {config['test_after_fit']!r}")


def check_option(path: str, config: Config) -> None:
    """`ValueError` for an option of the command line, without its `--`, that stands nowhere; `config` says for what."""
    top, _, argument = path.removesuffix("+").partition(".")
    if top not in (*KEYS, *_OPTIONS):
        known = [*KEYS, *_OPTIONS]
        named = parts_of({"optimizer": "adamw", "schedule": "cosine"} | config)
        meant = _meant(path.rpartition(".")[2], (), [part for part, _ in named] + _always())
        raise unknown_name("option", f"--{path}", [f"--{key}" for key in known], meant)
    if top in ("trainer", "model") and argument:
        part = section_part(top)
        known = [each.name for each in part.arguments or ()]
        if argument.partition(".")[0] not in known:
            others = [each for each, _ in parts_of(config) if each.path != top] + _always()
            meant = [f"--{top}.{name}" for name in _meant(argument, known, ()) if name in known]
            meant = meant or _meant(argument, (), others)
            raise unknown_name("option", f"--{path}", [f"--{top}.{name}" for name in known], meant)


def as_meant(path: str, value: Any, text: str) -> Any:
    """The value of an option: as YAML reads it, or, where the trainer or model takes text alone, as it was typed."""
    top, _, argument = path.partition(".")
    if top not in ("trainer", "model") or isinstance(value, str):
        return value
    known = {each.name: each.annotation for each in section_part(top).arguments or ()}
    return text if takes_as_text(known.get(argument), value) else value


def _always() -> list[Part]:
    return [section_part("model"), section_part("trainer")]


def _meant(name: str, known: Iterable[str], others: Iterable[Part]) -> list[str]:
    """What an argument that does not exist stands for: one of `known`, or options of other parts of the config."""
    synonym = _SYNONYMS.get(name, name)
    if synonym in known:
        return [synonym]
    if synonym in KEYS:
        return [f"--{synonym}"]
    found = [f"--{part.path}.{synonym}" for part in others if synonym in {each.name for each in part.arguments or ()}]
    return list(dict.fromkeys(found))


def _ours(part: Part) -> bool:
    # Annotations of other libraries do not always say what they take.
    return part.target.startswith(("seqmix.", "lightning."))


def _check_trainer(trainer: Any) -> None:
    if not isinstance(trainer, Mapping):
        return
    for name in _POSITIVE:  # an interval that never ends: Lightning would divide by it
        value = trainer.get(name)
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"trainer.{name}: expected a positive number, got {value!r}")
    clip = trainer.get("gradient_clip_val")
    if isinstance(clip, int | float) and not clip >= 0:
        raise ValueError(f"trainer.gradient_clip_val: expected a number of at least 0, got {clip!r}")
    if str(trainer.get("precision") or "32") not in _PRECISIONS:
        raise ValueError(f"trainer.precision must be one of {', '.join(_PRECISIONS)}, got {trainer['precision']!r}")
    if trainer.get("default_root_dir"):
        raise ValueError("trainer.default_root_dir: a run has its folder from --run_dir, or runs/CONFIG/NUMBER")
