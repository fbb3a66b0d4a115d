"""Training sequences that grow as the model learns them."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from seqmix._checks import integers
from seqmix.training.continuing import check_value

__all__ = ["LengthCurriculum"]


class LengthCurriculum(Callback):
    """Start with short sequences and lengthen them whenever the running token accuracy passes a threshold.

    The accuracy is smoothed exponentially from zero and starts again at every length, so that a length is kept for
    some steps however easy it is: 22 of them at the defaults. A length below `geometric_from` grows by one, others by
    a quarter. The running accuracy is that of all ranks together; the length is part of the checkpoint.

    Args:
        start: first length.
        end: last length; None for the task's `train_length`.
        threshold: running token accuracy at which the length grows.
        smoothing: weight of the past in the running accuracy, in [0, 1).
        geometric_from: the length from which growth is by a quarter.
        every_n_steps: steps between two looks at the accuracy; on a GPU each look waits for the device.

    Raises:
        ValueError: numbers out of range, a task without lengths, or one with worker processes: those make batches
            ahead, at lengths that are no longer current.
    """

    def __init__(
        self,
        start: int = 2,
        end: int | None = None,
        threshold: float = 0.9,
        smoothing: float = 0.9,
        geometric_from: int = 8,
        every_n_steps: int = 1,
    ) -> None:
        super().__init__()
        integers("LengthCurriculum", start=start, geometric_from=geometric_from, every_n_steps=every_n_steps)
        if end is not None and (not isinstance(end, int) or end < start):
            raise ValueError(f"LengthCurriculum: end must be an integer of at least start = {start}, got {end!r}")
        if not 0 < threshold < 1:
            raise ValueError(f"LengthCurriculum: threshold must be in (0, 1), got {threshold!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"LengthCurriculum: smoothing must be in [0, 1), got {smoothing!r}")
        self.start, self.end, self.threshold, self.smoothing = start, end, threshold, smoothing
        self.geometric_from, self.every_n_steps = geometric_from, every_n_steps
        self.length, self.accuracy = start, 0.0
        self._task: Any = None
        self._counts: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether the last length is reached."""
        return self.end is not None and self.length >= self.end

    def grown(self, length: int) -> int:
        """The length after `length`."""
        assert self.end is not None
        step = 1 if length < self.geometric_from else max(1, length // 4)
        return min(length + step, self.end)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._task = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(self._task, "current_length"):
            raise ValueError(
                f"LengthCurriculum: the task must have a current_length, {type(self._task).__name__} has none"
            )
        if self.end is None:
            self.end = self._task.train_length
        if not self.start <= self.end <= self._task.train_length:
            raise ValueError(
                f"LengthCurriculum: start = {self.start} <= end = {self.end} <= train_length = "
                f"{self._task.train_length} must hold"
            )
        self._task.current_length = self.length

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.finished:
            return
        counts: Tensor = pl_module.last_counts  # type: ignore[assignment]
        self._counts = counts if self._counts is None else self._counts + counts
        if (batch_idx + 1) % self.every_n_steps:
            return
        if trainer.world_size > 1:
            self._counts = trainer.strategy.reduce(self._counts, reduce_op="sum")
        right, total = self._counts.tolist()
        self._counts = None
        self.accuracy = self.smoothing * self.accuracy + (1 - self.smoothing) * right / max(1, total)
        if self.accuracy > self.threshold:
            self.length, self.accuracy = self.grown(self.length), 0.0
            self._task.current_length = self.length
            for logger in trainer.loggers:
                logger.log_metrics({"train/length": float(self.length)}, step=trainer.global_step)

    def start_again(self) -> None:
        """Return to the first length, for new weights."""
        self.length, self.accuracy, self._counts = self.start, 0.0, None
        if self._task is not None:
            self._task.current_length = self.length

    def state_dict(self) -> dict[str, Any]:
        counts = None if self._counts is None else self._counts.cpu()
        lengths = {"length": self.length, "start": self.start, "end": self.end}
        return lengths | {"accuracy": self.accuracy, "counts": counts}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        if trainer.state.fn == TrainerFn.FITTING:
            check_value("curriculum.start", state.get("start", self.start), self.start)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.length, self.accuracy, counts = state_dict["length"], state_dict["accuracy"], state_dict["counts"]
        self._counts = counts if counts is None or self._task is None else torch.as_tensor(counts)
        if self._task is not None and self._task.num_workers == 0:
            self.length = min(self.length, self._task.train_length)
            self._task.current_length = self.length
