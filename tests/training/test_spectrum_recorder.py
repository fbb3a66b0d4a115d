"""Eigenvalues are recorded at the chosen steps, on the same sequences, whole, and across an interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from seqmix.inspect import SpectrumRecord, eigenvalues, observe, read_spectra
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.callbacks import Checkpoints, SpectrumRecorder, TrainingInterrupted
from seqmix.training.config.files import expand
from tests.training.test_resume import StopAfter


def fit(
    path: Path, recorder: SpectrumRecorder, mixer="bd-lru", *more: Callback, ckpt=None, **options
) -> SequenceLearner:
    torch.manual_seed(0)
    task = create_task("word-problem", group="S3", train_length=8, batch_size=4, eval_size=8)
    learner = SequenceLearner(mixer, task.vocab_size, 8, n_layers=2, optimizer={"name": "adamw", "lr": 1e-2})
    trainer = Trainer(
        max_steps=7,
        accelerator="cpu",
        callbacks=[recorder, *more],
        default_root_dir=path,
        logger=False,
        enable_checkpointing=any(isinstance(c, Checkpoints) for c in more),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(learner, datamodule=task, ckpt_path=ckpt)
    return learner


def test_files_hold_what_the_layers_have(tmp_path: Path) -> None:
    learner = fit(tmp_path, SpectrumRecorder(every=3, steps=[1], sequences=2, length=5))
    records = read_spectra(tmp_path / "spectra")
    assert [record.step for record in records] == [0, 1, 3, 6, 7]
    task = create_task("word-problem", group="S3", train_length=8, eval_size=8)
    words = next(iter(task.val_dataloader()[0]))["tokens"][:2, :5]
    assert all(np.array_equal(record.tokens, words) for record in records)
    found = observe(learner.model, eigenvalues, words)
    assert set(records[-1].layers) == set(found) == {"blocks.0.mixer", "blocks.1.mixer"}
    for name, values in found.items():
        np.testing.assert_allclose(records[-1].layers[name], values.numpy(), rtol=1e-5, atol=1e-6)
        assert not np.allclose(records[0].layers[name], values.numpy(), atol=1e-3)
    assert not list(tmp_path.glob("spectra/.*"))  # no part of a file is left


def test_recording_changes_nothing(tmp_path: Path) -> None:
    with_files = fit(tmp_path / "a", SpectrumRecorder(every=1)).state_dict()
    without = fit(tmp_path / "b", SpectrumRecorder(every=None)).state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_files.items())
    assert [r.step for r in read_spectra(tmp_path / "b" / "spectra")] == [0, 7]


def test_a_step_of_several_batches_is_recorded_once(tmp_path: Path, monkeypatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(SpectrumRecord, "write", lambda record, folder: written.append(record.step))
    fit(tmp_path, SpectrumRecorder(every=1), accumulate_grad_batches=3)
    assert written == list(range(8))


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    fit(tmp_path / "whole", SpectrumRecorder(every=2))
    stop = Checkpoints(every_n_steps=3)
    with pytest.raises(TrainingInterrupted):
        fit(tmp_path / "parts", SpectrumRecorder(every=2), "bd-lru", stop, StopAfter(3))
    SpectrumRecord(6, np.zeros((1, 1), np.int64), {}).write(tmp_path / "parts" / "spectra")  # of a future that was lost
    SpectrumRecord(50, np.zeros((1, 1), np.int64), {}).write(tmp_path / "parts" / "spectra")
    ckpt = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", SpectrumRecorder(every=2), "bd-lru", Checkpoints(), ckpt=ckpt)
    whole, parts = (read_spectra(tmp_path / name / "spectra") for name in ("whole", "parts"))
    assert [r.step for r in parts] == [r.step for r in whole] == [0, 2, 4, 6, 7]
    for a, b in zip(whole, parts, strict=True):
        assert all(np.array_equal(values, b.layers[name]) for name, values in a.layers.items())


def test_layers_without_eigenvalues_are_left_out(tmp_path: Path) -> None:
    fit(tmp_path, SpectrumRecorder(), ["attention", "lru"])
    assert set(read_spectra(tmp_path / "spectra")[0].layers) == {"blocks.1.mixer"}
    with pytest.raises(ValueError, match="must have a layer whose transitions have eigenvalues"):
        fit(tmp_path, SpectrumRecorder(), "lstm")


def test_mistakes_are_told(tmp_path: Path) -> None:
    for arguments in ({"every": 0}, {"sequences": True}, {"length": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a positive integer"):
            SpectrumRecorder(**arguments)
    with pytest.raises(ValueError, match="steps must be integers of at least 0"):
        SpectrumRecorder(steps=[1, -2])
    with pytest.raises(ValueError, match="expected files step-N"):
        read_spectra(tmp_path)
    (tmp_path / "step-3.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"step-3.npz: expected eigenvalues that SpectrumRecorder wrote"):
        read_spectra(tmp_path)


def test_a_config_switches_it_on() -> None:
    callbacks = expand({"spectrum": {"every": 10}})["trainer"]["callbacks"]
    entry = {"class_path": "seqmix.training.callbacks.SpectrumRecorder", "init_args": {"every": 10}}
    assert entry in callbacks and not any("Spectrum" in c["class_path"] for c in expand({})["trainer"]["callbacks"])
