"""New weights for a model whose transitions forget."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqmix.mixers.base import positive
from seqmix.training.callbacks.curriculum import LengthCurriculum

__all__ = ["VolumeRestart", "largest_volume"]


class VolumeRestart(Callback):
    """Starts again with new weights if no block keeps volume once the sequences have grown, or if they do not grow.

    A group acts by invertible maps, so a block that tracks one for every length has transitions of |det A_t| = 1;
    the volume here is the median of |det A_t|^(1/m) over tokens. Stochastic 5 x 5 blocks can also carry the
    three-dimensional representations of A5, but only by shrinking them at every step: that passes at training length,
    never sharpens and fails on longer words. Which of the two forms is settled within the first lengths, by chance
    (docs/a5.md). Only training data is looked at.

    A block that is larger than its group needs may wipe entries, and then has no volume. `dimensions` counts only that
    many of its eigenvalues, the largest: those of the representation that should form.

    The curriculum and the gate penalty begin anew with the weights; the step count and the schedule go on.

    Args:
        length: curriculum length at which the volume is measured.
        min_volume: smallest volume with which the best block of the model may go on.
        max_steps: steps within which a start has to reach `length`.
        dimensions: how many eigenvalues of a block count; None for all, and all of a block that has fewer. A layer
            without blocks, such as `lru`, is one block.

    Raises:
        ValueError: numbers out of range, no `LengthCurriculum`, or sharded parameters, which cannot be drawn anew.
    """

    def __init__(
        self, length: int = 12, min_volume: float = 0.7, max_steps: int = 1200, dimensions: int | None = None
    ) -> None:
        super().__init__()
        self.length = positive("VolumeRestart", "length", length)
        self.max_steps = positive("VolumeRestart", "max_steps", max_steps)
        self.dimensions = None if dimensions is None else positive("VolumeRestart", "dimensions", dimensions)
        if not 0 < min_volume < 1:
            raise ValueError(f"VolumeRestart: min_volume must be in (0, 1), got {min_volume!r}")
        self.min_volume = min_volume
        self.restarts, self.started_at, self.settled = 0, 0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not any(isinstance(callback, LengthCurriculum) for callback in _callbacks(trainer)):
            raise ValueError("VolumeRestart: needs a LengthCurriculum; `--volume_restart null` leaves it out")
        if getattr(pl_module, "device_mesh", None) is not None:
            raise ValueError("VolumeRestart: parameters must not be sharded (`--trainer.strategy fully_shard`)")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.settled:
            return
        length = max(c.length for c in _callbacks(trainer) if isinstance(c, LengthCurriculum))
        if length >= self.length:
            own = largest_volume(pl_module, *_few(batch), dimensions=self.dimensions)
            volume = trainer.strategy.reduce(own, reduce_op="mean")
            self.settled = float(volume) >= self.min_volume
            reason = f"the largest volume is {float(volume):.2f} at length {length}"
        elif trainer.global_step - self.started_at >= self.max_steps:
            reason = f"length {length} after {trainer.global_step - self.started_at} steps"
        else:
            return
        if not self.settled:
            pl_module.print(f"step {trainer.global_step}: {reason}; starting again with new weights")
            self._restart(trainer, pl_module)

    def _restart(self, trainer: Trainer, pl_module: Any) -> None:
        self.restarts += 1
        self.started_at = trainer.global_step
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + self.restarts)
            pl_module.model.load_state_dict(pl_module.build_model().state_dict())
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        for callback in _callbacks(trainer):
            if hasattr(callback, "start_again"):
                callback.start_again()
        for logger in trainer.loggers:
            logger.log_metrics({"train/restarts": float(self.restarts)}, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"restarts": self.restarts, "started_at": self.started_at, "settled": self.settled}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.restarts, self.started_at = state_dict["restarts"], state_dict["started_at"]
        self.settled = state_dict["settled"]


@torch.no_grad()
def largest_volume(
    module: torch.nn.Module, tokens: Tensor, cu_seqlens: Tensor | None = None, dimensions: int | None = None
) -> Tensor:
    """The best block's median |det A_t|^(1/m), over all mixers of `module` with eigenvalues, on tokens (B, T).

    With `dimensions` the geometric mean of that many moduli, the largest, stands for the determinant's root.

    Packed sequences come as one row with their bounds.

    The median, because a token that starts a word may well wipe the state.
    """
    volumes: list[Tensor] = []

    def look(mixer: Any, args: tuple[Any, ...]) -> None:
        eigenvalues = mixer.diagnostics(args[0]).get("eigenvalues")
        if eigenvalues is not None:
            # (B, T, N, m), or (B, T, n) for a single block.
            blocks = eigenvalues if eigenvalues.ndim == 4 else eigenvalues.unsqueeze(2)
            moduli = blocks.abs().clamp_min(1e-12)
            if dimensions is not None and dimensions < moduli.shape[-1]:
                moduli = moduli.topk(dimensions, dim=-1).values
            volume = moduli.log().mean(-1).exp()
            volumes.append(volume.flatten(0, 1).median(0).values.max())

    mixers = [m for m in module.modules() if callable(getattr(m, "diagnostics", None))]
    hooks = [mixer.register_forward_pre_hook(look) for mixer in mixers]
    try:
        module(tokens) if cu_seqlens is None else module(tokens, cu_seqlens=cu_seqlens)
    finally:
        for hook in hooks:
            hook.remove()
    if not volumes:
        raise ValueError("VolumeRestart: the model must have a mixer with eigenvalues in its diagnostics, it has none")
    return torch.stack(volumes).max()


def _few(batch: Any) -> tuple[Tensor, Tensor | None]:
    # A few sequences say as much as all of them.
    if "cu_seqlens" not in batch:
        return batch["tokens"][:4], None
    bounds = batch["cu_seqlens"][:5]
    return batch["tokens"][:, : int(bounds[-1])], bounds


def _callbacks(trainer: Trainer) -> list[Any]:
    return trainer.callbacks  # type: ignore[attr-defined]
