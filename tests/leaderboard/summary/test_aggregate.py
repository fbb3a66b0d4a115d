"""Boards from records, beside numbers that were computed by hand."""

import math
import time
from typing import Any

import numpy as np
import pytest

from seqmix.leaderboard import BoardSummary, CellSummary, aggregate
from seqmix.leaderboard.summary.ranking import mean_interval, median_interval, ranks
from seqmix.leaderboard.summary.statistics import bootstrap_interval, normalised
from tests.leaderboard.example_records import make_record
from tests.pace import pace

LENGTHS = (16, 32, 64, 128)


def run(
    entry: str = "lru", column: str = "a5", *, lr: float = 1e-3, seed: int = 0, test: Any = 1.0, **kwargs: Any
) -> dict[str, Any]:
    """`test`: accuracy at every length, or by length."""
    rows = test if isinstance(test, dict) else dict.fromkeys(LENGTHS, test)
    record = make_record(f"{entry}-{column}", seed, lr=lr, accuracies=rows, **kwargs)
    record["identity"] |= {"board": "small", "entry": entry, "column": column}
    if record["status"] == "ok":
        record["result"]["chance"] = 0.0
    return record


def board_of(*records: dict[str, Any]) -> BoardSummary:
    (board,) = aggregate(records)
    return board


def cell_of(*records: dict[str, Any]) -> CellSummary:
    (cell,) = board_of(*records).cells.values()
    return cell


def test_the_rate_is_chosen_on_validation_and_shown_on_test() -> None:
    cell = cell_of(
        run(lr=1e-3, validation=0.9, test=0.2), run(lr=3e-3, validation=0.8, test=1.0), run(lr=1e-2, validation=0.1)
    )
    assert (cell.best, cell.median, [s.value for s in cell.seeds]) == (1e-3, 0.2, [0.2])
    assert [(r.lr, r.validation, r.test) for r in cell.rates] == [
        (1e-3, 0.9, 0.2), (3e-3, 0.8, 1.0), (1e-2, 0.1, 1.0)
    ]  # fmt: skip
    assert (cell.middle, cell.middle_normalised) == (1.0, 1.0)
    assert cell.at_the_end == "smallest"
    grid = [run(lr=lr, validation=good) for lr, good in ((1e-3, 0.5), (3e-3, 0.9), (1e-2, 0.8))]
    assert cell_of(*grid).at_the_end is None and cell_of(*grid[:2]).at_the_end == "largest"
    assert cell_of(grid[0]).at_the_end is None


def test_rates_are_compared_by_the_seeds_that_all_have() -> None:
    # Seed 0 chose 3e-3; that its other seeds do worse than the one seed of 1e-3 is what they were run to find out.
    records = [run(lr=1e-3, validation=0.6, test=0.6), run(lr=3e-3, validation=0.9, test=0.9)]
    records += [run(lr=3e-3, seed=seed, validation=0.1, test=0.1) for seed in (1, 2)]
    cell = cell_of(*records)
    assert (cell.best, cell.n, cell.median, cell.low, cell.high) == (3e-3, 3, 0.1, 0.1, 0.9)
    assert cell.mean == pytest.approx(1.1 / 3)
    assert [seed.seed for seed in cell.seeds] == [0, 1, 2]


def test_broken_runs_stay_and_count() -> None:
    records = [run(seed=0, test=1.0), run(seed=1, diverged=True), run(seed=2, failed=True), run(seed=3, test=0.5)]
    cell = cell_of(*records)
    assert (cell.n, cell.solved, cell.far) == (4, 1, 1)
    assert [seed.value for seed in cell.seeds] == [1.0, 0.0, 0.0, 0.5]
    assert [seed.broken for seed in cell.seeds] == [None, "diverged", "failed", None]
    assert (cell.median, cell.mean) == (0.25, 0.375)
    # Wilson, by hand: 1 of 4.
    assert cell.wilson == pytest.approx((0.0456, 0.6994), abs=1e-4)
    assert cell.by_length[0] == (16, 0.25, (1.0, 0.0, 0.0, 0.5))
    again = cell_of(*records, run(seed=2, attempt=2, test=1.0))
    assert (again.n, again.solved) == (4, 2), "a later attempt replaces an earlier one"


def test_what_never_came_to_an_end_has_no_column_and_an_entry_that_did_not_has_zeros() -> None:
    board = board_of(run("lru"), run("lstm", failed=True), run("lru", "s4", failed=True))
    assert board.unmeasured == ("s4",)
    assert [column.name for column in board.columns] == ["a5"]
    cell = board.cells["lstm", "a5"]
    assert (cell.n, cell.solved, cell.median, cell.params) == (1, 0, 0.0, None)
    assert len(board.runs) == 3


def test_normalised_scores() -> None:
    assert normalised(0.75, 0.5) == 0.5
    assert normalised(0.25, 0.5) == 0.0
    assert normalised(1.0, 1 / 60) == 1.0
    assert normalised(0.5, None) == 0.5
    assert normalised(2.0, None, text=True) == 0.75
    assert normalised(math.inf, None, text=True) == normalised(9.0, None, text=True) == 0.0
    low, high = run(seed=0, test=0.25), run(seed=1, test=0.75)
    for record in (low, high):
        record["result"]["chance"] = 0.5
    cell = cell_of(low, high)
    # Clipped run by run: the mean of 0 and .5, not what the mean accuracy of .5 would give.
    assert (cell.mean, cell.normalised) == (0.5, 0.25)


def test_length_generalisation() -> None:
    accuracies = {16: 1.0, 32: 0.95, 64: 0.5, 128: 0.9, 256: 1.0}
    cell = cell_of(run(test=accuracies))
    assert cell.score == pytest.approx((1.0 + 0.95 + 0.5 + 0.9) / 4)
    assert cell.score_lengths == (16, 32, 64, 128)
    assert cell.longest == 32, "what is longer does not count once a length is lost"
    assert cell.far == 0
    assert cell_of(run(test={16: 1.0, 64: 0.0})).score == 0.5
    assert cell_of(run(test={16: 1.0})).score is None
    assert cell_of(run(test={16: 0.5, 64: 0.95})).longest is None
    assert cell_of(run(test={16: 1.0, 32: 1.0})).far is None
    # At each length the median of three seeds decides, the score is of their means.
    cell = cell_of(*[run(seed=s, test={16: 1.0, 32: a}) for s, a in enumerate((0.9, 0.0, 0.96))])
    assert (cell.longest, cell.score) == (32, pytest.approx((1 + 1.86 / 3) / 2))


def test_learning_rate_sensitivity() -> None:
    values = {1e-4: 0.5, 3e-4: 0.90, 1e-3: 0.95, 3e-3: 0.94, 1e-2: 0.899}
    cell = cell_of(*[run(lr=lr, validation=v) for lr, v in values.items()], run(lr=3e-2, diverged=True))
    assert cell.robustness == 3 / 6
    assert [rate.validation for rate in cell.rates] == [0.5, 0.90, 0.95, 0.94, 0.899, 0.0]
    # By the seed that both rates have both are good; that two more of one are not, nobody asked the other.
    more = [run(lr=3e-3, seed=s, validation=0.1) for s in (1, 2)]
    assert cell_of(run(lr=1e-3, validation=0.9), run(lr=3e-3, validation=0.92), *more).robustness == 1.0
    assert cell_of(run()).robustness is None


def test_what_learned_nothing_has_no_rank_and_is_not_robust() -> None:
    broken = cell_of(run(lr=1e-3, diverged=True), run(lr=1e-2, diverged=True))
    assert (broken.learned, broken.robustness, broken.rank, broken.tied) == (False, None, None, False)
    grid = [run("lost", lr=lr, validation=0.02, test=0.02) for lr in (1e-3, 1e-2)]
    board = board_of(*grid, run("lru", seed=0), run("lru", seed=1))
    lost, right = board.cells["lost", "a5"], board.cells["lru", "a5"]
    assert (lost.learned, lost.robustness, lost.rank) == (False, None, None) and (right.rank, right.tied) == (1, False)
    # One seed of five that solves it has learned it.
    seeds = [run(seed=s, test=float(s == 0)) for s in range(5)]
    assert cell_of(*seeds).learned and cell_of(*seeds).solved == 1
    # The seed that every rate had did not: that all rates failed it alike is not robust.
    more = [run(lr=1e-3, seed=s, validation=0.9, test=0.9) for s in (1, 2)]
    cell = cell_of(*(run(lr=lr, validation=0.02, test=0.02) for lr in (1e-3, 1e-2)), *more)
    assert cell.learned and cell.robustness is None


def test_nothing_unsolved_shares_a_rank_with_what_is_solved() -> None:
    records = [run("four", seed=s, test=1.0 if s else 0.9) for s in range(5)]
    records += [run("none", seed=s, test=0.97) for s in range(5)]
    cells = board_of(*records).cells
    assert [(cells[name, "a5"].rank, cells[name, "a5"].solved) for name in ("four", "none")] == [(1, 4), (2, 0)]
    assert not cells["four", "a5"].tied and not cells["none", "a5"].tied
    assert ranks([(0.8, 1.0), (0.7, 0.9)], [0, 0]) == [(1, True), (1, True)], "as before where neither is solved"
    assert ranks([(0.8, 1.0), (0.7, 0.9)], [None, None]) == [(1, True), (1, True)], "nor on text"


def text_run(entry: str, bits: float, *, lr: float = 1e-3, seed: int = 0, validation: float = 2.0, **kwargs: Any):
    record = run(entry, "text", lr=lr, seed=seed, test={256: 0.5, 512: 0.5}, **kwargs)
    result = record["result"]
    if record["status"] == "ok":
        result |= {"metric": "bits_per_byte", "chance": None, "train_length": 256, "steps_to": None}
        result["curve"] = [{"step": 9, "accuracy": 0.5, "loss": 1.0, "bpb": validation}]
        result["validation"] = result["curve"][0]
        rows = {n: {"tok": 0.5, "loss": 1.0, "bpb": bits, "ppl": 4.0, "n": 7} for n in ("256", "512")}
        result["metrics"] = {} if result["diverged"] else rows
    return record


def test_bits_per_byte() -> None:
    records = [text_run("lru", 1.7, lr=1e-3, validation=1.7), text_run("lru", 1.6, lr=1e-2, validation=1.61)]
    records += [text_run("lru", 1.0, lr=1e-1, diverged=True), text_run("lstm", 4.0), text_run("gla", 1.0, failed=True)]
    board = board_of(*records)
    cell = board.cells["lru", "text"]
    assert (cell.best, cell.median, cell.solved, cell.wilson, cell.longest, cell.far) == (
        1e-2, 1.6, None, None, None, None
    )  # fmt: skip
    assert cell.normalised == pytest.approx(0.8) and cell.score == pytest.approx(0.8)
    assert cell.robustness == 1 / 3, "1.7 is more than 5 % above 1.61"
    assert cell.rates[2].validation == math.inf and cell.rates[2].test == math.inf
    assert board.cells["gla", "text"].median == math.inf and board.cells["gla", "text"].normalised == 0.0
    assert [entry.name for entry in board.entries] == ["lru", "lstm", "gla"]


def test_median_interval_is_the_bootstrap_of_the_median() -> None:
    dice = np.random.default_rng(0)
    for n in (2, 3, 4, 5, 8, 31):
        values = dice.random(n).tolist()
        assert median_interval(values) == pytest.approx(bootstrap_interval(values), abs=1e-12)
    assert median_interval([0.5]) is None
    # Two of three infinite: the median of a draw is finite with probability 7 / 27, that is in more than 2.5 %.
    assert median_interval([1.0, math.inf, math.inf]) == (1.0, math.inf)
    assert median_interval([math.inf, math.inf]) == (math.inf, math.inf)


def test_mean_interval_is_the_stratified_bootstrap_of_the_mean() -> None:
    values = [0.0, 0.0, 1.0, 1.0, 1.0]
    assert mean_interval([values]) == pytest.approx(bootstrap_interval(values, np.mean), abs=1e-12)
    # Of n independent groups the standard error falls with the root of n; tied together it would not.
    low, high = mean_interval([values] * 16)
    error = math.sqrt(0.24 / 5 / 16)
    assert (low, high) == pytest.approx((0.6 - 1.96 * error, 0.6 + 1.96 * error), abs=0.01)
    assert mean_interval([[0.4], [0.6]]) == (0.0, 1.0)
    assert mean_interval([[0.9] * 7]) == pytest.approx((0.9, 0.9))


def test_ranks_are_shared_where_intervals_overlap() -> None:
    intervals = [(0.8, 1.0), (0.7, 0.85), (0.5, 0.75), (0.1, 0.2)]
    # The third overlaps with the second, and not with the best.
    assert ranks(intervals) == [(1, True), (1, True), (3, False), (4, False)]
    # A wide interval, that of a single seed as much as any, joins the group where its score stands.
    assert ranks([(0.8, 0.9), (0.4, 0.6), (0.3, 0.5), (0.0, 1.0), (0.1, 0.2)]) == [
        (1, False), (2, True), (2, True), (2, True), (5, False)
    ]  # fmt: skip
    assert ranks([(0.9, 0.9 + 1e-16), (0.9 - 1e-16, 0.9)]) == [(1, True), (1, True)]
    assert ranks([(0.5, 0.6)]) == [(1, False)] and ranks([]) == []


def test_entries_are_ranked_by_mean_normalised_scores() -> None:
    records = [run("good", c, seed=s, test=1.0) for c in ("a5", "s4") for s in range(3)]
    records += [run("half", c, seed=s, test=0.5 + s / 1e3) for c in ("a5", "s4") for s in range(3)]
    records += [run("even", c, seed=s, test=0.501) for c in ("a5", "s4") for s in range(3)]
    records += [run("partial", "a5", seed=s, test=1.0) for s in range(3)]
    board = board_of(*records)
    assert [(e.name, e.rank, e.tied, e.n) for e in board.entries] == [
        ("good", 1, False, 2), ("even", 2, True, 2), ("half", 2, True, 2), ("partial", None, False, 1)
    ]  # fmt: skip
    assert board.entries[2].mean == pytest.approx(0.501)
    low, high = board.entries[2].interval
    assert 0.5 < low < 0.501 < high < 0.502
    assert [board.cells[name, "a5"].rank for name in ("good", "partial", "half", "even")] == [1, 1, 3, 3]
    assert board.cells["good", "a5"].tied and board.cells["half", "a5"].tied


def test_boards_are_apart_and_runs_without_one_are_rows_by_config() -> None:
    other = run("lru")
    other["identity"]["board"], other["id"] = "large", "1" * 16
    loose = [make_record("a5", seed) for seed in (0, 1)] + [make_record("a5", 0, lr=9e-3, model={"d_model": 8})]
    loose[-1]["identity"]["overrides"] = ["model.d_model=8", "optimizer.lr=0.009"]
    boards = aggregate([run("lru"), other, *loose])
    assert [board.name for board in boards] == ["small", "large", ""]
    assert set(boards[2].cells) == {("a5", "word-problem"), ("a5 model.d_model=8", "word-problem")}
    theirs = run("lru")
    theirs["identity"]["submission"], theirs["id"] = "theirs", "2" * 16
    board = board_of(run("lru"), theirs)
    assert [(entry.name, entry.submission) for entry in board.entries] == [("lru", None), ("theirs/lru", "theirs")]


def test_runs_without_a_board_are_compared_on_the_same_data_alone() -> None:
    short = {"data": {"name": "word-problem", "train_length": 4}}
    records = [make_record("a5", seed, accuracies={16: 1.0}) for seed in (0, 1)]
    records += [make_record("a5-lstm", accuracies={16: 0.5}), make_record("a5-short", accuracies={4: 0.9}, **short)]
    records += [make_record("s3", accuracies={16: 0.8}), make_record("s3", 1, accuracies={16: 0.7})]
    records += [make_record("a5-short", 5, failed=True, **short), make_record("new", failed=True, **short)]
    records += [make_record("strange", failed=True)]
    records[3]["result"]["train_length"] = 4
    for number, record in enumerate(records[4:6]):
        record["identity"]["task_version"] = f"{number}" * 15 + "f"
    board = board_of(*records)
    assert {column.name: column.home for column in board.columns} == {
        "word-problem (a5)": "16", "word-problem (a5-short)": "4", "word-problem (s3)": "16",
        "word-problem (s3, 2)": "16",
    }  # fmt: skip
    assert {entry for entry, column in board.cells if column == "word-problem (a5)"} == {"a5", "a5-lstm"}
    cell = board.cells["a5-short", "word-problem (a5-short)"]
    assert (cell.n, [seed.value for seed in cell.seeds]) == (2, [0.9, 0.0]), "the failed one is in its cell"
    assert board.unmeasured == ("word-problem", "strange"), "nobody else of their configs says where they belong"


def test_a_run_that_was_not_tested_at_home_counts_at_its_own_length() -> None:
    records = [run("good", seed=s, test=1.0) for s in (0, 1)]
    records += [run("odd", seed=s, test={32: 0.9, 48: 0.1}) for s in (0, 1)]
    for record in records[2:]:
        record["result"]["train_length"] = 48
    cell = board_of(*records).cells["odd", "a5"]
    assert (cell.median, cell.normalised, cell.middle, cell.rates[0].test, cell.solved) == (0.1, 0.1, 0.1, 0.1, 0)
    assert cell.by_length == [(32, 0.9, (0.9, 0.9)), (48, 0.1, (0.1, 0.1))]


def test_warnings_of_columns_and_cells() -> None:
    new, edited = run(seed=1), run(seed=2, model={"d_model": 7})
    new["identity"]["task_version"] = "f" * 16
    board = board_of(run(seed=0), new, edited)
    assert board.columns[0].versions == ("0" * 16, "f" * 16)
    assert board.columns[0].lengths == LENGTHS and board.columns[0].home == "16"
    assert board.cells["lru", "a5"].variants == 2
    named = run()
    named["result"] |= {
        "train_length": None,
        "metrics": {"short": {"last": 1, "seq": 0.5, "tok": 1, "loss": 1, "n": 9}},
    }
    named["size"]["state_size"] = {"short": 8}
    board = board_of(named)
    cell = board.cells["lru", "a5"]
    assert (board.columns[0].home, cell.median, cell.state, cell.score, cell.by_length) == ("short", 0.5, 8, None, [])


def test_steps_and_costs_are_medians_at_the_chosen_rate() -> None:
    records = [run(seed=s, validation=1.0) for s in range(3)]
    for record, steps in zip(records, (100, 300, None), strict=True):
        record["result"]["steps_to"] = {"0.99": steps}
    assert cell_of(*records).steps_to_solve == 300
    records[1]["result"]["steps_to"] = {"0.99": None}
    assert cell_of(*records).steps_to_solve is None
    cell = cell_of(*records)
    assert (cell.seconds, cell.cpu_seconds, cell.decode_ms, cell.state_bytes) == (61.0, 61.0, None, 320)


def test_a_rate_is_not_chosen_without_validation() -> None:
    first, second = run(lr=1e-3, validation=0.1), run(lr=1e-2)
    second["result"] |= {"curve": [], "validation": None}
    cell = cell_of(first, second)
    assert (cell.best, cell.unvalidated, cell.rates[1].validation) == (1e-3, 1, None)
    assert cell_of(second).unvalidated == 0 and cell_of(second).median == 1.0


def test_many_records_take_little_time() -> None:
    base = [run(f"e{k}", c, lr=lr, test=0.5) for k in range(5) for c in ("a5", "s4") for lr in (1e-3, 1e-2)]
    records = []
    for record in base:
        for seed in range(100):
            identity = record["identity"] | {"seed": seed}
            records.append(record | {"id": f"{len(records):016x}", "identity": identity})
    before, begin = pace(), time.process_time()
    (board,) = aggregate(records)
    # 2,000 records; 100,000 are to take well under 30 seconds.
    took = time.process_time() - begin
    assert took < 0.6 * max(before, pace())
    assert len(board.cells) == 10 and all(cell.n == 100 for cell in board.cells.values())
