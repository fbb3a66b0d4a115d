"""`best.ckpt` and `last.ckpt`, the latter also when training is interrupted."""

import random
import warnings
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from seqmix._checks import positive
from seqmix._measures import of_text
from seqmix._signals import Interrupted, handled_signals, signal_name
from seqmix.tasks.asked import asked_of
from seqmix.training.checkpoint_files import write_checkpoints_whole

__all__ = ["Checkpoints", "TrainingInterrupted"]


class TrainingInterrupted(Interrupted):
    """A signal asked training to stop: the first between two steps with a checkpoint written, a second at once."""


class Checkpoints(ModelCheckpoint):
    """Writes `best.ckpt` after a validation that is the best so far, and `last.ckpt` regularly and at the end.

    Ctrl-C and SIGTERM finish the step, write `last.ckpt` and raise `TrainingInterrupted`; a second signal raises it at
    once, with the checkpoint before. Files are written beside their place and renamed. Random states are part of the
    checkpoint, so that a resumed run continues as if it had never stopped.

    Args:
        dirpath: folder; None for `checkpoints` in the folder of the run.
        monitor: measure that decides which is best; None for the task's own, `val/accuracy` or `val/bits_per_byte`.
        mode: `max` or `min`, of a `monitor` that is given.
        every_n_steps: steps between two writes of `last.ckpt`.
        keep_every_n_steps: steps between two checkpoints `step-N.ckpt` that stay, for `seqmix average`; None for none.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        monitor: str | None = None,
        mode: str = "max",
        every_n_steps: int = 500,
        keep_every_n_steps: int | None = None,
    ) -> None:
        positive("Checkpoints", "every_n_steps", every_n_steps)
        if keep_every_n_steps is not None:
            positive("Checkpoints", "keep_every_n_steps", keep_every_n_steps)
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )
        self.last_every_n_steps, self.keep_every_n_steps = every_n_steps, keep_every_n_steps
        self._kept = 0  # the step that was kept last
        self._last_written = -1
        self._signal: int | None = None
        self._handlers = ExitStack()
        self._random_state: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        write_checkpoints_whole(trainer)
        if self.dirpath is None:
            self.dirpath = f"{trainer.default_root_dir}/checkpoints"
        if self.monitor is None:
            metric = getattr(pl_module, "metric", asked_of(trainer.datamodule).metric)  # type: ignore[attr-defined]
            text = of_text(metric)
            self.monitor, self.mode = (f"val/{metric}", "min") if text else ("val/accuracy", "max")
            self.kth_value = torch.tensor(torch.inf if text else -torch.inf)
        with warnings.catch_warnings():
            # A folder with checkpoints is where a resumed run belongs.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._signal, self._last_written = None, trainer.global_step
        if self._random_state is not None:
            _set_random_state(self._random_state)
        self._restore_signals()
        self._handlers.enter_context(handled_signals(self._note))

    def _note(self, number: int) -> None:
        if self._signal is not None:
            self._restore_signals()
            raise TrainingInterrupted(f"interrupted at once by a second signal, {signal_name(number)}; {self._rest()}")
        self._signal = number

    def _rest(self) -> str:
        return f"--ckpt_path {self.last_model_path} continues" if self.last_model_path else "no checkpoint was written"

    def _restore_signals(self) -> None:
        self._handlers.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.keep_every_n_steps and step % self.keep_every_n_steps == 0 and step != self._kept:
            self._kept = step
            trainer.save_checkpoint(f"{self.dirpath}/step-{step}.ckpt")
        # Gradients of half a step are in no checkpoint.
        interrupted = not trainer.fit_loop._should_accumulate() and self._is_interrupted(trainer)
        if interrupted or step - self._last_written >= self.last_every_n_steps:
            self._write_last(trainer)
        if interrupted:
            self._interrupt(trainer)

    def _is_interrupted(self, trainer: Trainer) -> bool:
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(self._signal is not None, all=False)
        return self._signal is not None

    def _interrupt(self, trainer: Trainer) -> None:
        name = signal_name(self._signal) if self._signal else "another process"
        raise TrainingInterrupted(f"interrupted by {name} after step {trainer.global_step}; {self._rest()}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = self._last_global_step_saved
        super().on_validation_end(trainer, pl_module)
        if self._last_global_step_saved != before:
            self._last_written = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._last_written != trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write_last(trainer)
        # From here on a signal acts at once: there are no more steps to end between.
        self._restore_signals()
        if self._is_interrupted(trainer):
            self._interrupt(trainer)

    def _write_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # What cannot be gone on with must not replace what can.
        if not all(bool(torch.isfinite(p).all()) for p in trainer.lightning_module.parameters()):
            return
        self._last_written = trainer.global_step
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore_signals()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_signals()
        super().on_exception(trainer, pl_module, exception)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "random_state": _random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = dict(state_dict)
        self._random_state = state.pop("random_state", None)
        super().load_state_dict(state)


def _random_state() -> dict[str, Any]:
    """Of torch, and of numpy and Python, which some optimizers of the library draw from; tensors and plain values."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    _, keys, *rest = np.random.get_state()
    version, words, gauss = random.getstate()
    return {
        "cpu": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "python": (version, torch.tensor(words), gauss),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "numpy" in state:  # older checkpoints have torch's alone
        keys, *rest = state["numpy"]
        np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words.tolist()), gauss))
