"""Optimizers whose weights for stepping are not those for evaluation: schedule-free ones."""

from copy import deepcopy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["OptimizerModes"]


class OptimizerModes(Callback):
    """Calls `train()` and `eval()` of the optimizers that have both, as the trainer changes between the two.

    Checkpoints hold the weights for evaluation, and a resumed run turns them back to those for stepping, which they
    equal to rounding. `SequenceLearner` adds it for the optimizers that need it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mode = "train"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._change(trainer, "train")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._change(trainer, "eval")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._change(trainer, "train")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._change(trainer, "eval")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._mode == "eval":
            return
        self._change(trainer, "eval")
        checkpoint["state_dict"] = deepcopy(trainer.strategy.lightning_module_state_dict())
        states = [trainer.strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers]
        checkpoint["optimizer_states"] = deepcopy(states)
        self._change(trainer, "train")

    def _change(self, trainer: Trainer, mode: str) -> None:
        self._mode = mode
        for optimizer in trainer.optimizers:
            change: Any = getattr(optimizer, mode, None)
            if callable(change):
                change()
