"""Stop at the first loss that is not a number, before it reaches a checkpoint."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqmix._checks import positive

__all__ = ["NonFiniteGuard", "NonFiniteLossError"]


class NonFiniteLossError(ValueError):
    """The training loss became infinite or NaN."""


class NonFiniteGuard(Callback):
    """Raises `NonFiniteLossError` with the step, the learning rate and the last good checkpoint.

    On a CPU the loss is looked at before its backward pass, so that the parameters stay as they were. On other devices
    the first bad step is noted on the device and read every `every_n_steps`, and before a checkpoint is written.

    Args:
        every_n_steps: steps between two looks on a device that runs ahead of Python, or with several processes.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        super().__init__()
        self.every_n_steps = positive("NonFiniteGuard", "every_n_steps", every_n_steps)
        self._first_bad: Tensor | None = None  # step, or the largest integer

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if loss.device.type == "cpu" and trainer.world_size == 1:
            if not torch.isfinite(loss.detach()):
                self._stop(trainer, trainer.global_step)
            return
        never = torch.iinfo(torch.int64).max
        if self._first_bad is None:
            self._first_bad = torch.full((), never, dtype=torch.int64, device=loss.device)
        step = torch.where(torch.isfinite(loss.detach()), never, trainer.global_step)
        self._first_bad = torch.minimum(self._first_bad, step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every_n_steps == 0:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        # Ranks reach this together, and all of them stop when one must.
        if self._first_bad is None:
            return
        first = trainer.strategy.reduce(self._first_bad, reduce_op="min")
        if int(first) != torch.iinfo(torch.int64).max:
            self._stop(trainer, int(first))

    def _stop(self, trainer: Trainer, step: int) -> None:
        rates = ", ".join(f"{group.get('lr', float('nan')):.3g}" for group in trainer.optimizers[0].param_groups)
        callback: Any = trainer.checkpoint_callback
        path = getattr(callback, "last_model_path", "") or getattr(callback, "best_model_path", "")
        raise NonFiniteLossError(
            f"the loss is not finite at step {step} (learning rate {rates}); "
            + (f"the last good checkpoint is {path}" if path else "no checkpoint was written before")
        )
