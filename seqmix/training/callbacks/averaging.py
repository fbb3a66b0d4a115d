"""Averaged weights while training: evaluated, saved and tested in place of the current ones."""

from copy import deepcopy
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seqmix._checks import is_number, positive
from seqmix.optim.averaging import LatestAverage
from seqmix.training.callbacks.optimizer_modes import OptimizerModes

__all__ = ["EMAWeights", "LAWAWeights"]


class _AveragedWeights(WeightAveraging):
    """Lightning's `WeightAveraging` of the model inside a learner.

    Validation sees the average, checkpoints have it as their weights beside the current ones, a resumed run goes on
    with both, and when training is over the learner holds the average. Before the first snapshot the average is the
    current weights. What Lightning does at the end of training happens after the last checkpoint here, which would
    otherwise have lost the current weights.
    """

    def __init__(self, every_n_steps: int, start: int, device: str | None) -> None:
        owner = type(self).__name__
        positive(owner, "every_n_steps", every_n_steps)
        positive(owner, "start", start, 0)
        super().__init__(device=device, use_buffers=False)
        self.every_n_steps, self.start = every_n_steps, start

    def build(self, model: nn.Module, device: Any) -> AveragedModel:
        """The averaged copy of `model`."""
        raise NotImplementedError

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        step = 0 if step_idx is None else step_idx + 1
        return step > self.start and step % self.every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        others = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        if len(others) > 1:
            raise ValueError(f"{type(self).__name__}: a run has one average, got {len(others)} (ema, lawa)")
        if any(isinstance(c, OptimizerModes) for c in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(self).__name__}: the optimizer must not average its weights itself (schedule-free)"
            )
        if getattr(pl_module, "device_mesh", None) is not None:
            raise ValueError(f"{type(self).__name__}: parameters must not be sharded (--trainer.strategy fully_shard)")
        # Parameters get the type of `bf16-true` after this hook.
        low = {str(p.dtype) for p in pl_module.parameters()} - {"torch.float32", "torch.float64"}
        low |= {str(trainer.precision)} & {"bf16-true", "16-true"}
        if low:
            raise ValueError(
                f"{type(self).__name__}: an average of {low.pop()} parameters loses its small changes; mixed precision "
                "(--trainer.precision bf16-mixed) keeps them in float32"
            )
        # The children alone: a copy of the learner would copy callbacks and trainer with it.
        holder = nn.Module()
        for name, child in pl_module.named_children():
            holder.add_module(name, child)
        self._average_model = self.build(holder, self._device or pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._device is None and self._average_model is not None:
            self._average_model.to(pl_module.device)  # where the model was moved after `setup`

    @property
    def _begun(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def _swap_models(self, pl_module: LightningModule) -> None:
        if self._begun:
            super()._swap_models(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Left to `teardown`, after the last checkpoint."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self._begun:
            self._copy_average_to_current(pl_module)
        self._average_model = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            return
        current = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if not self._begun:
            checkpoint["state_dict"] = current

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Outside training the weights of the checkpoint, which are the average, are all that is needed; a run without
        # an average may go on with one, which then begins there.
        if self._average_model is None or "averaging_state" not in checkpoint:
            return
        state = {f"module.{name}": value for name, value in checkpoint["state_dict"].items()}
        self._average_model.load_state_dict(state | checkpoint["averaging_state"])
        pl_module.load_state_dict(deepcopy(checkpoint["current_model_state"]))

    def start_again(self) -> None:
        """Forget the average of earlier weights."""
        assert self._average_model is not None
        self._average_model.n_averaged.zero_()


class EMAWeights(_AveragedWeights):
    """An exponential average: avg <- decay avg + (1 - decay) weights, every few steps; the first time it is copied.

    Args:
        decay: share of the past in [0, 1); the average remembers about every_n_steps / (1 - decay) steps, of which 1 %
            of the run is a good number (2502.06761).
        every_n_steps: steps between two updates.
        start: the step after which averaging begins; weights of the very start are far from anything good.
        device: where the average is, `cpu` to save memory of an accelerator.

    Raises:
        ValueError: numbers out of range, sharded or low-precision parameters, a second average, or an optimizer that
            has one of its own (schedule-free).
    """

    def __init__(self, decay: float = 0.999, every_n_steps: int = 1, start: int = 0, device: str | None = None) -> None:
        if not is_number(decay) or not 0 <= decay < 1:
            raise ValueError(f"EMAWeights: decay must be in [0, 1), got {decay!r}")
        super().__init__(every_n_steps, start, device)
        self.decay = decay

    def build(self, model: nn.Module, device: Any) -> AveragedModel:
        return AveragedModel(model, device=device, multi_avg_fn=get_ema_multi_avg_fn(self.decay))


class LAWAWeights(_AveragedWeights):
    """The mean of the last `size` snapshots, one every `every_n_steps` steps.

    Args:
        size: snapshots kept; the checkpoint has them all.
        every_n_steps: steps between two snapshots; size * every_n_steps of about 1 % of the run is a good window.
        start: the step after which snapshots are taken.
        device: where the snapshots are, `cpu` to save memory of an accelerator.

    Raises:
        ValueError: numbers out of range, sharded or low-precision parameters, a second average, or an optimizer that
            has one of its own (schedule-free).
    """

    def __init__(self, size: int = 20, every_n_steps: int = 64, start: int = 0, device: str | None = None) -> None:
        self.size = positive("LAWAWeights", "size", size)
        super().__init__(every_n_steps, start, device)

    def build(self, model: nn.Module, device: Any) -> AveragedModel:
        return LatestAverage(model, self.size, device)

    def start_again(self) -> None:
        assert isinstance(self._average_model, LatestAverage)
        self._average_model.start_again()
