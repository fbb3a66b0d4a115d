"""A run that was interrupted continues to the numbers of one that was not."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import seed_everything
from lightning.pytorch import Callback, Trainer

from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.callbacks import Checkpoints, GateEntropyPenalty, LengthCurriculum, TrainingInterrupted


class StopAfter(Callback):
    """Asks for an interruption as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            trainer.checkpoint_callback._note(15)


class Drawing(Callback):
    """Moves a weight by what numpy and Python draw, as a few optimizers of the library do."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            next(pl_module.parameters()).add_(1e-3 * np.random.normal() + 1e-3 * random.gauss(0, 1))


def train(path: Path, *, stop: int | None = None, resume: bool = False, **data) -> dict[str, torch.Tensor]:
    seed_everything(1 if resume else 0, verbose=False)
    task = create_task("word-problem", group="S3", train_length=8, batch_size=16, eval_size=8, **data)
    learner = SequenceLearner(
        "bd-lru", task.vocab_size, 16, dropout=0.1, optimizer={"name": "adamw", "lr": 1e-2, "weight_decay": 0.1}
    )
    callbacks: list[Callback] = [Drawing(), Checkpoints(every_n_steps=7)]
    if not data.get("num_workers"):
        callbacks += [LengthCurriculum(threshold=0.2, smoothing=0.5), GateEntropyPenalty(ramp_steps=10)]
    if stop is not None:
        callbacks.append(StopAfter(stop))
    trainer = Trainer(
        max_steps=20,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=6,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
    )
    if stop is None:
        trainer.fit(learner, datamodule=task, ckpt_path=path / "checkpoints" / "last.ckpt" if resume else None)
        assert trainer.global_step == 20
    else:
        with pytest.raises(TrainingInterrupted):
            trainer.fit(learner, datamodule=task)
    return torch.load(path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("stop", "data"), [(10, {}), (12, {}), (10, {"train_size": 50, "min_length": 2}), (10, {"num_workers": 2})]
)
def test_resumed_equals_uninterrupted(tmp_path: Path, stop: int, data: dict) -> None:
    whole = train(tmp_path / "whole", **data)
    part = train(tmp_path / "part", stop=stop, **data)
    assert part["global_step"] == stop
    resumed = train(tmp_path / "part", resume=True, **data)
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for old, new in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for key, state in old["state"].items():
            assert all(torch.equal(value, new["state"][key][name]) for name, value in state.items())
    for kind in ("LengthCurriculum", "GateEntropyPenalty"):
        states = [{k: v for k, v in run["callbacks"].items() if kind in k} for run in (whole, resumed)]
        assert states[0] == states[1]
    assert whole["loops"]["fit_loop"]["state_dict"] == resumed["loops"]["fit_loop"]["state_dict"]
