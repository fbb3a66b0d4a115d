"""`seqmix bench training`: models that train, their products alone, memory, and what stands beside them."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqmix._signals import interruptible
from seqmix.benchmarks import memory, training
from seqmix.benchmarks.goals import training_goals
from seqmix.benchmarks.model_decode import run_model_decode
from seqmix.benchmarks.products import products_of, replay
from seqmix.benchmarks.timing import Plan
from seqmix.benchmarks.training import run_training
from seqmix.benchmarks.training_peers import installed_peers
from seqmix.benchmarks.workload import Workload
from seqmix.commands.bench.cli import main


def test_a_model_of_every_mixer_trains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    assert main(["training", "--quick", "--threads", "1", "--only", "bd-lru,attention", "--out", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["mixer"] for row in rows] == ["bd-lru", "attention"]
    assert all(row["status"] == "ok" and row["utilisation"] > 0 and row["tokens_per_second"] > 0 for row in rows)
    assert all(row["share_products"] > 0 and 0 < row["share_mixing"] < 1 and row["peak_bytes"] > 0 for row in rows)
    assert "tokens/s" in capsys.readouterr().out


def test_what_takes_long_is_taken_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training, "_LONG", 0.0)
    assert main(["training", "--quick", "--threads", "1", "--only", "lru"]) == 0
    assert "not apart" not in capsys.readouterr().out  # no row has shares, so that the table has none
    row = run_training(
        "lru", Workload(1, 64, 2, 8, 5), torch.float32, torch.device("cpu"), Plan(1, 0.0, 0.1), lambda _: None
    )
    assert row["steps"] == 1 and "share_products" not in row


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_before_a_signal_is_kept(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def signalled(run: Callable[..., object]) -> Callable[..., object]:
        def call(name: str, *arguments: object) -> object:
            if name == "lstm":
                os.kill(os.getpid(), number)
            return run(name, *arguments)

        return call

    monkeypatch.setattr("seqmix.commands.bench.training.run_training", signalled(run_training))
    monkeypatch.setattr("seqmix.benchmarks.model_decode.run_model_decode", signalled(run_model_decode))
    for command in (["training"], ["decode", "--layers", "1", "--batch", "1"]):
        file = tmp_path / f"{command[0]}.json"
        argv = [*command, "--quick", "--threads", "1", "--only", "lru,lstm", "--out", str(file)]
        with interruptible():  # as `seqmix` runs every command
            assert main(argv) == 130
        assert [row["mixer"] for row in json.loads(file.read_text())["rows"]] == ["lru"]


def test_products_of_a_step_are_those_of_its_matrices() -> None:
    """Of a layer with a bias one product forward, and two backward; what it takes alone is less than the step."""
    layer = torch.nn.Linear(6, 5)
    x = torch.randn(2, 3, 6, requires_grad=True)
    found = products_of(lambda: layer(x).sum().backward())
    sizes = [[tuple(tensor.shape) for tensor in tensors if tensor.ndim > 1] for _, tensors in found]
    assert sizes == [[(6, 6), (6, 5)], [(6, 5), (5, 6)], [(5, 6), (6, 6)]]
    before = [tensor.clone() for _, tensors in found for tensor in tensors]
    replay(found)()
    assert all(torch.equal(*pair) for pair in zip(before, (t for _, ts in found for t in ts), strict=True))


def test_the_most_memory_at_once() -> None:
    def call() -> None:
        a = torch.empty(1000, dtype=torch.float64)
        del a
        b, c = torch.empty(2000, dtype=torch.float64), torch.empty(3000, dtype=torch.float64)
        del b, c

    assert memory.most_at_once(call) == 8 * 5000


@pytest.mark.parametrize("name", installed_peers())
def test_peers_train(name: str) -> None:
    row = run_training(
        name, Workload(1, 64, 2, 8, 2), torch.float32, torch.device("cpu"), Plan(1, 0.0, 0.1), lambda _: None
    )
    assert row["status"] == "ok" and row["peer"] and row["tokens_per_second"] > 0, row["reason"]


def test_goals_are_about_mixers_that_are_linear_in_time() -> None:
    sizes = {"layers": 2, "d_model": 256, "B": 4, "T": 512}
    row = {"status": "ok", "peer": False, "sizes": sizes, "share_products": 0.55, "mixer": "lru", "threads": 1}
    others = [row | {"mixer": "fp-rnn"}, row | {"peer": True}, row | {"sizes": sizes | {"T": 32}}]
    found = training_goals([row, row | {"threads": 2}, *others])
    assert [met for _, _, met in found] == [False, True]
    assert found[0][0].startswith("lru, 1 thread: products alone at least 60 %")
