"""Sizes that records do not say: against the budget of the committed board, and against counts made by hand."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from seqmix.leaderboard.cost.flops import flops_per_token
from seqmix.leaderboard.cost.sizes import counted_flops, counted_parameters
from seqmix.leaderboard.records.store import read_runs
from seqmix.leaderboard.summary.aggregate import aggregate
from seqmix.models import SequenceModel
from tests.leaderboard.example_records import make_record

V, D, T = 7, 16, 16


def record_of(mixer: Any, **model: Any) -> dict[str, Any]:
    """A record of the model that its config makes, without its FLOPs."""
    record = make_record(model={"d_model": D, **model}, mixer=mixer)
    built = SequenceModel(mixer, vocab_size=V, d_model=D, **model)
    record["identity"] |= {"d_model": D, "n_layers": model.get("n_layers", 1)}
    record["size"] |= {"params_total": built.num_parameters()}
    record["size"] |= {"params_non_embedding": built.num_parameters(non_embedding=True)}
    return record


def blocks_of(model: SequenceModel) -> int:
    return sum(p.numel() for part in (model.blocks, model.norm) for p in part.parameters())


@pytest.mark.parametrize("more", [{}, {"tie_embeddings": True}, {"n_layers": 2, "head": "language"}])
def test_parameters_are_those_of_blocks_and_last_norm(more: dict[str, Any]) -> None:
    model = SequenceModel("lstm", V, D, **more)
    assert counted_parameters(record_of("lstm", **more)) == blocks_of(model)


@pytest.mark.parametrize("head", [{"name": "classification", "n_classes": 3}, "autoencoder"])
def test_other_heads_are_built_again_to_be_counted(head: Any) -> None:
    record, model = record_of("lstm", head=head), SequenceModel("lstm", V, D, head=head)
    assert counted_parameters(record) == blocks_of(model) < record["size"]["params_non_embedding"]


def test_unknown_heads_count_and_failed_runs_have_none() -> None:
    record = record_of("lstm", head="autoencoder")
    record["identity"]["settings"]["model"]["head"] = {"name": "of another version"}
    assert counted_parameters(record) == record["size"]["params_non_embedding"]
    failed = make_record(failed=True)
    assert counted_parameters(failed) is None and counted_flops(failed) is None


def test_the_first_board_has_its_budget() -> None:
    records = read_runs(Path(__file__).parents[3] / "docs/results/board-cpu.jsonl")
    (board,) = [board for board in aggregate(records) if board.name == "cpu"]
    away = {key: cell.params for key, cell in board.cells.items() if abs(cell.params - 50_000) > 1_500}
    # The width of rotary attention is even, and no even one is nearer: 44 makes 47,388 of it. That of PaTH divides into
    # four heads: 52 makes 46,756.
    assert away == {("attention", "compression"): 52_486, ("path", "mqar"): 52_144}


def test_flops_are_counted_from_the_config_if_it_makes_the_same_model() -> None:
    record = record_of({"name": "bd-lru", "block_size": 2}, mlp_ratio=1)
    model = SequenceModel({"name": "bd-lru", "block_size": 2}, V, D, mlp_ratio=1)
    assert counted_flops(record) == flops_per_token(model, T)
    record["size"]["flops_per_token"] = 5.0
    assert counted_flops(record) == 5.0, "what a record says stands"
    record["size"] |= {"flops_per_token": None, "params_total": record["size"]["params_total"] + D}
    assert counted_flops(record) is None, "another vocabulary than the number of parameters says"


def test_flops_of_fixed_points_are_at_the_iterations_of_training() -> None:
    record = record_of("fp-mamba")
    model = SequenceModel("fp-mamba", V, D)
    record["result"]["iterations"] = {"train": 6.5, "16": 7.0}
    assert counted_flops(record) == flops_per_token(model, T, iterations=6.5)
    record["result"]["iterations"] = {"train": 0.0}
    assert counted_flops(record) == flops_per_token(model, T), "a direct solve is one application"


def test_code_that_is_not_ours_is_not_run_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of("lstm")
    record["identity"]["settings"]["mixer"] = {"module": "a_layer_of_theirs.Mine"}
    load = importlib.import_module
    monkeypatch.setattr(
        "importlib.import_module",
        lambda name, *more: load(name, *more) if name.startswith("seqmix.") else pytest.fail(f"{name} was imported"),
    )
    assert counted_flops(record) is None
