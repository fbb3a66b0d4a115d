# ruff: noqa: F401, F811 - fixtures are imported, and named again by those that take them
"""Records, boards and submissions of somebody who means harm: nothing of theirs runs, nothing outside is written."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqmix.__main__ import main as seqmix
from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard import read_submission
from seqmix.leaderboard.boards import checks as submission_checks
from seqmix.leaderboard.boards import seals
from seqmix.leaderboard.boards.board import load_board
from seqmix.leaderboard.boards.checks import check_submission, spot_check
from seqmix.leaderboard.boards.submission_gate import in_folder
from seqmix.leaderboard.page import figures
from seqmix.leaderboard.sweep import rerun
from seqmix.leaderboard.sweep.local import COMMAND
from seqmix.leaderboard.sweep.plan import plan_settings
from seqmix.leaderboard.sweep.rerun import planned
from seqmix.leaderboard.sweep.worker import ALONE
from seqmix.training.config.files import canonical, list_configs, load_config
from seqmix.training.foreign import check_settings
from tests.leaderboard.boards.test_submissions import BOARD, LAYER, META, MODULE, folder, good, write
from tests.leaderboard.example_records import make_record

Record = dict[str, Any]
TOUCH = "__import__('pathlib').Path('ran').touch()"
POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran", "shell": True}}


def hostile(config: str = "parity", **changes: Any) -> Record:
    """A record whose id is right for settings with `changes`."""
    settings = load_config("parity") | {"seed_everything": 0} | changes
    record = make_record()
    record["identity"] |= {"config": config, "settings": settings, "seed": 0}
    record["id"] = plan_settings(f"x/{config}.json", (), canonical(settings), 0).id
    return record


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr(rerun.LocalProcesses, "start", start)
    monkeypatch.setattr(submission_checks, "rerun", start)


@pytest.mark.parametrize("config", ["../victim", "a/../../victim", "/tmp/../victim", "folder/victim", ""])
def test_a_record_plants_no_file(config: str, tmp_path: Path, nothing_runs: None) -> None:
    (tmp_path / "victim.json").write_text("mine")
    inner = tmp_path / "inner"
    (inner / "folder").mkdir(parents=True)
    record = hostile(config)
    if config:
        with pytest.raises(ValueError, match=rf"record {record['id']}: identity.config: expected the name of a file"):
            planned(record, inner)
        record["id"] = "0" * 16
        with pytest.raises(ValueError, match="are those of"):  # before anything is written
            planned(record, inner)
    else:
        assert planned(record, inner).id == record["id"]
    assert (tmp_path / "victim.json").read_text() == "mine"
    assert {path.name for path in inner.rglob("*")} <= {"folder", ".json"}


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "parity.json").symlink_to(tmp_path / "victim")
    planned(hostile(), tmp_path)
    assert (tmp_path / "victim").read_text() == "mine" and not (tmp_path / "parity.json").is_symlink()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": POPEN}, "--trust subprocess"),
        ({"mixer": {"name": f"{MODULE}:Mine"}}, f"--trust {MODULE}"),
        ({"trainer": {"callbacks": [POPEN]}}, "--trust subprocess"),
        ({"weights_only": False, "ckpt_path": "evil.ckpt"}, "unknown key of a run"),
        ({"checkpoints": {"dirpath": "/tmp/elsewhere"}}, "checkpoints.dirpath: expected none"),
    ],
    ids=["data", "mixer", "callbacks", "pickle", "dirpath"],
)
def test_a_record_runs_nothing_again(
    changes: dict[str, Any], says: str, tmp_path: Path, nothing_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    record = hostile(**changes)
    (tmp_path / "runs.jsonl").write_text(json.dumps(record) + "\n")
    assert main(["rerun", record["id"], "--store", str(tmp_path / "runs.jsonl")]) == 2
    assert says in capsys.readouterr().err


def test_configs_of_ours_may_be_run_again() -> None:
    for name in list_configs():
        check_settings(load_config(name), (), name)


def test_runs_made_again_import_from_their_folder_only_what_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Any] = []

    def start(self: Any, run: Any, attempt: int) -> Any:
        began.append((tuple(self.command), list(self.trust)))
        raise KeyboardInterrupt

    monkeypatch.setattr(rerun.LocalProcesses, "start", start)
    record = hostile()
    for trust in ((), (MODULE,)):
        with pytest.raises(KeyboardInterrupt):
            rerun.rerun(record, trust=trust)
    assert began == [((*COMMAND, ALONE), []), (COMMAND, [MODULE])] and "-P" in COMMAND


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["leaderboard", "validate", "x"], False),
        (["leaderboard", "rerun", "0000", "--store", "x"], False),
        (["certify", "x"], False),
        (["leaderboard", "validate", "x", "--trust", "y"], True),
        (["list", "mixers"], True),
    ],
)
def test_the_folder_one_is_in_is_searched_for_what_a_user_names(
    argv: list[str], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    seqmix(argv)
    assert (str(tmp_path) in sys.path) is found


@pytest.mark.parametrize("argv", [[], [ALONE]], ids=["of a sweep", "of a record"])
def test_runs_of_records_do_not_search_the_folder_one_is_in(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqmix.commands import worker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(worker, "serve", lambda fit: 0)
    assert worker.main(argv) == 0
    assert (str(tmp_path) in sys.path) is (argv == [])


def test_a_board_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    Path(f"{MODULE}.py").write_text(f"{TOUCH}\n{LAYER}")
    Path("board.yaml").write_text(BOARD)
    Path("runs.jsonl").write_text(json.dumps(make_record()) + "\n")
    for argv in (
        ["page", "runs.jsonl", "--out", "site", "--board", "board.yaml"],
        ["run", "board.yaml", "--store", "more.jsonl"],
    ):
        assert main(argv) == 2 and f"--trust {MODULE}" in capsys.readouterr().err
    Path("grid.yaml").write_text(f"config: parity\ngrid: {{mixer: [lstm, '{MODULE}:Mine']}}\n")
    assert main(["run", "grid.yaml", "--store", "more.jsonl"]) == 2 and f"--trust {MODULE}" in capsys.readouterr().err
    assert main(["run", "parity", "--store", "more.jsonl", "--trust", MODULE]) == 2
    assert "--trust: a config that is trained is yours" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["run", "board.yaml", "--store", "more.jsonl", "--dry-run", "--trust", MODULE]) == 0
    assert Path("ran").exists()
    del sys.modules[MODULE]
    for old, new in (
        ("mine: {module: layer_of_theirs.Mine}", "mine: lstm"),
        ("data.train_length: 4", "data.train_length: 4, trainer.logger: {class_path: subprocess.Popen}"),
    ):
        Path("board.yaml").write_text(Path("board.yaml").read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"tasks\.parity.*--trust subprocess"):
        load_board(Path("board.yaml"))


def test_figures_stay_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_save", lambda stem, draw, size: [stem])  # drawing is tested elsewhere, and slow
    names = ["../x", "x"]
    places = [{"board": name, "entry": "e", "column": "c"} for name in names]
    records = []
    for seed, place in enumerate(places):
        record = make_record(seed=seed)
        record["identity"] |= place
        records.append(record)
    (tmp_path / "figures").mkdir()
    written = figures.write_figures(records, tmp_path / "figures")
    assert {path.parent for path in written} == {tmp_path / "figures"} and len({*written}) == len(written)


@pytest.mark.usefixtures("nothing_runs")
class TestSubmissions:
    """A check that fails stops what comes after it."""

    @pytest.fixture(autouse=True)
    def unread(self, folder: Path) -> Iterator[None]:
        (folder / f"{MODULE}.py").write_text(f"{TOUCH}\n{LAYER}")
        yield
        assert not (folder / "ran").exists() and not (folder / "check.json").is_file()

    def test_code_that_is_not_trusted_is_not_imported(self, folder: Path, capsys: Any) -> None:
        assert main(["validate", str(folder)]) == 1
        told = capsys.readouterr()
        assert told.err.count(f"identity.settings: mixer names '{MODULE}'") == 1 and f"--trust {MODULE}" in told.err
        assert "no run is made again" in told.out and "self-reported" in told.out

    def test_nor_is_what_lies_beside(self, folder: Path) -> None:
        (folder / "tensorboard_of_theirs.py").write_text(TOUCH)
        with in_folder(folder, []), pytest.raises(ModuleNotFoundError):
            __import__("tensorboard_of_theirs")

    @pytest.mark.parametrize("config", ["../planted", "~/planted", "/planted", ".."])
    def test_a_path_out_stops_it(self, folder: Path, good: Any, config: str, capsys: Any) -> None:
        records = json.loads(json.dumps(good[0]))
        records[0]["identity"]["config"] = config
        write(folder, records)
        assert main(["validate", str(folder), "--trust", MODULE]) == 1
        told = capsys.readouterr()
        assert "identity.config: a path out of the folder" in told.err and "self-reported" in told.out
        assert "cannot be built" not in told.err and "plans no such run" not in told.err

    @pytest.mark.parametrize("name", ["board.yaml", "check.json", "parity.yaml", f"{MODULE}.py"])
    def test_a_link_out_stops_it(self, folder: Path, name: str, tmp_path: Path, capsys: Any) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mixers: {evil: {name: 'evil:Layer'}}")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(victim)
        assert main(["validate", str(folder), "--trust", MODULE]) == 1
        told = capsys.readouterr()
        assert f"{folder / name}: a link that leads out of the folder" in told.err and "evil" not in told.err
        assert victim.read_text().startswith("mixers") and (folder / name).is_symlink()
        assert main(["report", str(folder)]) == 1
        (folder / name).unlink()

    def test_a_base_out_of_the_folder_is_not_read(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "board.yaml").write_text(BOARD)
        (tmp_path / "config.yaml").write_text("base: parity\n")
        (folder / f"{MODULE}.py").write_text(LAYER)
        boards = ["base: ../board.yaml\n", BOARD.replace("config: parity", "config: ../config.yaml")]
        boards += [BOARD.replace("data.train_length: 4", "data.files: [/etc/hostname]")]
        for text in boards:
            (folder / "board.yaml").write_text(text)
            problems = check_submission(folder, trust=[MODULE]).problems
            assert any("a path out of the folder" in problem for problem in problems), problems


def test_what_is_not_all_right_is_not_made_again(folder: Path, good: Any, capsys: Any, nothing_runs: None) -> None:
    write(folder, [*good[0], good[1]])
    assert main(["validate", str(folder), "--trust", MODULE]) == 1
    told = capsys.readouterr()
    assert "board.yaml plans no such run" in told.err and "no run is made again before that is right" in told.out
    with pytest.raises(ValueError, match="before everything else is checked"):
        spot_check(check_submission(folder, trust=[MODULE]))
    with pytest.raises(ValueError, match="before everything else is checked"):
        spot_check(read_submission(folder))
    assert not (folder / "check.json").exists()


def test_a_badge_is_of_these_files_and_not_written_by_hand(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    monkeypatch.setattr(submission_checks, "rerun", lambda record, **_: record)
    by_hand = {"files": seals.folder_digest(folder), "differences": [], "seal": "0" * 64}
    for content in (by_hand, {**by_hand, "seal": None}, {**by_hand, "seal": "ü"}):
        (folder / "check.json").write_text(json.dumps(content))
        assert read_submission(folder).badge == "self-reported"
    (folder / "check.json").unlink()
    assert spot_check(check_submission(folder, trust=[MODULE]), trust=[MODULE]) == []
    assert read_submission(folder).badge == "re-run"
    key = tmp_path / "keys/seqmix/check.key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 64
    check = (folder / "check.json").read_text()
    for name in ("meta.yaml", "board.yaml", "runs.jsonl", f"{MODULE}.py", "new.py"):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes((before or b"") + b"\n")
        assert read_submission(folder).badge == "self-reported", name
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    assert read_submission(folder).badge == "re-run"
    (folder / "__pycache__").mkdir(exist_ok=True)
    assert read_submission(folder).badge == "re-run"
    (folder / "check.json").write_text(check.replace('"differences": []', '"differences": [""]'))
    assert read_submission(folder).check is None
    (folder / "check.json").write_text(check)
    monkeypatch.setenv("SEQMIX_CHECK_KEY", "another reader's")
    assert read_submission(folder).badge == "self-reported"


def test_files_that_change_while_a_run_is_made_again_get_no_badge(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(record: Record, **_: Any) -> Record:
        Path("meta.yaml").write_text(META + "\n")
        return record

    monkeypatch.setattr(submission_checks, "rerun", change)
    with pytest.raises(ValueError, match="its files have changed since they were checked"):
        spot_check(check_submission(folder, trust=[MODULE]), trust=[MODULE])
    assert not (folder / "check.json").exists()


def test_a_module_of_the_same_name_elsewhere_is_not_taken_for_theirs(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine_alone").mkdir()
    (tmp_path / "mine_alone" / f"{MODULE}.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "mine_alone"), *sys.path])
    with pytest.raises(ValueError, match=f"--trust {MODULE}: .* has a module of this name, and so has"):
        check_submission(folder, trust=[MODULE])
    del sys.modules[MODULE]
    monkeypatch.undo()
