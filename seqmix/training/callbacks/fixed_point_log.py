"""What the solves of fixed-point layers did, in the training log."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqmix._checks import positive

__all__ = ["FixedPointLog"]


class FixedPointLog(Callback):
    """Logs the last solve of every fixed-point layer (`fp-rnn`, `fp-mamba`) each `every` training steps.

    Over the sequences of a batch and all such layers: `fixed_point/iterations` (the most), `fixed_point/residual` (the
    largest), `fixed_point/unconverged` and `fixed_point/sequential` (shares). Models without such layers log nothing.

    Args:
        every: steps between two records.

    Raises:
        ValueError: `every` is not a positive integer.
    """

    def __init__(self, every: int = 50) -> None:
        super().__init__()
        self.every = positive("FixedPointLog", "every", every)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every:
            return
        found = [getattr(module, "last_solve", None) for module in pl_module.modules()]
        solves = [solve for solve in found if isinstance(solve, Tensor)]
        if solves:
            iterations, residual, converged, sequential = torch.cat([s.float() for s in solves]).unbind(1)
            pl_module.log_dict(
                {
                    "fixed_point/iterations": iterations.max(),
                    "fixed_point/residual": residual.max(),
                    "fixed_point/unconverged": 1 - converged.mean(),
                    "fixed_point/sequential": sequential.mean(),
                }
            )
