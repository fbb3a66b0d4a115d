"""What the command line adds to a trainer: the config in the run's folder, and whether anything has begun."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from seqmix._files import write_text_whole

__all__ = ["FirstBatch", "SaveConfig", "plain"]

# Of a run's config.yaml, which every subcommand reads.
_KEPT = ("seed_everything", "trainer", "model", "data", "pretrain")


class FirstBatch(Callback):
    """Notes that a batch was taken: mistakes in a configuration show before."""

    taken = False

    def _take(self, *args: Any, **kwargs: Any) -> None:
        self.taken = True

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _take


class SaveConfig(SaveConfigCallback):
    """Writes `config.yaml` in the folder of the run, as a config that `--config` takes."""

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Left to `on_train_start`: until a checkpoint has loaded, the config of its run must stay."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        # Nulls are kept: they are not everywhere the default.
        text = yaml.safe_dump({key: plain(self.config[key]) for key in _KEPT if key in self.config}, sort_keys=False)
        Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)
        write_text_whole(Path(trainer.default_root_dir) / "config.yaml", text)


def plain(value: Any) -> Any:
    """What YAML holds, of a parsed config."""
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
