"""A penalty that makes softmax gates choose."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from seqmix._checks import integers, positive
from seqmix.training.callbacks.curriculum import LengthCurriculum

__all__ = ["GateEntropyPenalty", "gate_entropy"]


class GateEntropyPenalty(Callback):
    """Adds weight * (mean entropy of the gates, in nats) to the training loss.

    Gates are what a mixer's `gates(x)` returns, normalised along the last axis (BD-LRU with softmax or signed gates,
    H-LRU). The weight grows linearly from 0 over `ramp_steps`, `delay` steps after a `LengthCurriculum`, if there is
    one, has reached `from_length`, its last length by default: gates that choose early choose wrongly
    (docs/certificates.md).

    Args:
        weight: final weight.
        ramp_steps: steps from weight 0 to the final weight.
        from_length: curriculum length at which it begins; None for the last.
        delay: steps before the ramp.
        sequences: how many of a batch's sequences the mean is taken over; a few say as much as all and cost less.

    Raises:
        ValueError: numbers out of range, or a model without gates.
    """

    def __init__(
        self,
        weight: float = 0.05,
        ramp_steps: int = 1000,
        sequences: int = 16,
        from_length: int | None = None,
        delay: int = 0,
    ) -> None:
        super().__init__()
        if not weight >= 0:
            raise ValueError(f"GateEntropyPenalty: weight must be at least 0, got {weight!r}")
        integers("GateEntropyPenalty", 0, ramp_steps=ramp_steps, delay=delay)
        integers("GateEntropyPenalty", sequences=sequences)
        if from_length is not None:
            positive("GateEntropyPenalty", "from_length", from_length, what="a positive integer or null")
        self.weight, self.ramp_steps, self.sequences = weight, ramp_steps, sequences
        self.from_length, self.delay = from_length, delay
        self.started_at: int | None = None
        self._current = 0.0
        self._last: Tensor | None = None
        self._entropies: list[Tensor] = []
        self._hooks: list[Any] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        mixers = [module for module in pl_module.modules() if callable(getattr(module, "gates", None))]
        if not mixers:
            raise ValueError(
                "GateEntropyPenalty: the model must have mixers with gates (bd-lru, h-lru), it has "
                "none; `--gate_entropy null` leaves the penalty out"
            )
        if self.from_length is not None:
            if not _curricula(trainer):
                raise ValueError("GateEntropyPenalty: from_length needs a LengthCurriculum; null begins at once")
            longest = trainer.datamodule.train_length  # type: ignore[attr-defined]
            if self.from_length > longest:
                raise ValueError(
                    f"GateEntropyPenalty: from_length must be at most the {longest} of the task, got {self.from_length}"
                )
        # Inside the forward pass, where sharded parameters are whole and autocast is on.
        self._hooks = [mixer.register_forward_hook(self._record) for mixer in mixers]
        self._terms(pl_module)["train/gate_penalty"] = self._term

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        if stage == "fit":
            self._terms(pl_module).pop("train/gate_penalty", None)

    @staticmethod
    def _terms(pl_module: Any) -> dict[str, Any]:
        return pl_module.loss_terms

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._entropies.clear()
        if self.started_at is None:
            first = self.from_length
            if not all(c.finished if first is None else c.length >= first for c in _curricula(trainer)):
                return
            self.started_at = trainer.global_step
        progress = (trainer.global_step - self.started_at - self.delay) / max(1, self.ramp_steps)
        self._current = self.weight * min(1.0, max(0.0, progress))

    def _record(self, mixer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if mixer.training and self._current:
            self._entropies.append(gate_entropy(mixer.gates(args[0][: self.sequences])).flatten())  # type: ignore[operator]

    def _term(self) -> Tensor | None:
        if not self._entropies:
            return None
        entropies = torch.cat(self._entropies)
        self._entropies.clear()  # an optimizer may ask for the loss of a batch again
        self._last = entropies.detach()
        return self._current * entropies.mean()

    @property
    def largest(self) -> float:
        """Entropy in nats of the least decided gates of the last step; infinite before the penalty has begun."""
        return float("inf") if self._last is None else self._last.max().item()

    def start_again(self) -> None:
        """Wait for the curriculum once more, for new weights."""
        self.started_at, self._current, self._last = None, 0.0, None

    def state_dict(self) -> dict[str, Any]:
        return {"started_at": self.started_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.started_at = state_dict["started_at"]


def _curricula(trainer: Trainer) -> list[LengthCurriculum]:
    return [c for c in trainer.callbacks if isinstance(c, LengthCurriculum)]  # type: ignore[attr-defined]


def gate_entropy(gates: Tensor) -> Tensor:
    """Entropy in nats (...) of gates (..., n) with sum one along the last axis; signed ones count by absolute value."""
    p = gates.float().abs()
    return -torch.special.xlogy(p, p.clamp_min(torch.finfo(p.dtype).tiny)).sum(-1)
