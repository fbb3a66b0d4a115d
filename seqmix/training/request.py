"""What one `seqmix fit`, `validate`, `test` or `predict` is to do: one config, whole and checked, and where it runs.

It is made before torch or Lightning are imported, so that a mistake in the words is told at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmix._trust import import_trusted, links_out
from seqmix.tasks.registry import list_tasks
from seqmix.training.config import runs
from seqmix.training.config.checks import check_config
from seqmix.training.config.files import Config, load_config
from seqmix.training.config.options import Options, read_options
from seqmix.training.continuing import check_value

__all__ = ["COMMANDS", "Request", "read_request"]

COMMANDS = ("fit", "validate", "test", "predict")
# What a run that goes on takes from its checkpoint, and no checkpoint says; with defaults.
_KEPT_BY_RUNS: dict[str, Any] = {"seed_everything": 0, "pretrain": None}


@dataclass
class Request:
    """One command, ready to be carried out.

    Attributes:
        command: one of `COMMANDS`.
        config: as in a file, without what training alone is told.
        name: of the config, by which new runs are called.
        checkpoint: to go on from or to measure; None for new weights.
        folder: that the run writes in; None for the next one under `runs/NAME`.
        test_after_fit: weights to test when training is done, `last`, `best` or `none`.
        pretrain: the section of that name.
        print_config: whether to print the config with every default instead.
    """

    command: str
    config: Config
    name: str = "run"
    checkpoint: Path | None = None
    folder: Path | None = None
    test_after_fit: str = "last"
    pretrain: Any = None
    print_config: bool = field(default=False, kw_only=True)

    @classmethod
    def of(cls, command: str, config: Config, **place: Any) -> "Request":
        """The request of a config; `ValueError` for what `check_config` finds, and without a task or a layer."""
        check_config(config)
        config = dict(config)
        staged = {key: config.pop(key) for key in ("test_after_fit", "pretrain") if key in config}
        if not place.get("print_config"):
            if "data" not in config:
                raise ValueError(
                    f"data: expected a task ({', '.join(list_tasks())}) or a --config that has one, got none; "
                    "seqmix fit --config parity has both"
                )
            if "mixer" not in config:
                data = config["data"]
                task = data["name"] if isinstance(data, dict) and "name" in data else "parity"
                raise ValueError(
                    "mixer: expected a layer (seqmix list mixers) or a --config that has one, got none; "
                    f"seqmix {command} --data {task} --mixer bd-lru has both"
                )
        return cls(command, config, **place, **(staged if command == "fit" else {}))


def read_request(command: str, words: Sequence[str]) -> Request:
    """What the words of a command ask for; `ValueError` in one line for whatever is wrong with them."""
    options = read_options(words)
    import_trusted(options.trust)
    name, checkpoint, folder = _place(command, options)
    config, made = options.config, _made_with(checkpoint)
    if made is not None and (not options.configs or options.ckpt_path in (None, "last", "best")):
        # A run goes on with what it was made with: `--config NAME` then says which run, options change it.
        from seqmix.training.foreign import check_settings, modules_named

        trust = {*options.trust, *modules_named(config)}
        check_settings(made, trust, f"config.yaml of the run of {checkpoint}")
        config = made
    config = options.changed(config)
    if command == "fit" and made is not None:
        for key in _KEPT_BY_RUNS:
            check_value(key, *(each.get(key, _KEPT_BY_RUNS[key]) for each in (made, config)))
    place = {"name": name, "checkpoint": checkpoint, "folder": folder, "print_config": options.print_config}
    return Request.of(command, config, **place)


def _place(command: str, options: Options) -> tuple[str, Path | None, Path | None]:
    """The name of the run, its checkpoint, and the folder it writes in.

    A resumed run continues in its own folder; tests write beside the checkpoint that they test.
    """
    given = Path(options.configs[-1]) if options.configs else Path("run")
    name = given.resolve().parent.name if given.is_dir() else given.stem  # a run is called as its config was
    which = options.ckpt_path or (None if command == "fit" or options.print_config else "last")
    checkpoint = None
    if which is not None:
        also = ("pretraining",) if command == "fit" and which == "last" else ()
        checkpoint = runs.find_checkpoint(which, name if options.configs else None, options.run_dir, also=also)
    run = runs.run_of(checkpoint) if checkpoint is not None else None
    folder = Path(options.run_dir) if options.run_dir else run
    if checkpoint is not None and folder is not None:
        for link in links_out(folder):  # what is written there would go where it leads
            raise ValueError(f"ckpt_path: {link} is a link that leads out of the folder of the run")
    if run is not None and not options.configs:
        name = run.parent.name or run.name
    if checkpoint is None and folder and any(folder.glob("checkpoints/*.ckpt")):
        raise ValueError(
            f"run_dir: {folder} has checkpoints; --ckpt_path last continues that run, a new one needs another folder"
        )
    own = None if checkpoint is not None or folder is None else (folder / "config.yaml").resolve()
    if command == "fit" and own in [Path(given).resolve() for given in options.configs]:
        raise ValueError(f"run_dir: a run writes its config to {own}, which is yours; it needs another folder")
    return name, checkpoint, folder


def _made_with(checkpoint: Path | None) -> Config | None:
    """The config of the run that a checkpoint lies in."""
    run = None if checkpoint is None else runs.run_of(checkpoint)
    path = None if run is None else run / "config.yaml"
    return load_config(str(path), within=run) if path is not None and path.is_file() else None
