"""Eigenvalues over training, in files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqmix._checks import integers
from seqmix.inspect.records import SpectrumRecord, spectrum_files
from seqmix.inspect.spectra import observe, spectrum

__all__ = ["SpectrumRecorder"]


class SpectrumRecorder(Callback):
    """Writes the eigenvalues of every layer's transitions, on the same sequences each time, to `spectra/step-N.npz`.

    The sequences are the first of the first validation set. There is a file for the weights that training starts
    from, for every chosen step and for the end; each is written whole. A run that is resumed goes on where it was, and
    drops the files of steps that its checkpoint had not reached. `seqmix inspect spectrum RUN --over-training` draws
    them, `seqmix.inspect.read_spectra` reads them. Layers without eigenvalues are left out.

    Args:
        every: steps between two files; None for those in `steps` only.
        steps: more steps to write at.
        sequences: how many sequences are looked at.
        length: how many of their tokens, at most.

    Raises:
        ValueError: numbers out of range; before training starts, data without a validation set, or a model none of
            whose layers has eigenvalues.
    """

    def __init__(
        self, every: int | None = 100, steps: Sequence[int] = (), sequences: int = 4, length: int = 64
    ) -> None:
        super().__init__()
        integers("SpectrumRecorder", sequences=sequences, length=length, every=1 if every is None else every)
        if len(steps):
            integers("SpectrumRecorder", 0, steps=steps)
        self.every, self.steps, self.sequences, self.length = every, frozenset(steps), sequences, length
        self._tokens: Tensor | None = None
        self._written = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tokens = self._first(trainer).to(pl_module.device)
        if trainer.global_step == 0:
            self._record(trainer, pl_module)
        elif not self._look(pl_module):  # the first record has told it otherwise
            raise ValueError(_NONE)
        if trainer.is_global_zero:
            for step, path in spectrum_files(_folder(trainer)).items():
                if step > trainer.global_step:
                    path.unlink()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step in self.steps or (self.every is not None and step % self.every == 0):
            self._record(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Several batches may make one step.
        if trainer.global_step == self._written or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        found = self._look(pl_module)
        if not found:
            raise ValueError(_NONE)
        self._written = trainer.global_step
        if trainer.is_global_zero and self._tokens is not None:
            folder = _folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            layers = {name: values.to(torch.complex64).cpu().numpy() for name, values in found.items()}
            SpectrumRecord(trainer.global_step, self._tokens.cpu().numpy(), layers).write(folder)

    def _look(self, pl_module: LightningModule) -> dict[str, Tensor]:
        model: Any = getattr(pl_module, "model", pl_module)
        found = observe(model, spectrum, self._tokens)
        return {name: values for name, values in found.items() if values is not None}

    def _first(self, trainer: Trainer) -> Tensor:
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders = task.val_dataloader() if task is not None else trainer.val_dataloaders
        loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        if not loader:
            raise ValueError("SpectrumRecorder: expected data with a validation set, got none")
        with torch.random.fork_rng(devices=[]):  # a loader may draw a seed
            batch = next(iter(loader))
        tokens = batch["tokens"]
        if "cu_seqlens" in batch:
            tokens = tokens[:, : int(batch["cu_seqlens"][1])]
        return tokens[: self.sequences, : self.length]


_NONE = "SpectrumRecorder: the model must have a layer whose transitions have eigenvalues, it has none"


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "spectra"
