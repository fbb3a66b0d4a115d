"""One line that tells how training goes."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from seqmix._live_line import LiveLine, clock
from seqmix.tasks.asked import asked_of

__all__ = ["StepProgress"]


class StepProgress(ProgressBar):
    """Step, loss, accuracy, length, learning rate, speed and time left, on one line.

    On a terminal the line is redrawn `1 / refresh` times a second; into a file a new one is written every
    `lines_every` seconds. Values are read from the device only when they are shown.

    Args:
        refresh: seconds between two drawings on a terminal.
        lines_every: seconds between two lines elsewhere.
    """

    def __init__(self, refresh: float = 0.25, lines_every: float = 10.0) -> None:
        super().__init__()
        self._live = LiveLine(refresh, lines_every)
        self._enabled = True
        self._begin = self._after_first = 0.0
        self._first_step = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether a line is drawn; Lightning asks before it prints through the bar."""
        return self._enabled

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._live.clear()
        print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin, self._first_step = time.monotonic(), trainer.global_step
        self._live.hurry()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The first step loads and compiles; the speed is that of the others.
        if trainer.global_step == self._first_step + 1:
            self._after_first = time.monotonic()
        if self._enabled and self._live.due:
            self._live.show(self._line(trainer, pl_module, outputs))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._live.clear()
        if self._enabled:
            seconds = time.monotonic() - self._begin
            steps = trainer.global_step - self._first_step
            print(
                f"trained {steps} steps in {clock(seconds)}, {1e3 * seconds / max(1, steps):.1f} ms a step", flush=True
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._live.clear()

    def on_test_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._enabled and sys.stdout.isatty() and self._live.due:
            self._live.show("testing")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._live.clear()

    def _line(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> str:
        total, step, now = trainer.max_steps, trainer.global_step, time.monotonic()
        rate = (step - self._first_step - 1) / max(1e-9, now - self._after_first)
        parts = [f"step {step}" + (f"/{total}" if total > 0 else "")]
        if total > 0 and sys.stdout.isatty():
            filled = 20 * step // total
            parts.insert(0, "━" * filled + "╌" * (20 - filled))
        loss = outputs.get("mean_loss", outputs.get("loss")) if isinstance(outputs, dict) else outputs
        if loss is not None:
            parts.append(f"loss {float(loss):.3f}")
        if getattr(pl_module, "last_counts", None) is not None:
            right, counted = pl_module.last_counts.tolist()  # type: ignore[operator]
            parts.append(f"accuracy {right / max(1, counted):.3f}")
        length = asked_of(trainer.datamodule).current_length  # type: ignore[attr-defined]
        if length is not None:
            parts.append(f"length {length}")
        bits = " bits per byte"
        units = {"val/accuracy": "", "val/bits_per_byte": bits, "val/bits_per_byte_bound": f"{bits} (bound)"}
        for name, unit in units.items():
            if name in trainer.callback_metrics:
                parts.append(f"validation {float(trainer.callback_metrics[name]):.3f}{unit}")
        parts.append(f"lr {trainer.optimizers[0].param_groups[0].get('lr', float('nan')):.1e}")
        if step > self._first_step + 1:
            parts.append(f"{rate:.1f} steps/s")
        if total > 0 and step > self._first_step + 1:
            parts.append(f"{clock((total - step) / max(1e-9, rate))} left")
        return "  ".join(parts)
