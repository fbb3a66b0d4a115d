"""One line that tells how training goes."""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

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
        self.refresh, self.lines_every = refresh, lines_every
        self._enabled = True
        self._next = self._begin = self._after_first = 0.0
        self._first_step = 0
        self._width = 0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether a line is drawn; Lightning asks before it prints through the bar."""
        return self._enabled

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._clear()
        print(*args, **kwargs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin, self._first_step, self._next = time.monotonic(), trainer.global_step, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The first step loads and compiles; the speed is that of the others.
        if trainer.global_step == self._first_step + 1:
            self._after_first = time.monotonic()
        if self._enabled and time.monotonic() >= self._next:
            self._show(self._line(trainer, pl_module, outputs))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        if self._enabled:
            seconds = time.monotonic() - self._begin
            steps = trainer.global_step - self._first_step
            print(
                f"trained {steps} steps in {_clock(seconds)}, {1e3 * seconds / max(1, steps):.1f} ms a step", flush=True
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._clear()

    def on_test_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self._enabled and sys.stdout.isatty() and time.monotonic() >= self._next:
            self._show("testing")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()

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
            right, counted = pl_module.last_counts.tolist()  # type: ignore[union-attr, operator]
            parts.append(f"accuracy {right / max(1, counted):.3f}")
        length = asked_of(trainer.datamodule).current_length  # type: ignore[attr-defined]
        if length is not None:
            parts.append(f"length {length}")
        for name, unit in (("val/accuracy", ""), ("val/bits_per_byte", " bits per byte")):
            if name in trainer.callback_metrics:
                parts.append(f"validation {float(trainer.callback_metrics[name]):.3f}{unit}")
        parts.append(f"lr {trainer.optimizers[0].param_groups[0].get('lr', float('nan')):.1e}")
        if step > self._first_step + 1:
            parts.append(f"{rate:.1f} steps/s")
        if total > 0 and step > self._first_step + 1:
            parts.append(f"{_clock((total - step) / max(1e-9, rate))} left")
        return "  ".join(parts)

    def _show(self, line: str) -> None:
        if sys.stdout.isatty():
            sys.stdout.write("\r" + line.ljust(self._width))
            self._width = len(line)
            self._next = time.monotonic() + self.refresh
        else:
            sys.stdout.write(line + "\n")
            self._next = time.monotonic() + self.lines_every
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()
            self._width = 0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
