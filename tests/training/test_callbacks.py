"""Callbacks: growth of the lengths, gate penalty, guard, checkpoints, table, progress."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.callbacks import (
    AccuracyTable,
    Checkpoints,
    GateEntropyPenalty,
    LengthCurriculum,
    NonFiniteGuard,
    NonFiniteLossError,
    PredictionFiles,
    StepProgress,
    TrainingInterrupted,
)
from seqmix.training.callbacks._accuracy_figure import draw
from seqmix.training.callbacks.gate_entropy import gate_entropy


def task(**kwargs):
    return create_task("parity", **{"train_length": 8, "min_length": None, "batch_size": 8, "eval_size": 5} | kwargs)


def learner(mixer="bd-lru", **kwargs) -> SequenceLearner:
    torch.manual_seed(0)
    return SequenceLearner(mixer, 3, 8, **{"optimizer": {"name": "adamw", "lr": 1e-2}} | kwargs)


def trainer(path: Path, *callbacks: Callback, **kwargs) -> Trainer:
    arguments = {"max_steps": 6, "logger": False, "accelerator": "cpu", "limit_val_batches": 0}
    arguments |= {"enable_progress_bar": False, "enable_model_summary": False}
    arguments["enable_checkpointing"] = any(isinstance(callback, Checkpoints) for callback in callbacks)
    return Trainer(default_root_dir=path, callbacks=list(callbacks), **arguments | kwargs)


class Lengths(Callback):
    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(batch["tokens"].shape[1] - 1)


class AlwaysRight(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.last_counts = torch.tensor([1, 1])


def test_lengths_grow_by_one_then_by_a_quarter() -> None:
    curriculum = LengthCurriculum(start=2, end=30)
    lengths = [2]
    while lengths[-1] < 30:
        lengths.append(curriculum.grown(lengths[-1]))
    assert lengths == [2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 30]


def test_the_batch_after_a_decision_has_the_new_length(tmp_path: Path) -> None:
    lengths = Lengths()
    curriculum = LengthCurriculum(start=2, smoothing=0.0)
    trainer(tmp_path, AlwaysRight(), lengths, curriculum, max_steps=9).fit(learner("lstm"), datamodule=task())
    assert lengths.seen == [2, 3, 4, 5, 6, 7, 8, 8, 8] and curriculum.finished
    lengths, curriculum = Lengths(), LengthCurriculum(start=2, smoothing=0.0, every_n_steps=3)
    trainer(tmp_path, AlwaysRight(), lengths, curriculum, max_steps=9).fit(learner("lstm"), datamodule=task())
    assert lengths.seen == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    lengths, curriculum = Lengths(), LengthCurriculum(start=2)
    trainer(tmp_path, AlwaysRight(), lengths, curriculum, max_steps=24).fit(learner("lstm"), datamodule=task())
    assert lengths.seen == [2] * 22 + [3] * 2, "the running accuracy has to build up"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start must be a positive integer"),
        ({"start": 5, "end": 4}, "end must be an integer of at least start = 5, got 4"),
        ({"threshold": 1.0}, "threshold"),
        ({"smoothing": 1}, "smoothing"),
    ],
)
def test_bad_curriculum(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LengthCurriculum(**arguments)


def test_curriculum_that_does_not_fit_the_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_workers must be 0"):
        trainer(tmp_path, LengthCurriculum()).fit(learner(), datamodule=task(num_workers=1))
    with pytest.raises(ValueError, match="train_length = 8 must hold"):
        trainer(tmp_path, LengthCurriculum(start=9)).fit(learner(), datamodule=task())


def test_gate_entropy_by_hand() -> None:
    gates = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    entropy = gate_entropy(gates)
    torch.testing.assert_close(entropy.detach(), torch.tensor([2.0, 1.0]).log())
    entropy.sum().backward()
    assert gates.grad is not None and gates.grad.isfinite().all()


class Terms(Callback):
    def __init__(self) -> None:
        self.weights: list[float] = []

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        self.weights.append(next(c._current for c in trainer.callbacks if isinstance(c, GateEntropyPenalty)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_penalty_ramps_up_and_sharpens_gates(tmp_path: Path, checkpointing: bool) -> None:
    terms, penalty, data = Terms(), GateEntropyPenalty(weight=0.4, ramp_steps=4), task()
    model = learner(activation_checkpointing=checkpointing, schedule="constant")
    x = torch.randn(4, 8, 8)
    before = gate_entropy(model.model.blocks[0].mixer.gates(x)).mean().item()
    trainer(tmp_path, penalty, terms, max_steps=60).fit(model, datamodule=data)
    assert terms.weights[:6] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])
    assert gate_entropy(model.model.blocks[0].mixer.gates(x)).mean().item() < 0.8 * before
    assert not model.loss_terms, "nothing is left behind"


def test_penalty_waits_for_the_curriculum(tmp_path: Path) -> None:
    penalty = GateEntropyPenalty()
    curriculum = LengthCurriculum(start=2, end=5, smoothing=0.0)
    trainer(tmp_path, AlwaysRight(), penalty, curriculum).fit(learner("h-lru"), datamodule=task())
    assert penalty.started_at == 3


def test_penalty_from_a_length_on_after_a_delay(tmp_path: Path) -> None:
    terms, penalty = Terms(), GateEntropyPenalty(weight=0.4, ramp_steps=2, from_length=4, delay=3)
    curriculum = LengthCurriculum(start=2, smoothing=0.0)
    trainer(tmp_path, AlwaysRight(), terms, penalty, curriculum, max_steps=9).fit(learner(), datamodule=task())
    # Length 4 is reached after the second step.
    assert penalty.started_at == 2
    assert terms.weights == pytest.approx([0, 0, 0, 0, 0, 0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize(
    "mixer", [{"name": "bd-lru", "block_size": 2, "normalization": "l1"}, {"name": "h-lru", "order": 3}]
)
def test_penalty_sharpens_signed_gates_and_those_of_h_lru(tmp_path: Path, mixer: dict[str, Any]) -> None:
    model = learner(mixer, schedule="constant")
    block = model.model.blocks[0]

    def entropy() -> float:
        x = block.mixer_norm(model.model.embedding.weight).unsqueeze(0)
        return gate_entropy(block.mixer.gates(x)).mean().item()

    before = entropy()
    trainer(tmp_path, GateEntropyPenalty(weight=1.0, ramp_steps=0), max_steps=60).fit(model, datamodule=task())
    assert entropy() < 0.8 * before


def test_penalty_from_a_length_that_never_comes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from_length must be at most the 8 of the task, got 9"):
        trainer(tmp_path, GateEntropyPenalty(from_length=9), LengthCurriculum()).fit(learner(), datamodule=task())
    with pytest.raises(ValueError, match="from_length needs a LengthCurriculum"):
        trainer(tmp_path, GateEntropyPenalty(from_length=4)).fit(learner(), datamodule=task())


def test_penalty_needs_gates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mixers with gates"):
        trainer(tmp_path, GateEntropyPenalty()).fit(learner("lstm"), datamodule=task())


class Poison(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.model.norm.weight.fill_(float("nan"))


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step 3 \(learning rate 0\.01.*no checkpoint was written"):
        trainer(tmp_path, NonFiniteGuard(), Poison(3)).fit(learner(schedule="constant"), datamodule=task())
    with pytest.raises(NonFiniteLossError, match=r"step 5 .*last good checkpoint is .*last\.ckpt"):
        run = trainer(tmp_path, NonFiniteGuard(), Poison(5), Checkpoints(every_n_steps=2))
        run.fit(learner(), datamodule=task())
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4 and all(value.isfinite().all() for value in saved["state_dict"].values())


def test_last_and_best_are_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(every_n_steps=100)
    run = trainer(tmp_path, checkpoints, limit_val_batches=1.0, val_check_interval=4, check_val_every_n_epoch=None)
    run.fit(learner(), datamodule=task())
    steps = {name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt")["global_step"] for name in ("last", "best")}
    assert steps == {"last": 6, "best": 4}
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["best.ckpt", "last.ckpt"]
    restored = SequenceLearner.load_from_checkpoint(checkpoints.last_model_path)
    assert restored.model.config["mixer"] == [{"name": "bd-lru"}]


class Kill(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), self.signal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint(tmp_path: Path, number: int) -> None:
    before, kill = signal.getsignal(number), Kill()
    kill.signal = number
    with pytest.raises(
        TrainingInterrupted, match=rf"{signal.Signals(number).name} after step 4; --ckpt_path .*last\.ckpt"
    ):
        trainer(tmp_path, Checkpoints(), kill).fit(learner(), datamodule=task())
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert signal.getsignal(number) is before


def test_table_figure_and_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model = task(eval_lengths=(8, 20), eval_size=7), learner()
    run = trainer(tmp_path, AccuracyTable(), PredictionFiles())
    run.test(model, datamodule=data, verbose=False)
    printed = capsys.readouterr().out
    assert "chance 0.500" in printed and "whole sequence" in printed and "(training length)" in printed
    with (tmp_path / "accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["length"] for row in rows] == ["8", "20"]
    assert float(rows[1]["token_accuracy"]) == run.callback_metrics["test/token_accuracy/20"].item()
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    run.predict(model, datamodule=data)
    import numpy as np

    answers = np.load(tmp_path / "predictions-20.npz")
    assert answers["predictions"].shape == answers["targets"].shape == (7, 21)
    right = (answers["predictions"] == answers["targets"])[:, 1:].mean()
    assert right == pytest.approx(float(rows[1]["token_accuracy"]))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")], "no parts of files are left"


def test_a_test_of_other_lengths_keeps_the_numbers_that_are_there(tmp_path: Path) -> None:
    model, found = learner(), {}
    for lengths in ((8, 20), (8, 9), (8, 20), (8, 9), (10,)):
        run = trainer(tmp_path, AccuracyTable())
        run.test(model, datamodule=task(eval_lengths=lengths, eval_size=7), verbose=False)
        found |= {path.name: path.read_text() for path in tmp_path.glob("*.csv") if path.name not in found}
    assert sorted(found) == ["accuracy-2.csv", "accuracy-3.csv", "accuracy.csv"]
    assert found == {name: (tmp_path / name).read_text() for name in found}
    assert {path.stem for path in tmp_path.glob("*.png")} == {"accuracy", "accuracy-2", "accuracy-3"}
    # A run that has gone on has its own numbers there.
    run = trainer(tmp_path, AccuracyTable(figure=False), max_steps=1)
    run.fit(model, datamodule=task(eval_lengths=(11,), eval_size=7))
    run.test(model, datamodule=task(eval_lengths=(11,), eval_size=7), verbose=False)
    assert "\n11," in (own := (tmp_path / "accuracy.csv").read_text()) and len(list(tmp_path.glob("*.csv"))) == 3
    run.test(model, datamodule=task(eval_lengths=(12,), eval_size=7), verbose=False)
    assert (tmp_path / "accuracy.csv").read_text() == own, "and keeps them when it is tested again"
    assert "\n12," in (tmp_path / "accuracy-4.csv").read_text()


def test_validation_prints_the_table_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, AccuracyTable(), limit_val_batches=1.0).validate(
        learner(), datamodule=task(eval_size=7), verbose=False
    )
    printed = capsys.readouterr().out
    assert "chance 0.500" in printed and "whole sequence" in printed and "       8  " in printed
    assert not (tmp_path / "accuracy.csv").exists()
    quiet = trainer(tmp_path, AccuracyTable(), limit_val_batches=1.0)
    quiet.fit(learner(), datamodule=task(eval_size=7))
    assert "whole sequence" not in capsys.readouterr().out, "not with every validation of a training"


def test_the_figure_shows_every_measure_and_its_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *a, **k: drawn.append(figure))
    right = {"loss": 0.0, "token_accuracy": 1.0, "last_accuracy": 1.0, "sequence_accuracy": 1.0}
    rows = [{"length": 8, **right}, {"length": 16, **right}]
    draw(tmp_path / "x.png", rows, "Parity Z2, bd-lru, seed 3", 0.5, 8, {"8": 8.0, "16": 16.0})
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    widths = [lines[name].get_linewidth() for name in ("whole sequence", "last position", "every position")]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3, "equal curves lie inside one another"
    guesses = [
        list(line.get_ydata()) for line in axes.lines if line.get_label().startswith("_") and len(line.get_xdata())
    ]
    assert [0.5, 0.5] in guesses and [0.5**8, 0.5**16] in guesses
    assert axes.get_title() == "Parity Z2, bd-lru, seed 3"
    draw(tmp_path / "text.png", [{"length": 64, "bits_per_byte": 2.0, "perplexity": 4.0}], "Text", None, 64, {})
    assert drawn[1].axes[0].get_ylim()[0] == 0


@pytest.mark.filterwarnings("error")
def test_a_single_length_has_no_scale(tmp_path: Path) -> None:
    row = {"length": 100, "loss": 0.7, "token_accuracy": 0.5, "last_accuracy": 0.5, "sequence_accuracy": 0.5}
    draw(tmp_path / "one.png", [row], "ListOps", 0.5, 100, {"100": 1.0})
    assert (tmp_path / "one.png").stat().st_size


def test_progress_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, StepProgress(lines_every=0.0), LengthCurriculum(), enable_progress_bar=True).fit(
        learner(), datamodule=task()
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/6  loss ") and "length 2" in lines[0] and "steps/s" not in lines[0]
    assert "steps/s" in lines[3] and "left" in lines[3] and lines[-1].startswith("trained 6 steps in 0:0")
