"""Averaged weights in training: evaluated, saved, resumed, tested; and averages of checkpoints afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from seqmix.__main__ import main
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.average import average_checkpoints
from seqmix.training.callbacks import Checkpoints, EMAWeights, GateEntropyPenalty, LAWAWeights, OptimizerModes

AVERAGES = {"ema": lambda: EMAWeights(0.6), "lawa": lambda: LAWAWeights(3, 2)}


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def saved(path: Path, key: str) -> torch.Tensor:
    return torch.cat([value.flatten() for value in torch.load(path)[key].values()])


class Watch(Callback):
    """Weights after each step, and those that validation saw."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.steps.append(weights(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.validated.append(weights(pl_module))


def fit(path: Path, *callbacks: Callback, steps: int = 12, resume: bool = False, **kwargs: Any):
    torch.manual_seed(1 if resume else 0)
    task = create_task("parity", train_length=6, batch_size=4, eval_size=4)
    optimizer = {"name": "adamw", "lr": 3e-2}
    learner = SequenceLearner("bd-lru", task.vocab_size, 8, optimizer=optimizer, schedule="constant")
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[*callbacks, GateEntropyPenalty(ramp_steps=0), Checkpoints()],
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **kwargs,
    )
    trainer.fit(learner, datamodule=task, ckpt_path=path / "checkpoints" / "last.ckpt" if resume else None)
    return learner, trainer, task


def by_hand(kind: str, steps: list[torch.Tensor]) -> torch.Tensor:
    if kind == "lawa":
        return torch.stack(steps[1::2][-3:]).mean(0)
    average = steps[0]
    for current in steps[1:]:
        average = 0.6 * average + 0.4 * current
    return average


@pytest.mark.parametrize("kind", AVERAGES)
def test_average_is_evaluated_saved_and_kept(tmp_path: Path, kind: str) -> None:
    watch = Watch()
    learner, trainer, task = fit(tmp_path, AVERAGES[kind](), watch)
    expected = by_hand(kind, watch.steps)
    assert (expected - watch.steps[-1]).abs().max() > 1e-2
    torch.testing.assert_close(weights(learner), expected)
    assert len(watch.validated) >= 2
    torch.testing.assert_close(watch.validated[0], by_hand(kind, watch.steps[:5]))
    # The checkpoint has the average for who tests, and the current weights for who goes on.
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.testing.assert_close(saved(last, "state_dict"), expected)
    torch.testing.assert_close(saved(last, "current_model_state"), watch.steps[-1])
    tested = trainer.test(learner, datamodule=task, verbose=False)
    again = trainer.test(learner, datamodule=task, ckpt_path=last, verbose=False)
    assert tested == again
    torch.testing.assert_close(weights(learner), expected)


@pytest.mark.parametrize("kind", AVERAGES)
def test_resumed_equals_uninterrupted(tmp_path: Path, kind: str) -> None:
    whole, *_ = fit(tmp_path / "whole", AVERAGES[kind]())
    fit(tmp_path / "part", AVERAGES[kind](), steps=7)
    part, *_ = fit(tmp_path / "part", AVERAGES[kind](), resume=True)
    assert torch.equal(weights(whole), weights(part))
    for key in ("state_dict", "current_model_state"):
        one, two = (saved(tmp_path / name / "checkpoints" / "last.ckpt", key) for name in ("whole", "part"))
        assert torch.equal(one, two)


def test_before_the_first_snapshot_the_average_is_the_current_weights(tmp_path: Path) -> None:
    watch = Watch()
    learner, *_ = fit(tmp_path, LAWAWeights(2, 100), watch)
    assert torch.equal(weights(learner), watch.steps[-1])
    assert torch.equal(watch.validated[0], watch.steps[4])
    assert torch.equal(saved(tmp_path / "checkpoints" / "last.ckpt", "state_dict"), watch.steps[-1])


def test_a_run_without_an_average_goes_on_with_one(tmp_path: Path) -> None:
    fit(tmp_path, steps=6)
    watch = Watch()
    learner, *_ = fit(tmp_path, LAWAWeights(2, 2), watch, steps=10, resume=True)
    torch.testing.assert_close(weights(learner), (watch.steps[1] + watch.steps[3]) / 2)


def test_new_weights_begin_a_new_average(tmp_path: Path) -> None:
    class Restart(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if trainer.global_step == 6:
                for callback in trainer.callbacks:
                    if hasattr(callback, "start_again"):
                        callback.start_again()

    for kind, make in AVERAGES.items():
        watch = Watch()
        learner, *_ = fit(tmp_path / kind, make(), watch, Restart())
        torch.testing.assert_close(weights(learner), by_hand(kind, watch.steps[6:]))


@pytest.mark.parametrize(
    ("callbacks", "kwargs", "message"),
    [
        ([EMAWeights(), LAWAWeights()], {}, "a run has one average, got 2"),
        ([EMAWeights(), OptimizerModes()], {}, r"must not average its weights itself \(schedule-free\)"),
        ([EMAWeights()], {"precision": "bf16-true"}, "bf16-true parameters loses its small changes"),
    ],
)
def test_what_cannot_be_averaged(tmp_path: Path, callbacks: list, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, *callbacks, **kwargs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMAWeights(1.0), r"decay must be in \[0, 1\)"),
        (lambda: EMAWeights(every_n_steps=0), "every_n_steps must be a positive integer"),
        (lambda: LAWAWeights(0), "size must be a positive integer"),
        (lambda: LAWAWeights(start=-1), "start must be an integer of at least 0"),
        (lambda: Checkpoints(keep_every_n_steps=0), "keep_every_n_steps must be a positive integer"),
    ],
)
def test_bad_numbers(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--config", "parity", "--trainer.accelerator", "cpu", "--trainer.max_steps", "6", "--data.eval_size", "4"]
    short += ["--data.eval_lengths", "[8]", "--data.train_length", "8", "--accuracy_table.figure", "false"]
    short += ["--checkpoints.keep_every_n_steps", "2", "--lawa", "{size: 2, every_n_steps: 2}", "--run_dir", "run"]
    assert main(["fit", *short]) == 0
    assert "class_path: seqmix.training.callbacks.LAWAWeights" in Path("run/config.yaml").read_text()
    kept = [Path(f"run/checkpoints/step-{step}.ckpt") for step in (2, 4, 6)]
    assert main(["average", *map(str, kept), "--last", "2", "--out", "run/checkpoints/mean.ckpt"]) == 0
    assert "average of steps 4, 6" in capsys.readouterr().out
    # The offline mean of the same snapshots is the online one.
    online, offline = (torch.load(f"run/checkpoints/{name}.ckpt") for name in ("last", "mean"))
    for name, value in online["state_dict"].items():
        torch.testing.assert_close(offline["state_dict"][name], value)
    assert main(["test", "--ckpt_path", "run/checkpoints/mean.ckpt"]) == 0
    decayed = average_checkpoints(kept, decay=0.5)
    raw = [torch.load(path)["current_model_state"] for path in kept]
    for name, value in decayed["state_dict"].items():
        torch.testing.assert_close(value, (raw[0][name] + 2 * raw[1][name] + 4 * raw[2][name]) / 7)
    capsys.readouterr()
    Path("no.ckpt").write_text("no")
    for options, message in (
        ([str(kept[0]), str(kept[0]), "--out", "x.ckpt"], "two of step 2"),
        (["no.ckpt", "--out", "x.ckpt"], "cannot read no.ckpt"),
        ([str(kept[0]), "--last", "2", "--out", "x.ckpt"], "--last: expected 1 to 1"),
        ([str(kept[0]), "--decay", "0", "--out", "x.ckpt"], "--decay: expected a number in (0, 1]"),
        ([str(kept[0]), "--out", "none/x.ckpt"], "--out: expected a file in a folder that exists"),
    ):
        assert main(["average", *options]) == 2
        assert message in capsys.readouterr().err
    assert not Path("x.ckpt").exists()
