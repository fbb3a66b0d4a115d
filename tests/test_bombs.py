"""Small files that ask for much: refused by name, before anything is made of them."""

import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmix import SequenceModel
from seqmix._bounded import check_expanded, read_json
from seqmix._memory import fits, memory_limit
from seqmix.commands.leaderboard.cli import main as leaderboard
from seqmix.commands.sensitivity import main as sensitivity
from seqmix.leaderboard.boards.board import load_board
from seqmix.leaderboard.boards.grid import grid_runs
from seqmix.leaderboard.records.parquet import read_parquet, write_parquet
from seqmix.leaderboard.sweep.plan import check_count, plan_runs
from seqmix.studies.block_law import plan
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.average import average_checkpoints
from seqmix.training.checkpoint_files import WholeCheckpoints, read_checkpoint
from seqmix.training.loading import build_model, build_task, load_model, task_of
from tests.leaderboard.example_records import make_record
from tests.pace import pace

BILLION = 10**9


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """None of these takes time, on however busy a machine."""
    began = time.process_time()
    yield
    assert (took := time.process_time() - began) < 5 or took < 5 * pace()


def refused(action: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError) as error:
        action()
    assert says in str(error.value)


def checkpoint(path: Path, **changes: Any) -> Path:
    """A checkpoint of a small model, but for `changes` in its hyper-parameters."""
    learner = SequenceLearner("bd-lru", vocab_size=3, d_model=8)
    content = {"hyper_parameters": {**learner.hparams, **changes}, "state_dict": learner.state_dict()}
    torch.save(content | {"global_step": 1}, path)
    return path


def doors(path: Path, says: str) -> None:
    """Every reader of checkpoints refuses one."""
    for read in (read_checkpoint, load_model, WholeCheckpoints().load_checkpoint, lambda it: average_checkpoints([it])):
        refused(lambda read=read: read(path), says)  # type: ignore[misc]


def test_a_checkpoint_that_is_packed(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.ckpt", tmp_path / "a.ckpt"
    torch.save({"hyper_parameters": {}, "state_dict": {"w": torch.zeros(10**6)}, "global_step": 1}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert path.stat().st_size < 10**4
    doors(path, "expected an archive whose files are stored as they are, got one that is packed")


def test_a_checkpoint_whose_files_lie_over_one_another(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt")
    with zipfile.ZipFile(path, "a") as archive:
        data = max(archive.infolist(), key=lambda entry: entry.file_size)
        for number in range(300):
            other = zipfile.ZipInfo(f"archive/data/x{number}")
            other.header_offset, other.CRC = data.header_offset, data.CRC
            other.file_size = other.compress_size = data.file_size
            archive.filelist.append(other)
            archive.NameToInfo[other.filename] = other
        archive._didModify = True
    doors(path, "expected an archive that is as large as its files")


def test_a_checkpoint_of_lists_within_lists(tmp_path: Path) -> None:
    nested: Any = "x"
    for _ in range(12):
        nested = [nested] * 10
    path = checkpoint(tmp_path / "a.ckpt", mixer=nested)
    assert path.stat().st_size < 10**5
    doors(path, "where each stands more than once")
    loop: list[Any] = []
    loop.append({"x": loop})
    refused(lambda: check_expanded(loop), "a container that holds itself")
    deep: Any = 1
    for _ in range(100_000):
        deep = (deep,)
    refused(lambda: check_expanded(deep), "too many within one another")
    check_expanded({"many": list(range(10**5)), "shared": [nested[0][0][0][0][0][0][0]] * 5})
    one = torch.zeros(1)
    refused(lambda: check_expanded({"step": one.expand(10**6, 10**3)}), "as large as what they store")
    refused(lambda: check_expanded([one.expand(2**21)] * 3), "more than 4194304")
    check_expanded([one.expand(64, 64), torch.zeros(3000, 2000)[::2], torch.zeros(2, 2).to_sparse()])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d_model": BILLION}, "numbers that the file holds, got"),
        ({"vocab_size": BILLION}, "numbers that the file holds, got"),
        ({"n_layers": BILLION}, "n_layers must be at most 10000"),
        ({"mixer": {"name": "bd-lru", "block_size": BILLION}}, "numbers that the file holds, got inf"),
        ({"mixer": {"name": "h-lru", "order": 10**7}}, "numbers that the file holds, got"),
        ({"mixer": {"name": "fp-mamba", "d_state": BILLION}}, "numbers that the file holds, got"),
        ({"d_model": 10**400}, "numbers that the file holds, got inf"),
        ({"optimizer": {"name": ["adamw"]}}, "optimizer"),
    ],
)
def test_a_checkpoint_of_a_model_that_it_does_not_hold(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    refused(lambda: load_model(checkpoint(tmp_path / "a.ckpt", **changes)), says)


def test_tensors_that_repeat_one_number(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.ckpt", d_model=10**6)
    content = torch.load(path)
    keys = list(content["state_dict"])
    content["state_dict"] = {key: torch.zeros(1).expand(10**4) for key in keys}
    torch.save(content, path)
    refused(lambda: load_model(path), "numbers that the file holds, got")
    content["state_dict"] = {key: torch.zeros(1).expand(10**6, 10**6) for key in keys}
    torch.save(content, path)
    doors(path, "as large as what they store")


@pytest.mark.parametrize(
    "changes",
    [
        {"state_dict": 0.5},
        {"state_dict": {"w": 3}},
        {"state_dict": {1: torch.ones(2)}},
        {"state_dict": {"w": torch.ones(2).to_sparse()}},
        {"current_model_state": [torch.ones(2)]},
        {"global_step": "1"},
        {"global_step": [1]},
    ],
)
def test_a_checkpoint_that_has_no_mean(changes: dict[str, Any], tmp_path: Path) -> None:
    good, path = checkpoint(tmp_path / "good.ckpt"), tmp_path / "a.ckpt"
    torch.save(torch.load(good) | {"global_step": 2} | changes, path)
    refused(lambda: average_checkpoints([good, path]), "a.ckpt is damaged")


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x08" + bytes(7) + b"no JSON ", (1 << 40).to_bytes(8, "little")])
def test_damaged_safetensors_are_told(data: bytes, tmp_path: Path) -> None:
    SequenceModel("lstm", 3, 8).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (data, whole[:-1], whole + b"x", whole.replace(b"F32", b"F99", 1)):
        weights.write_bytes(broken)
        refused(lambda: SequenceModel.from_pretrained(tmp_path), "model.safetensors")


def test_a_pretrained_model_of_more_than_its_file(tmp_path: Path) -> None:
    SequenceModel("lstm", 3, 8).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changes in ({"d_model": 10**6}, {"n_layers": BILLION}, {"mixer": [{"name": "lstm", "d_state": BILLION}]}):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        refused(lambda: SequenceModel.from_pretrained(tmp_path), "does not describe a model")
    for junk in (
        {"vocab_size": "many"},
        {"head": [3]},
        {"mixer": [{"name": ["lstm"]}]},
        {"extra": 1},
        {"d_model": None},
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | junk))
        refused(lambda: SequenceModel.from_pretrained(tmp_path), "does not describe a model")


def test_configs_of_what_no_machine_has() -> None:
    refused(lambda: SequenceLearner("lstm", vocab_size=3, d_model=10**8), "GB of this machine")
    refused(lambda: build_model({"mixer": {"name": "dense", "d_state": BILLION}}), "GB of this machine")
    for data in ({"eval_lengths": [10**11]}, {"train_length": 10**11}, {"batch_size": 10**11}):
        refused(lambda data=data: create_task("parity", **data), "GB of this machine")  # type: ignore[misc]
    refused(lambda: create_task("listops", max_arguments=BILLION), "max_arguments must be at most the longest length")
    refused(lambda: create_task("ngram-lookup", n=BILLION), "n must be small enough")
    refused(lambda: fits("x", "it", 1e30), "x: it takes 1e+21 GB")
    fits("x", "it", memory_limit())


@pytest.mark.parametrize(
    "arguments", [{"eval_lengths": 3}, {"bos": 10**6}, {"no_such": 1}, {"seed": []}, {"train_length": "4"}, {1: 2}]
)
def test_tasks_that_cannot_be_built_are_told(arguments: dict[Any, Any], tmp_path: Path) -> None:
    refused(lambda: build_task({"data": {"name": "parity"} | arguments}), "")
    path = checkpoint(tmp_path / "a.ckpt")
    held = {"task": "seqmix.tasks.state_tracking.Parity", "datamodule_hyper_parameters": arguments}
    torch.save(torch.load(path) | held, path)
    if "no_such" not in arguments and 1 not in arguments:
        refused(lambda: task_of(path), "")


def test_grids_and_boards_of_a_billion_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, board = tmp_path / "grid.yaml", tmp_path / "board.yaml"
    thousand = list(range(1000))
    content: dict[str, Any] = {"config": "parity", "grid": {f"data.{name}": thousand for name in "abc"}}
    grid.write_text(json.dumps(content))
    refused(lambda: grid_runs(grid), "grid x seeds: expected at most 100,000 runs, got 1,000,000,000")
    grid.write_text(json.dumps([{"config": "parity", "grid": {"data.a": thousand}, "seeds": thousand[:50]}] * 3))
    refused(lambda: grid_runs(grid), "expected at most 100,000 runs, got 150,000")
    board.write_text(json.dumps({"base": "cpu", "rates": {"low": 1e-4, "high": 1, "points": BILLION}}))
    refused(lambda: load_board(board), "rates.points: expected at most 100,000 runs, got 1,000,000,000")
    board.write_text(json.dumps({"base": "cpu", "seeds": {"grid": thousand}}))
    refused(lambda: load_board(board), "rates x seeds x tasks x mixers: expected at most 100,000 runs")
    board.write_text(json.dumps({"base": "cpu", "seeds": {"grid": [[1]]}}))
    refused(lambda: load_board(board), "seeds.grid: expected integers")
    assert leaderboard(["run", str(board), "--dry-run", "--store", str(tmp_path / "x.jsonl")]) == 2
    refused(lambda: plan_runs(["parity"], range(1000), [float(k + 1) for k in range(1000)], []), "--lr x --seeds")
    refused(lambda: plan(["Z2"] * 100, range(1, 100), ["softmax"], range(100), "linear"), "--groups x --m")
    capsys.readouterr()
    assert sensitivity(["parity", "--points", str(BILLION), "--store", str(tmp_path / "x.jsonl"), "--dry-run"]) == 2
    assert "expected at most 100,000 runs, got 1,000,000,000" in capsys.readouterr().err
    check_count("x", 100, 1000)


def test_json_of_many_values(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "[]," * (1 << 22) + "[]]")
    refused(lambda: read_json(path), "expected at most 4194304 values, got")


def test_rows_that_repeat_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqmix.leaderboard.records.parquet._ROWS", 4)
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    write_parquet([make_record()], path)
    table = parquet.read_table(path)
    long = pa.array(["x" * (1 << 21)], pa.string())  # a record is half as long
    table = table.set_column(table.column_names.index("reason"), "reason", long)
    many = pa.concat_tables([table] * 20)
    parquet.write_table(many, path, dictionary_pagesize_limit=1 << 24)
    assert path.stat().st_size < 10**6 < 10**7 < many.nbytes
    refused(lambda: read_parquet(path), "expected rows of at most 1048576 bytes")
