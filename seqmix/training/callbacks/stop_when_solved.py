"""The end of training, where there is nothing left to learn."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from seqmix._checks import positive
from seqmix.training.callbacks.curriculum import LengthCurriculum
from seqmix.training.callbacks.gate_entropy import GateEntropyPenalty

__all__ = ["StopWhenSolved"]


class StopWhenSolved(Callback):
    """Stops training once the last length is learned and the gates have chosen.

    Both must hold for `patience` steps in a row: every batch (of all ranks together) right to `accuracy` at the last
    length of the `LengthCurriculum`, and, with a `GateEntropyPenalty`, no gates with an entropy above `max_entropy`.
    One undecided gate is enough to fail on long words.

    Args:
        accuracy: token accuracy that each batch has to reach.
        max_entropy: largest entropy of the gates in nats; 0.02 is a gate of 0.998.
        patience: steps in a row.

    Raises:
        ValueError: numbers out of range.
    """

    def __init__(self, accuracy: float = 1.0, max_entropy: float = 0.02, patience: int = 100) -> None:
        super().__init__()
        if not 0 < accuracy <= 1:
            raise ValueError(f"StopWhenSolved: accuracy must be in (0, 1], got {accuracy!r}")
        if not max_entropy > 0:
            raise ValueError(f"StopWhenSolved: max_entropy must be positive, got {max_entropy!r}")
        positive("StopWhenSolved", "patience", patience)
        self.accuracy, self.max_entropy, self.patience = accuracy, max_entropy, patience
        self.steps = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if not all(c.finished for c in callbacks if isinstance(c, LengthCurriculum)):
            self.steps = 0
            return
        counts = trainer.strategy.reduce(pl_module.last_counts.double(), reduce_op="sum")
        right, total = counts.tolist()
        sharp = all(c.largest <= self.max_entropy for c in callbacks if isinstance(c, GateEntropyPenalty) and c.weight)
        self.steps = self.steps + 1 if sharp and right >= self.accuracy * total else 0
        if self.steps >= self.patience:
            pl_module.print(f"step {trainer.global_step}: solved at the last length, training ends")
            trainer.should_stop = True

    def start_again(self) -> None:
        """Forget what earlier weights did."""
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]
