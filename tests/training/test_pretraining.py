"""Self-pretraining: what goes in and what is asked for, whose weights move, and that a continued run does it once."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqmix.commands.train import main
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.pretraining import Pretraining, PretrainingLearner, pretrain

CPU = {"accelerator": "cpu", "logger": False}


def digits(bidirectional: bool = True, **kwargs) -> SequenceLearner:
    torch.manual_seed(0)
    head = {"name": "classification", "n_classes": 10}
    options = {"d_model": 8, "head": head, "bidirectional": bidirectional, "schedule": "constant"}
    return SequenceLearner("lru", 18, **options | kwargs)


def stage(bidirectional: bool = True, mask_token: int | None = 17, seed: int = 0, **options) -> PretrainingLearner:
    learner = digits(bidirectional, head=None)
    return PretrainingLearner(
        learner, SimpleNamespace(mask_token=mask_token, seed=seed), Pretraining(**{"steps": 3} | options)
    )


def batch(**kwargs) -> dict[str, torch.Tensor]:
    return {"tokens": torch.randint(17, (40, 50), generator=torch.Generator().manual_seed(0))} | kwargs


def test_masked_tokens_are_asked_for() -> None:
    lengths = torch.full((40,), 30)
    data = batch(lengths=lengths)
    inputs, targets = stage(mask_rate=0.2).inputs_and_targets(data)
    masked = inputs == 17
    assert abs(masked[:, :30].float().mean() - 0.2) < 0.05 and not masked[:, 30:].any(), "padding is never asked for"
    assert torch.equal(targets[masked], data["tokens"][masked]) and (targets[~masked] == -100).all()
    assert torch.equal(inputs[~masked], data["tokens"][~masked])
    assert torch.equal(stage(mask_rate=0.2).inputs_and_targets(data)[0], inputs), "the masks of a step are fixed"
    assert not torch.equal(stage(mask_rate=0.2, seed=1).inputs_and_targets(data)[0], inputs)


def test_causal_targets_are_the_next_tokens_of_the_same_sequence() -> None:
    data = batch(lengths=torch.full((40,), 30))
    inputs, targets = stage(False).inputs_and_targets(data)
    assert torch.equal(inputs, data["tokens"]) and torch.equal(targets[:, :29], inputs[:, 1:30])
    assert (targets[:, 29:] == -100).all()
    row = {"tokens": data["tokens"][:1], "cu_seqlens": torch.tensor([0, 20, 20, 50], dtype=torch.int32)}
    _, targets = stage(False).inputs_and_targets(row)
    expected = row["tokens"].roll(-1, 1)
    expected[0, [19, 49]] = -100
    assert torch.equal(targets, expected)


def test_the_model_moves_and_its_head_stays(tmp_path: Path) -> None:
    learner, task = digits(), create_task("digits", batch_size=16)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    pretrain(learner, task, Pretraining(steps=2), CPU, str(tmp_path))
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert not any("model.head" in name for name in moved)
    assert any("ahead" in name for name in moved) and any("back" in name for name in moved)
    assert all(p.requires_grad for p in learner.parameters())


def test_a_run_goes_through_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ["--progress", "null", "--trainer.logger=false", "--accuracy_table", "null", "--trainer.accelerator=cpu"]
    small = ["--data.batch_size", "16", "--model.d_model", "8", "--trainer.enable_progress_bar=false"]
    options = ["fit", "--config", "digits", "--run_dir", str(tmp_path / "run"), *small, *quiet]
    options += ["--test_after_fit", "none"]
    assert main([*options, "--pretrain.steps", "2", "--pretrain.mask_rate", "0.3", "--trainer.max_steps", "1"]) == 0
    assert "pretraining on the task's own inputs: 2 steps, loss" in capsys.readouterr().out
    assert "mask_rate: 0.3" in (tmp_path / "run" / "config.yaml").read_text()
    assert main([*options, "--ckpt_path", "last", "--trainer.max_steps", "2"]) == 0
    assert "pretraining" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"objective": "causal"}, "expected {steps: ..., arguments} or null"),
        ({"steps": 5, "objective": "denoising"}, "objective must be 'masked', 'causal' or null, got 'denoising'"),
        ({"steps": 5, "mask_rate": 1}, r"mask_rate must be in \(0, 1\), got 1"),
        ({"steps": 5, "lr": 0}, "lr must be positive or null"),
        ({"steps": 5, "maskrate": 0.1}, "unknown argument of pretrain: 'maskrate'; did you mean 'mask_rate'"),
        (True, "expected {steps"),
    ],
)
def test_bad_sections(section, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretraining.parse(section)


def test_objectives_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="'causal' needs causal layers, got model"):
        stage(objective="causal")
    with pytest.raises(ValueError, match="'masked' needs a task with a mask token, which SimpleNamespace has not"):
        stage(mask_token=None)
    with pytest.raises(ValueError, match="parameters must not be sharded"):
        pretrain(digits(), None, Pretraining(steps=1), {"strategy": "fully_shard"}, ".")
