"""The learner: loss, measures, optimizer and schedule; and that the contrast that everything is about shows."""

import itertools
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from seqmix.optim import create_optimizer, create_schedule
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.answers import cross_entropy, free_running_answers
from seqmix.training.callbacks import AccuracyTable, LengthCurriculum
from seqmix.training.metrics import Counts


class OneProcess:
    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return tensor


def trainer(path: Path, **kwargs) -> Trainer:
    arguments = {"max_steps": 3, "logger": False, "accelerator": "cpu", "enable_checkpointing": False}
    arguments |= {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Trainer(default_root_dir=path, **arguments | kwargs)


def test_counts_by_hand() -> None:
    targets = torch.tensor([[-100, 0, 1], [-100, 1, -100], [-100, 1, 1], [-100, -100, -100]])
    answers = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    logits = F.one_hot(answers, 2) * 2.0
    counts = Counts(torch.device("cpu"))
    counts.add(logits[:2], targets[:2])
    counts.add(logits[2:], targets[2:])
    rates = {name: value.item() for name, value in counts.rates(OneProcess()).items()}
    wrong, right = torch.tensor([[0.0, 2.0]]).log_softmax(-1)[0].neg().tolist()
    expected = {"token_accuracy": 4 / 5, "last_accuracy": 2 / 3, "sequence_accuracy": 2 / 3}
    assert rates == pytest.approx(expected | {"loss": (4 * right + wrong) / 5})


def test_packed_counts_are_those_of_the_sequences_one_by_one() -> None:
    lengths, logits = [3, 1, 4, 2], torch.randn(10, 5)
    targets = torch.randint(5, (10,))
    targets[[0, 3, 7]] = -100  # the second sequence has no target
    targets[[8, 9]] = logits[[8, 9]].argmax(-1)  # the last is right
    packed, apart = Counts(torch.device("cpu")), Counts(torch.device("cpu"))
    bounds = torch.tensor([0, 3, 4, 8, 10], dtype=torch.int32)
    packed.add(logits[None], targets[None], bounds)
    for row, row_targets in zip(logits.split(lengths), targets.split(lengths), strict=True):
        apart.add(row[None], row_targets[None])
    torch.testing.assert_close(packed.sums, apart.sums)
    assert packed.sums[5] == 3 and packed.sums[4] >= 1


def test_packed_sequences_train_as_they_would_apart(tmp_path: Path) -> None:
    task = create_task("parity", train_length=6, min_length=2, batch_size=8, packed=True)
    learner = SequenceLearner(["bd-lru", "attention"], task.vocab_size, 8, 2).double()
    batch = next(iter(task.train_dataloader()))
    packed = learner(batch["tokens"], cu_seqlens=batch["cu_seqlens"])
    bounds = batch["cu_seqlens"].tolist()
    assert len({b - a for a, b in itertools.pairwise(bounds)}) > 1
    apart = [learner(batch["tokens"][:, a:b]) for a, b in itertools.pairwise(bounds)]
    torch.testing.assert_close(packed, torch.cat(apart, 1))
    run = trainer(tmp_path, callbacks=[LengthCurriculum(start=2)], log_every_n_steps=1)
    run.fit(SequenceLearner("lru", task.vocab_size, 8), datamodule=task)
    assert run.callback_metrics["train/loss"].isfinite()


def test_free_running_answers_feed_on_themselves() -> None:
    learner = SequenceLearner("lstm", 6, 8).eval()
    tokens = torch.randint(6, (3, 9))
    targets = torch.full_like(tokens, -100)
    targets[:, 5:] = torch.randint(6, (3, 4))
    answers, wanted = free_running_answers(learner.model, tokens, targets)
    assert torch.equal(wanted, targets[:, 5:])
    fed = tokens[:, :6]
    for _ in range(4):
        fed = torch.cat([fed, learner(fed)[:, -1:].argmax(-1)], 1)
    assert torch.equal(answers, fed[:, 6:])
    # What is asked is not looked at: later inputs change nothing.
    assert torch.equal(
        free_running_answers(learner.model, torch.cat([tokens[:, :6], 5 - tokens[:, 6:]], 1), targets)[0], answers
    )


def test_copies_are_measured_teacher_forced_and_free_running(tmp_path: Path) -> None:
    task = create_task("string-copy", n_letters=3, train_length=3, eval_lengths=(3, 5), eval_size=6, batch_size=8)
    learner = SequenceLearner("lstm", task.vocab_size, 8)
    run = trainer(tmp_path, max_steps=1, callbacks=[AccuracyTable(figure=False)])
    run.fit(learner, datamodule=task)
    run.test(learner, datamodule=task, verbose=False)
    for each in task.test_sets:
        batch = each.examples(seed=0, split=f"test {each.name}", start=0, count=6, length=each.length)
        answers, targets = free_running_answers(learner.model, batch["tokens"], batch["targets"])
        expected = (answers == targets).float().mean()
        assert run.callback_metrics[f"test/free_token_accuracy/{each.name}"] == pytest.approx(expected.item())
        assert f"test/sequence_accuracy/{each.name}" in run.callback_metrics
    assert "free_sequence_accuracy" in (tmp_path / "accuracy.csv").read_text()


def test_compression_needs_the_head_that_keeps_one_vector(tmp_path: Path) -> None:
    task = create_task("compression", vocab_size=5, train_length=6, eval_lengths=(6,), batch_size=4, eval_size=4)
    with pytest.raises(ValueError, match="Compression asks for its own input again, expected 'autoencoder', got 'lang"):
        trainer(tmp_path).fit(SequenceLearner("lstm", 5, 8), datamodule=task)
    trainer(tmp_path).fit(SequenceLearner("lstm", 5, 8, head="autoencoder"), datamodule=task)


def test_loss_is_float32_and_skips_what_has_no_target() -> None:
    logits, targets = torch.randn(2, 3, 5, dtype=torch.bfloat16), torch.tensor([[-100, 1, 2], [-100, -100, 4]])
    loss = cross_entropy(logits, targets)
    picked = logits.float().log_softmax(-1)[[0, 0, 1], [1, 2, 2], [1, 2, 4]]
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(-picked.mean().item())


def test_schedule() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=2.0)
    schedule = create_schedule("cosine", optimizer, 10, warmup=2, final=0.1)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [1.0, 2.0, 2.0] and rates == [rates[0], *sorted(rates[1:], reverse=True)]
    assert rates[6] == pytest.approx(2 * (0.1 + 0.9 / 2)) and optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    create_schedule("cosine", optimizer, 1, warmup=50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixer": "bdlru"}, "unknown mixer 'bdlru'; did you mean 'bd-lru'"),
        ({"optimizer": "adamwd"}, "unknown optimizer 'adamwd'; did you mean 'adamw'"),
        ({"mixer": {"name": "bd-lru", "blocksize": 2}}, "did you mean 'block_size'"),
        (
            {"optimizer": {"name": "adamw", "learning_rate": 1}},
            "unknown argument of optimizer 'adamw': 'learning_rate'",
        ),
        ({"optimizer": {"lr": 1}}, "optimizer: expected a name"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"schedule": {"name": "cosine", "warmup": -1}}, "warmup"),
        ({"schedule": {"name": "cosine", "warm": 1}}, "warmup"),
        ({"schedule": {"name": "cosine", "final": 2}}, "final"),
        ({"d_model": 0}, "d_model"),
        ({"n_layers": 0}, "n_layers"),
    ],
)
def test_bad_arguments(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceLearner(**{"mixer": "lstm", "vocab_size": 5, "d_model": 8} | arguments)


def test_optimizer_sees_groups_and_arguments() -> None:
    learner = SequenceLearner("lru", 5, 8)
    optimizer = create_optimizer("adamw", learner.model, lr=1e-2, betas=[0.8, 0.9], weight_decay=0.1)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(learner.model.parameters()))


def test_a_cosine_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs trainer\.max_steps"):
        trainer(tmp_path, max_steps=-1, max_epochs=-1).fit(
            SequenceLearner("lstm", 3, 8), datamodule=create_task("parity", train_length=3)
        )


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_precision_flags(precision: str, tmp_path: Path) -> None:
    task = create_task("parity", train_length=4, batch_size=8, eval_lengths=(4,), eval_size=4)
    learner = SequenceLearner(["bd-lru", "attention"], task.vocab_size, 8, 2)
    run = trainer(tmp_path, precision=precision)
    run.fit(learner, datamodule=task)
    run.test(learner, datamodule=task, verbose=False)
    assert run.callback_metrics["test/loss/4"].isfinite()
    wanted = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert learner.model.norm.weight.dtype == wanted


def test_activation_checkpointing_changes_no_number(tmp_path: Path) -> None:
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        task = create_task("parity", train_length=6, batch_size=8)
        learner = SequenceLearner("bd-lru", task.vocab_size, 8, 2, activation_checkpointing=checkpointing)
        trainer(tmp_path).fit(learner, datamodule=task)
        results.append(torch.cat([p.detach().flatten() for p in learner.parameters()]))
    torch.testing.assert_close(*results)


def parity(mixer: dict, path: Path, *, train_length: int = 12, steps: int = 400, lr: float = 1e-2) -> dict[int, float]:
    """Last-position accuracy at once and twice the training length after a short run."""
    torch.manual_seed(0)
    lengths = (train_length, 2 * train_length)
    task = create_task("parity", train_length=train_length, min_length=2, batch_size=64, eval_lengths=lengths)
    learner = SequenceLearner(
        mixer,
        task.vocab_size,
        32,
        mlp_ratio=2,
        optimizer={"name": "adamw", "lr": lr, "betas": [0.9, 0.98]},
        schedule={"name": "cosine", "warmup": 20},
    )
    callbacks = [LengthCurriculum(start=2), AccuracyTable(figure=False)]
    run = trainer(path, max_steps=steps, callbacks=callbacks, gradient_clip_val=1.0)
    run.fit(learner, datamodule=task)
    run.test(learner, datamodule=task, verbose=False)
    return {length: run.callback_metrics[f"test/last_accuracy/{length}"].item() for length in lengths}


@pytest.mark.slow
def test_blocks_of_two_solve_parity_and_blocks_of_one_do_not(tmp_path: Path) -> None:
    assert parity({"name": "bd-lru", "block_size": 2, "d_state": 32}, tmp_path)[24] >= 0.95
    assert parity({"name": "bd-lru", "block_size": 1, "d_state": 32}, tmp_path)[24] <= 0.65
    # The same layer and code learn what needs no state beyond two tokens.
    assert parity({"name": "bd-lru", "block_size": 1, "d_state": 32}, tmp_path, train_length=2, steps=100)[2] >= 0.99
