"""What a checkpoint decides cannot be said otherwise; damaged and foreign ones take one line."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from seqmix.__main__ import main
from seqmix.training import checkpoint_files, loading
from seqmix.training.checkpoint_files import WholeCheckpoints
from seqmix.training.continuing import check_continues, check_same

SMALL = ["--trainer.accelerator", "cpu", "--data.eval_size", "4", "--data.eval_lengths", "[6]", "--model.d_model", "8"]
SMALL += ["--data.batch_size", "8", "--trainer.logger", "false", "--accuracy_table.figure", "false"]
RUN = [*SMALL, "--mixer", "lstm", "--curriculum", "{start: 2}", "--data.train_length", "6", "--schedule", "constant"]
RUN += ["--optimizer.lr", "0.003", "--trainer.max_steps", "2", "--test_after_fit", "none"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert main(["fit", "--config", "parity", *RUN, "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "run")
    return Path("run")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("seqmix: error: ") and error.count("\n") == 1, error
    return error


def test_what_a_checkpoint_decides_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (run / "config.yaml").read_text()
    for options, message in (
        (
            "--optimizer.lr 0.1",
            "optimizer.lr: the run of this checkpoint has 0.003, and goes on with it; got 0.1. Witho",
        ),
        ("--optimizer lion", "optimizer: the run of this checkpoint has 'adamw'"),
        ("--data.batch_size 4", "data.batch_size: the run of this checkpoint has 8"),
        ("--model.dropout 0.5", "model.dropout: the run of this checkpoint has 0.0"),
        ("--seed_everything 3", "seed_everything: the run of this checkpoint has 0"),
        ("--curriculum.start 3", "curriculum.start: the run of this checkpoint has 2"),
        ("--schedule {name: cosine}", "schedule: a run continues with other total steps"),
    ):
        key, _, value = options.partition(" ")
        assert message in refused(capsys, "fit", "--run_dir", "run", "--ckpt_path", "last", key, value)
    assert (run / "config.yaml").read_text() == config
    assert main(["fit", "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_steps", "3"]) == 0
    after = yaml.safe_load((run / "config.yaml").read_text())
    assert (after["trainer"]["max_steps"], after["model"]["optimizer"]["lr"]) == (3, 0.003)


ADAMW = {"name": "adamw", "lr": 3e-3, "betas": (0.9, 0.95)}
MADE: dict[str, Any] = {
    "mixer": "lstm",
    "d_model": 8,
    "optimizer": ADAMW,
    "schedule": {"name": "constant"},
    "norm_after_clipping": True,
    "activation_checkpointing": False,
}


@pytest.mark.parametrize(
    ("now", "option"),
    [
        ({"optimizer": ADAMW | {"betas": [0.9, 0.99]}}, "optimizer.betas"),
        ({"optimizer": ADAMW | {"weight_decay": 0.1}}, "optimizer.weight_decay"),
        ({"optimizer": {"name": "adamw", "lr": 3e-3}}, "optimizer.betas"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"mixer": {"name": "lstm", "bias": False}}, "mixer.bias"),
        ({"mixer": [{"name": "lstm"}, "gla"]}, "mixer"),
        ({"d_model": 16}, "model.d_model"),
        ({"norm_after_clipping": False}, "model.norm_after_clipping"),
    ],
)  # fmt: skip
def test_every_argument_is_compared(now: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: the run .* Without --{option} it goes on"):
        check_same("model", MADE, MADE | now)


def test_other_spellings_and_what_is_free_go_on() -> None:
    free = {"mixer": {"name": "lstm"}, "activation_checkpointing": True, "schedule": {"name": "wsd"}, "new": 1}
    check_same("model", MADE, MADE | free | {"optimizer": {**MADE["optimizer"], "betas": [0.9, 0.95]}})
    check_same("data", {"eval_lengths": [6], "num_workers": 0}, {"eval_lengths": [9], "num_workers": 2})
    with pytest.raises(ValueError, match=r"data.noise: the run of this checkpoint has 0.1"):
        check_same("data", {"noise": 0.1}, {"noise": 0.2})


def test_checkpoints_that_no_run_goes_on_from() -> None:
    content = {"optimizer_states": [], "lr_schedulers": [], "loops": {}, "global_step": 5, "task": "x.Other"}
    with pytest.raises(ValueError, match=r"which has no loops: it holds weights alone, for seqmix test"):
        check_continues({name: value for name, value in content.items() if name != "loops"}, None, None, 9)
    with pytest.raises(ValueError, match=r"trainer.max_steps: the checkpoint has 5 steps already, got 4"):
        check_continues(content, None, None, 4)
    with pytest.raises(ValueError, match=r"data: the run of this checkpoint has 'x.Other'"):
        check_continues(content, None, object(), 9)


def test_damaged_checkpoints_take_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for command in ("fit", "test"):
        more = ["--trainer.max_steps", "3"] if command == "fit" else []
        assert "run/checkpoints/last.ckpt is " in refused(capsys, command, "--ckpt_path", str(path), *more)
    assert "run/checkpoints/last.ckpt is not one" in refused(capsys, "generate", str(path))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04", "half", [1, 2], {"state_dict": 3}, {}])
def test_what_is_no_checkpoint(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    if content == "half":
        torch.save({"state_dict": {"a": torch.ones(5000)}}, path)
        os.truncate(path, 10_000)
    with pytest.raises(ValueError, match=r"a\.ckpt is (damaged or )?no checkpoint of seqmix fit"):
        WholeCheckpoints().load_checkpoint(path)
    with pytest.raises(ValueError, match=r"a\.ckpt is not one of seqmix fit"):
        loading.read_checkpoint(path)


def test_weights_of_another_model_take_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints/last.ckpt"
    whole = torch.load(path)
    weights = whole["state_dict"]
    first = next(iter(weights))
    for state in (weights | {"model.extra": torch.ones(2)}, weights | {first: torch.ones(3)}, {first: weights[first]}):
        torch.save(whole | {"state_dict": state}, path)
        with pytest.raises(ValueError, match="its weights and hyper-parameters are of no one model"):
            loading.load_model(path)
    for command in ("fit", "test"):
        more = ["--trainer.max_steps", "3"] if command == "fit" else []
        assert "does not fit this model" in refused(capsys, command, "--ckpt_path", str(path), *more)
    for junk in ({"mixer": 3}, {"mixer": "lstm", "vocab_size": "many"}, {}):
        with pytest.raises(ValueError, match=r"mixer|many|of no one model"):
            loading.load_model(whole | {"hyper_parameters": junk})


def test_optimizer_states_of_another_model_take_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints/last.ckpt"
    whole = torch.load(path)
    for states in ([{"state": {}, "param_groups": []}], [{"state": 3}], [3]):
        torch.save(whole | {"optimizer_states": states}, path)
        error = refused(capsys, "fit", "--ckpt_path", str(path), "--trainer.max_steps", "3")
        assert "ckpt_path: run/checkpoints/last.ckpt does not fit this model: " in error


def test_a_folder_that_cannot_be_written(run: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "file").write_text("")
    assert "run/file/x" in refused(capsys, "fit", "--config", "parity", *RUN, "--run_dir", "run/file/x")
    Path("config.yaml").write_text("base: parity  # mine\n")
    assert "it needs another folder" in refused(capsys, "fit", "--config", "config.yaml", *RUN, "--run_dir", ".")
    assert Path("config.yaml").read_text() == "base: parity  # mine\n"

    def read_only(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system", "run/checkpoints/.last.ckpt.part")

    monkeypatch.setattr("seqmix._files.tempfile.mkstemp", read_only)
    error = refused(capsys, "fit", "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_steps", "3")
    assert "Read-only file system" in error


def test_a_checkpoint_is_replaced_when_the_next_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, io = tmp_path / "last.ckpt", WholeCheckpoints()
    io.save_checkpoint({"state_dict": {"step": 1}}, path)
    assert torch.load(path)["state_dict"]["step"] == 1
    save = torch.save

    def killed(content: Any, part: Path) -> None:
        assert part.parent == tmp_path, "a file of another file system cannot be renamed"
        save(content, part)
        os.truncate(part, 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_files.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"state_dict": {"step": 2}}, path)
    assert torch.load(path)["state_dict"]["step"] == 1 and os.listdir(tmp_path) == ["last.ckpt"]

    def full(content: Any, part: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr(checkpoint_files.torch, "save", full)
    with pytest.raises(OSError, match="no checkpoint could be written"):
        io.save_checkpoint({"state_dict": {"step": 2}}, path)
    assert torch.load(path)["state_dict"]["step"] == 1


def test_every_trainer_writes_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    save = WholeCheckpoints.save_checkpoint

    def noted(io: WholeCheckpoints, content: dict[str, Any], path: str, **kwargs: Any) -> None:
        written.append(path)
        save(io, content, path)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", noted)
    options = ["--trainer.max_steps", "3", "--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1"]
    assert main(["fit", "--ckpt_path", "run/checkpoints/last.ckpt", *options]) == 0
    assert {Path(path).name for path in written} == {"last.ckpt", "best.ckpt"}
