"""What the command line adds to a trainer: the config in the run's folder, and whether anything has begun."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from seqmix._files import write_text_whole
from seqmix.training.config.files import SECTIONS

__all__ = ["FirstBatch", "SaveConfig", "plain"]

# Of a run's config.yaml, which every subcommand reads.
_KEPT = ("seed_everything", "trainer", "model", "data")


class FirstBatch(Callback):
    """Notes that a batch was taken: mistakes in a configuration show before.

    `begin` is called when all is made, and with every validation of a training again.
    """

    taken = False

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def _begin(self, trainer: Trainer, pl_module: Any) -> None:
        self.begin()

    on_fit_start = on_validation_start = on_test_start = on_predict_start = _begin

    def _take(self, *args: Any, **kwargs: Any) -> None:
        self.taken = True

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _take


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` in the folder of the run, as a config that `--config` takes."""

    def __init__(
        self, parser: LightningArgumentParser, config: Any, sections: list[Any], beside: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.sections, self.beside = sections, beside

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Left to `on_train_start`: until a checkpoint has loaded, the config of its run must stay."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        text = yaml.safe_dump(self.content(self.config, self.sections, self.beside), sort_keys=False)
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        write_text_whole(Path(trainer.default_root_dir) / "config.yaml", text)

    @staticmethod
    def content(config: Any, sections: list[Any], beside: dict[str, Any]) -> dict[str, Any]:
        """A config of what Lightning's parser has made of one, and of what it was not handed.

        Nulls are kept: they are not everywhere the default.
        """
        found = {key: plain(config[key]) for key in _KEPT if key in config}
        found["trainer"]["callbacks"] = [*(found["trainer"].get("callbacks") or []), *map(plain, sections)]
        written = {entry["class_path"] for entry in sections}
        absent = [name for name, (path, default) in SECTIONS.items() if default is not None and path not in written]
        if "data" in beside:  # which says it
            found["model"].pop("vocab_size", None)
        return found | plain(beside) | dict.fromkeys(absent)


def plain(value: Any) -> Any:
    """What YAML holds, of a parsed config."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
