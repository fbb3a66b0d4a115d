"""Boards: what a file may say, and the runs that follow from results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.boards.board import find_board, list_boards, load_board
from seqmix.leaderboard.boards.plan import BoardPlan, sizes_table
from seqmix.leaderboard.cost.sizes import counted_parameters
from seqmix.leaderboard.records.store import RunStore, read_runs
from seqmix.leaderboard.sweep.loop import sweep
from seqmix.leaderboard.sweep.plan import Run, plan_run
from seqmix.training.config.files import list_configs
from tests.leaderboard.example_records import make_record
from tests.leaderboard.sweep.test_sweep import FakeRunner

BOARD = """
name: small
budget: {parameters: 6000}
tasks:
  parity: {config: parity, set: {trainer.max_steps: 8, trainer.val_check_interval: 4, data.batch_size: 4,
    data.eval_size: 4, data.eval_lengths: [4, 8], data.train_length: 4}}
  mqar: mqar
mixers:
  bd-lru: {name: bd-lru, block_size: 4}
  bd-lru-2: {name: bd-lru, block_size: 2, tasks: [parity]}
  lstm: lstm
rates: {low: 1e-3, high: 1e-1, points: 3}
seeds: {grid: [0], best: [0, 1, 2]}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> BoardPlan:
    path = tmp_path_factory.mktemp("board") / "small.yaml"
    path.write_text(BOARD)
    return BoardPlan(load_board(path))


@pytest.fixture
def fresh(plan: BoardPlan) -> BoardPlan:
    plan._best.clear()
    return plan


def test_what_a_board_says(plan: BoardPlan) -> None:
    board = plan.board
    assert (board.name, board.budget.kind, board.budget.amount) == ("small", "parameters", 6000)
    assert board.rates == (0.001, 0.01, 0.1)
    assert [(cell.task, cell.row) for cell in plan.cells] == [
        *(("parity", row) for row in ("bd-lru", "bd-lru-2", "lstm")),
        *(("mqar", row) for row in ("bd-lru", "lstm")),
    ]
    assert plan.total == 5 * (3 + 2)
    run = plan.runs({})[1]
    assert (run.board, run.entry, run.column, run.seed) == ("small", "bd-lru-2", "parity", 0)
    # The config's own mixer is a bd-lru with a state of 32: nothing of it is left.
    assert run.settings["mixer"] == {"name": "bd-lru", "block_size": 2, "d_state": None}
    assert run.settings["optimizer"]["lr"] == 0.001 and run.settings["trainer"]["max_steps"] == 8
    again = plan_run(run.config, run.overrides, 0, board="small", entry="bd-lru-2", column="parity")
    assert again.id == run.id != plan_run(run.config, run.overrides, 0).id


LAYER = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, hidden_size, depth=1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(hidden_size, hidden_size) for _ in range(depth)))

    def forward(self, hidden_states, **kwargs):
        return self.layers(hidden_states), None
"""


def test_layer_of_somebody_else_on_a_shipped_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer_of_mine.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "board.yaml"
    path.write_text("base: cpu\ntasks: [s4]\nmixers:\n  mine: {module: layer_of_mine.Mine, depth: 2}\n")
    with pytest.raises(ValueError, match=r"mixers\.mine names 'layer_of_mine'.* --trust layer_of_mine"):
        load_board(path)
    trust = ["layer_of_mine"]
    board, base = load_board(path, trust=trust), load_board(find_board("cpu"))  # type: ignore[arg-type]
    assert (board.name, board.budget, board.rates) == ("cpu", base.budget, base.rates)
    assert (board.grid_seeds, board.best_seeds) == (base.grid_seeds, base.best_seeds)
    assert board.tasks == {"s4": base.tasks["s4"]}
    assert board.mixers == {"mine": {"name": "layer_of_mine:Mine", "depth": 2}}
    (cell,) = BoardPlan(board).cells
    assert abs(cell.size.parameters / base.budget.amount - 1) < 0.03 and cell.size.state_size is None
    lines = sizes_table(BoardPlan(board)).splitlines()
    assert lines[1].split()[:2] == ["mine", "s4"] and "unknown" in lines[1]
    path.write_text("base: cpu\ntasks: [s4]\nbudget: {state_size: 100}\nmixers: {mine: {module: layer_of_mine.Mine}}\n")
    with pytest.raises(ValueError, match="s4: mine: the size of its state is unknown; give state_size"):
        BoardPlan(load_board(path, trust=trust))
    path.write_text("base: cpus\nmixers: {mine: lstm}\n")
    with pytest.raises(ValueError, match="unknown board in base: 'cpus'; did you mean 'cpu'"):
        load_board(path)
    path.write_text("base: cpu\ntasks: [s5]\nmixers: {mine: lstm}\n")
    with pytest.raises(ValueError, match="unknown task in tasks: 's5'; did you mean"):
        load_board(path)


def test_table_of_sizes(plan: BoardPlan) -> None:
    lines = sizes_table(plan).splitlines()
    assert lines[0].split() == ["mixer", "task", "d_model", "d_state", "params", "state", "size", "flops/token",
                                "steps", "training", "flops"]  # fmt: skip
    assert len(lines) == 1 + 5 + 3 and "25 runs" in lines[-2]
    assert lines[3].split()[:2] == ["lstm", "parity"]


def outcome(scores: dict[float, float], failed: Callable[[Run], bool] = lambda run: False) -> Any:
    """Records by the rate: validation says `scores`, the test the opposite."""

    def record(run: Run, attempt: int) -> dict[str, Any]:
        rate = run.settings["optimizer"]["lr"]
        score = scores[rate]
        made = make_record(run.kind, run.seed, lr=rate, validation=score, accuracies={16: 1 - score, 64: 0.5})
        return make_record(run.kind, run.seed, lr=rate, failed=True) if failed(run) else made

    return record


@dataclass
class Notes(FakeRunner):
    runs: list[Run] = field(default_factory=list)

    def start(self, run: Run, attempt: int) -> Any:
        self.runs.append(run)
        return super().start(run, attempt)

    def seen(self) -> list[tuple[str, str, float, int]]:
        return [(str(r.column), str(r.entry), r.settings["optimizer"]["lr"], r.seed) for r in self.runs]


def test_best_rate_is_chosen_on_validation_data_and_then_come_the_seeds(fresh: BoardPlan, tmp_path: Path) -> None:
    store, runner = RunStore(tmp_path / "runs.jsonl"), Notes(outcome({0.001: 0.2, 0.01: 0.9, 0.1: 0.4}))
    assert sweep(fresh, store, runner) == 0
    rows = ("bd-lru", "bd-lru-2", "lstm")
    grid = [("parity", row, rate, 0) for rate in (0.001, 0.01, 0.1) for row in rows]
    seeds = [("parity", row, 0.01, seed) for seed in (1, 2) for row in rows]
    assert runner.seen()[:15] == grid + seeds
    assert {task for task, *_ in runner.seen()[15:]} == {"mqar"}
    assert len(read_runs(store.path)) == fresh.total == 25
    before = len(runner.runs)
    assert sweep(fresh, store, runner) == 0 and len(runner.runs) == before


def test_seeds_start_when_their_own_grid_is_over(fresh: BoardPlan) -> None:
    grid = fresh.runs({})
    assert len(grid) == 15 and len(fresh.later({})) == 10
    record = outcome({0.001: 0.2, 0.01: 0.9, 0.1: 0.4})
    done = {run.id: record(run, 1) for run in grid if (run.column, run.entry) == ("parity", "lstm")}
    more = [run for run in fresh.runs(done) if run not in grid]
    assert [(run.column, run.entry, run.seed) for run in more] == [("parity", "lstm", 1), ("parity", "lstm", 2)]
    assert len(fresh.later(done)) == 8


def test_failed_and_diverged_rates(fresh: BoardPlan, tmp_path: Path) -> None:
    """A rate that has failed is never the best; a cell where all have is given up, and the count says so."""

    def failed(run: Run) -> bool:
        return run.entry == "lstm" or run.settings["optimizer"]["lr"] == 0.01

    store, runner = RunStore(tmp_path / "runs.jsonl"), Notes(outcome({0.001: 0.2, 0.01: 0.9, 0.1: 0.4}, failed))
    assert sweep(fresh, store, runner) == 2 * 3 + 3
    assert {(row, rate) for _, row, rate, seed in runner.seen() if seed} == {("bd-lru", 0.1), ("bd-lru-2", 0.1)}
    assert fresh.total == 25 - 2 * 2


def test_sweep_that_is_cut_short_goes_on(fresh: BoardPlan, tmp_path: Path) -> None:
    record = outcome({0.001: 0.2, 0.01: 0.9, 0.1: 0.4})

    def stop(run: Run, attempt: int) -> dict[str, Any]:
        if run.seed == 1:
            raise OSError("no space")
        return record(run, attempt)

    store, runner = RunStore(tmp_path / "runs.jsonl"), Notes(stop)
    with pytest.raises(OSError, match="no space"):
        sweep(fresh, store, runner)
    first = runner.seen()[:-1]
    runner = Notes(record)
    sweep(fresh, RunStore(store.path), runner)
    assert len(first) == 9 and len({*first, *runner.seen()}) == len(first) + len(runner.runs) == 25


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("budget: {parameters: 6000}", "budget: {parameters: 6000, flops: 1e13}"), "exactly one of parameters, state"),
        (("budget: {parameters: 6000}", "budget: {}"), "budget: expected exactly one of .*, got none"),
        (("budget: {parameters: 6000}", "budget: {params: 6000}"), "'params'; did you mean 'parameters'"),
        (("budget: {parameters: 6000}", "budget: {parameters: -1}"), "budget.parameters: expected a positive number"),
        (("budget: {parameters: 6000}\n", ""), "budget: missing"),
        (("rates: {low: 1e-3, high: 1e-1, points: 3}\n", ""), "rates: missing"),
        (("rates: {low: 1e-3, high: 1e-1, points: 3}", "rates: []"), "rates: expected low, high and points, or a list"),
        (("low: 1e-3", "low: 1"), "rates: expected 0 < low < high"),
        (("points: 3", "point: 3"), "unknown key of rates: 'point'; did you mean 'points'"),
        (("rates:", "rate:"), "unknown key: 'rate'; did you mean 'rates'"),
        (("name: bd-lru, block_size: 4", "name: bd-lur"), "unknown mixer 'bd-lur'; did you mean 'bd-lru'"),
        (("mqar: mqar", "mqar: mqra"), "unknown config 'mqra'; did you mean 'mqar"),
        (("tasks: [parity]", "tasks: [parityy]"), "unknown task in mixers.bd-lru-2.tasks: 'parityy'; did you mean"),
        (("set: {", "sets: {"), "unknown key of tasks.parity: 'sets'; did you mean 'set'"),
        (("set: {", "set: {mixer.block_size: 2, "), "tasks.parity.set: mixer.block_size is what a board decides"),
        (("set: {", "set: {trainer: {max_steps: 4}, "), "expected dotted keys such as trainer.max_steps"),
        (("grid: [0]", "grid: [0, 0]"), "seeds.grid: expected integers of at least 0, each once"),
        (("best: [0, 1, 2]", "best: [-1]"), "seeds.best: expected integers of at least 0"),
        (("lstm: lstm", "lstm: 3"), "mixers.lstm: expected {name: bd-lru"),
        (("name: small", "name: [1"), "not YAML"),
    ],
)
def test_bad_boards(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    assert change[0] in BOARD
    path = tmp_path / "bad.yaml"
    path.write_text(BOARD.replace(*change))
    with pytest.raises(ValueError, match=words) as error:
        load_board(path)
    assert str(error.value).startswith(f"board {path}: ")


def test_bad_sizes(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    for change, words in (
        (("block_size: 4", "block_sise: 4"), "board small: parity: unknown argument of mixer 'bd-lru'"),
        (("parameters: 6000", "parameters: 6"), "board small: parity: bd-lru: no width of mixer 'bd-lru'"),
        (("val_check_interval: 4", "val_check_interval: 5"), "parity: trainer.val_check_interval must divide"),
    ):
        path.write_text(BOARD.replace(*change))
        with pytest.raises(ValueError, match=words):
            BoardPlan(load_board(path))


def test_shipped_boards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in list_boards():
        path = find_board(name)
        assert path is not None
        board = load_board(path)
        if name.startswith(("compression", "recall", "cpu-m")):  # their files say how many runs they have
            cells = sum(len(board.only.get(row, tuple(board.tasks))) for row in board.mixers)
            runs = cells * (len(board.rates) + len(set(board.best_seeds) - set(board.grid_seeds)))
            assert f" {runs} runs, about " in path.read_text().partition("\nmixers")[0].replace("\n# ", " "), runs
    assert list_boards().keys().isdisjoint(list_configs())
    assert main(["run", "cpuu", "--store", str(tmp_path / "runs.jsonl")]) == 2
    assert "unknown config, board or grid 'cpuu'; did you mean 'cpu'" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(BOARD)
    assert find_board(str(path)) == path and find_board("parity") is None and find_board("nothing") is None
    store = ["--store", str(tmp_path / "runs.jsonl")]
    assert main(["run", str(path), *store, "--dry-run"]) == 0
    assert "board small: parameters 6,000; 5 cells, 3 rates, 25 runs" in capsys.readouterr().out
    for more, words in (
        (["--lr", "1"], "--lr: a board has its own"),
        (["--set", "a=1"], "--set: a board has its own"),
        (["parity"], "a board stands alone"),
    ):
        assert main(["run", str(path), *more, *store]) == 2
        assert words in capsys.readouterr().err


def test_real_board(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    text = BOARD.replace("  mqar: mqar\n", "").replace("points: 3", "points: 2").replace("best: [0, 1, 2]", "best: [1]")
    path.write_text("\n".join(line for line in text.splitlines() if "lstm" not in line and "bd-lru-2" not in line))
    store = tmp_path / "runs.jsonl"
    assert main(["run", str(path), "--store", str(store)]) == 0
    records = read_runs(store)
    assert [(r["status"], r["identity"]["seed"]) for r in records] == [("ok", 0), ("ok", 0), ("ok", 1)]
    plan = BoardPlan(load_board(path))
    assert [r["id"] for r in records] == [run.id for run in plan.runs({r["id"]: r for r in records})]
    (size,) = [cell.size for cell in plan.cells]
    assert {r["identity"]["d_model"] for r in records} == {size.d_model}
    assert records[0]["size"]["flops_per_token"] == size.flops_per_token
    assert {(r["identity"]["board"], r["identity"]["entry"], r["identity"]["column"]) for r in records} == {
        ("small", "bd-lru", "parity")
    }
    assert records[0]["size"]["params_non_embedding"] == size.parameters + 3 * size.d_model
    assert counted_parameters(records[0]) == size.parameters
