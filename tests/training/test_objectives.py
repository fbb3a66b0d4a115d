"""Objectives: whole sequences of batches, the bound as it is measured, and runs from the command line."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seqmix.__main__ import main
from seqmix.leaderboard.sweep.plan import plan_run
from seqmix.training import SequenceLearner
from seqmix.training.metrics import Bound
from seqmix.training.objectives import Gidd, Targets, create_objective, whole_sequences

TEXT = SimpleNamespace(vocab_size=5, predicts_next=True)
ALONE = SimpleNamespace(reduce=lambda sums, reduce_op: sums)


def learner(mixer: str = "bd-lru", **options) -> SequenceLearner:
    torch.manual_seed(0)
    arguments = {"d_model": 8, "bidirectional": True, "schedule": "constant", "objective": {"name": "gidd", "p_u": 0.2}}
    made = SequenceLearner(mixer, 5, **arguments | options)
    made._trainer = SimpleNamespace(datamodule=SimpleNamespace(seed=3), global_step=0, global_rank=0, optimizers=[])
    return made


def packed() -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[4, 1, 2, 4, 0, 3, 1]])
    targets = torch.tensor([[1, 2, 4, 0, 3, 1, 4]])
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    return {"tokens": tokens, "targets": targets, "cu_seqlens": bounds, "n_bytes": torch.ones_like(tokens)}


def test_sequences_with_their_last_targets() -> None:
    x, free, bounds = whole_sequences(packed())
    assert x.tolist() == [[4, 1, 2, 4, 4, 0, 3, 1, 4]] and bounds is not None and bounds.tolist() == [0, 4, 9]
    assert free.tolist() == [[False, True, True, True, False, True, True, True, True]]
    row = {"tokens": packed()["tokens"][:, :3], "targets": torch.tensor([[1, -100, 4]])}
    x, free, bounds = whole_sequences(row)
    assert x.tolist() == [[4, 1, 0, 4]] and free.tolist() == [[False, True, False, True]] and bounds is None
    with pytest.raises(ValueError, match="needs whole sequences, got true"):
        whole_sequences(packed() | {"carry_from": torch.zeros(2)})


def test_what_a_model_needs() -> None:
    made = learner()
    assert made.model.vocab_size == 5 + 1 + 16 and isinstance(made.objective, Gidd)
    assert made.objective.metric(TEXT) == "bits_per_byte_bound"
    made.objective.check(made.model, TEXT, "fit")
    assert isinstance(learner(objective="targets", bidirectional=False).objective, Targets)


@pytest.mark.parametrize(
    ("options", "task", "stage", "message"),
    [
        ({"bidirectional": False}, TEXT, "fit", "bidirectional layers and a language head, got causal"),
        ({}, SimpleNamespace(vocab_size=5), "fit", "'gidd' is for text, a task whose targets are tokens to come"),
        (
            {},
            SimpleNamespace(vocab_size=6, predicts_next=True),
            "fit",
            "at least the 6 tokens of .*, got 5",
        ),
        ({}, TEXT, "predict", "seqmix generate samples from the model"),
    ],
)
def test_what_does_not_fit(options: dict, task: SimpleNamespace, stage: str, message: str) -> None:
    made = learner(**options)
    with pytest.raises(ValueError, match=message):
        made.objective.check(made.model, task, stage)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gid", "unknown objective 'gid'; did you mean 'gidd'"),
        ({"name": "gidd", "p_u": 1}, "p_u must be in"),
        ({"name": "gidd", "weighting": "clip"}, "weighting must be"),
        ({"name": "gidd", "draws": 0}, "draws must be a positive integer"),
        ({"name": "targets", "p_u": 0.1}, "objective 'targets': .*p_u"),
    ],
)
def test_bad_entries(spec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_objective(spec, 5)


def test_noise_follows_from_seed_and_step() -> None:
    made = learner()
    losses = [made.objective.loss(made, packed(), 0)[0].item() for _ in range(2)]
    assert losses[0] == losses[1]
    made._trainer.global_step = 1
    assert made.objective.loss(made, packed(), 0)[0].item() != losses[0]
    loss, n_targets, right, noised = made.objective.loss(made, packed(), 0)
    assert n_targets == 7 and 0 <= right <= noised <= 7
    loss.backward()
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("weighting", ["dynamic", "elbo"])
def test_losses_are_weighted_bounds(weighting: str) -> None:
    """`elbo` is the mean of what `bound` says; `dynamic` 2 t (1 - t) of it."""
    made = learner(objective={"name": "gidd", "p_u": 0.2, "weighting": weighting})
    seen, process = [], made.objective.process
    said = made.objective._said
    made.objective._said = lambda *arguments: seen.append((*arguments, *said(*arguments))) or seen[-1][-3:]
    loss = made.objective.loss(made, packed(), 0)[0]
    _, x, free, _, _, _, z, at, logits = seen[0]
    terms = process.bound(logits, z, x, at) * (2 * at * (1 - at) if weighting == "dynamic" else 1)
    torch.testing.assert_close(loss.double(), (terms * free).sum().double() / 7, rtol=1e-4, atol=1e-6)
    assert torch.equal(z[~free], x[~free])


def test_a_model_that_knows_nothing_costs_its_symbols() -> None:
    """Equal logits on even symbols: log 5 nats a token, which is what 5 even symbols have; many draws come near."""
    made = learner(objective={"name": "gidd", "p_u": 0.2, "draws": 400})
    torch.nn.init.zeros_(made.model.head.weight)
    counts = Bound(torch.device("cpu"))
    with torch.no_grad():
        made.objective.measure(made, packed(), counts, (0, 0))
        again = Bound(torch.device("cpu"))
        made.objective.measure(made, packed(), again, (0, 0))
    assert torch.equal(counts.sums, again.sums), "what is measured is measured the same again"
    rates = counts.rates(ALONE)
    assert rates["loss"].item() == pytest.approx(math.log(5), rel=0.1)
    assert rates["bits_per_byte_bound"].item() == pytest.approx(rates["loss"].item() / math.log(2), rel=1e-5)


def test_records_rank_exact_measures_alone() -> None:
    with pytest.raises(ValueError, match="records are ranked by exact measures, expected targets, got"):
        plan_run("gidd", [], 0)


def test_a_run_is_trained_goes_on_and_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(f"line {n} of a text" for n in range(60)))
    quiet = [
        "--progress",
        "null",
        "--trainer.logger=false",
        "--trainer.accelerator=cpu",
        "--accuracy_table.figure=false",
    ]
    options = ["fit", "--config", "gidd", "--run_dir", "run", "--data.files", "text.txt", "--data.separator", "\\n\\n"]
    options += ["--model.d_model", "8", "--data.batch_size", "2", "--data.eval_lengths", "[16]", *quiet]
    options += ["--data.train_length", "16", "--objective.draws", "1"]
    assert main([*options, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]) == 0
    assert "bits per byte (bound)" in capsys.readouterr().out
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()
    assert "objective:\n    name: gidd" in (tmp_path / "run/config.yaml").read_text()
    assert main([*options, "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0
    assert main([*options, "--ckpt_path", "last", "--trainer.max_steps", "4", "--objective.p_u", "0.3"]) == 2
    assert "objective.p_u: the run of this checkpoint has 0.1" in capsys.readouterr().err
    words = ["generate", "run", "--prompt", "line", "--max-new-tokens", "6", "--steps", "3", "--correct", "2"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert first.startswith("line") and main(words) == 0 and capsys.readouterr().out == first
    assert main(["generate", "run", "--top-k", "2"]) == 2
    assert "a model of diffusion takes no top_k" in capsys.readouterr().err
    assert main(["export", "run", "folder"]) == 2
    assert "says no next tokens, its objective is gidd" in capsys.readouterr().err


def test_second_derivatives_go_through_it() -> None:
    made = learner(optimizer={"name": "adahessian"})
    made.train()
    loss = made.objective.loss(made, packed(), 0)[0]
    weight = made.model.blocks[0].mixer.ahead.proj_out.weight
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), weight)[0].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("p_u", [0.0, 0.2])
def test_a_pattern_is_learned_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], p_u: float
) -> None:
    """Letters in turn: the bound comes near to what the first and the last letter of a line cost, samples are such."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(("abcdefgh" * 9)[n % 8 :][: 40 + n % 7] for n in range(200)))
    options = ["fit", "--config", "gidd", "--run_dir", "run", "--data.files", "text.txt", "--data.separator", "\\n\\n"]
    options += ["--model.d_model", "32", "--data.eval_lengths", "[64]", "--data.train_length", "64"]
    options += ["--objective.p_u", str(p_u), "--optimizer.lr", "1e-2", "--trainer.max_steps", "300"]
    options += ["--progress", "null", "--trainer.logger=false", "--trainer.accelerator=cpu"]
    assert main([*options, "--trainer.val_check_interval", "300", "--accuracy_table.figure=false"]) == 0
    bound = float((tmp_path / "run/text.csv").read_text().splitlines()[1].split(",")[2])
    assert bound < 0.6
    capsys.readouterr()
    words = ["generate", "run", "--prompt", "abc", "--max-new-tokens", "30", "--steps", "32", "--correct", "8"]
    assert main(words) == 0
    text = capsys.readouterr().out.strip("\n")
    steps = [(ord(b) - ord(a)) % 8 == 1 for a, b in itertools.pairwise(text)]
    assert sum(steps) >= 0.8 * len(steps) >= 8
