"""The command: what it prints, where it writes, and mistakes told in one line before anything starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from seqmix.__main__ import main

SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "4", "--data.eval_size", "4"]
SHORT += ["--data.eval_lengths", "[6, 12]", "--data.train_length=6", "--data.batch_size", "8", "--model.d_model", "8"]

MANY = max(2, os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return main(list(arguments))


def test_fit_test_predict_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SHORT, "--mixer", "lstm", "--optimizer.lr", "1e-2", "--seed_everything", "3"]
    assert run("fit", "--config", "s3", *options, "--gate_entropy", "null") == 0
    printed = capsys.readouterr().out
    assert "s3: WordProblem, LSTM x 1, d_model 8" in printed and "whole sequence" in printed
    written = {path.name for path in (folder / "runs/s3/1").iterdir()}
    assert {"accuracy.csv", "accuracy.png", "checkpoints", "config.yaml", "csv", "tensorboard"} <= written
    config = yaml.safe_load((folder / "runs/s3/1/config.yaml").read_text())
    assert config["model"]["mixer"] == {"name": "lstm"} and config["model"]["optimizer"]["lr"] == 0.01
    assert config["data"]["init_args"]["seed"] == config["seed_everything"] == 3

    first = (folder / "runs/s3/1/accuracy.csv").read_text()
    (folder / "runs/s3/1/accuracy.csv").unlink()
    assert run("test", "--ckpt_path", "runs/s3/1/checkpoints/last.ckpt") == 0
    assert (folder / "runs/s3/1/accuracy.csv").read_text() == first, "the run's own config describes its checkpoint"
    assert run("predict", "--ckpt_path", "last", "--data.eval_lengths", "[9]") == 0
    assert (folder / "runs/s3/1/predictions-9.npz").is_file()
    capsys.readouterr()
    assert run("validate") == 0
    assert "s3: WordProblem, LSTM x 1, d_model 8" in (printed := capsys.readouterr().out)
    assert "of runs/s3/1/checkpoints/last.ckpt" in printed, "which weights they are"

    options[3] = "6"
    assert run("fit", "--config", "s3", *options, "--gate_entropy", "null", "--ckpt_path", "last") == 0
    assert [path.name for path in (folder / "runs/s3").iterdir()] == ["1"], "a resumed run keeps its folder"
    assert torch.load(folder / "runs/s3/1/checkpoints/last.ckpt")["global_step"] == 6
    assert run("fit", "--config", "s3", *options, "--gate_entropy", "null", "--test_after_fit", "none") == 0
    assert not (folder / "runs/s3/2/accuracy.csv").exists() and (folder / "runs/s3/2/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit --config a55", "unknown config 'a55'; did you mean 'a5'"),
        ("fit --config a5 --mixer mambo", "unknown mixer 'mambo'; did you mean 'mamba'"),
        ("fit --config a5 --mixer.blok_size 4", "'blok_size'; did you mean 'block_size'"),
        ("fit --config a5 --model.mixer.block_size 0", "block_size must be a positive integer, got 0"),
        ("fit --config a5 --optimizer adamww", "unknown optimizer 'adamww'; did you mean 'adamw'"),
        ("fit --config a5 --optimizer.lrr 1", "unknown argument of optimizer 'adamw': 'lrr'; did you mean 'lr'"),
        ("fit --config a5 --data.group A55", "group: A55 has more than"),
        ("fit --config a5 --data.group a5", "unknown group 'a5'"),
        ("fit --config a5 --data.grup A5", "unknown argument of task 'word-problem': 'grup'; did you mean 'group'"),
        ("fit --config a5 --data words", "unknown task 'words'; did you mean 'word-problem'"),
        ("fit --config a5 --curriculum.strt 1", "unknown argument of curriculum: 'strt'; did you mean 'start'"),
        ("fit --config a5 --curriculum.start 0", "LengthCurriculum: start must be a positive integer, got 0"),
        ("fit --config s3 --curriculum.start 99", "train_length = 16 must hold"),
        ("fit --config a5 --trainer.max_stepz 5", "'--trainer.max_stepz'; did you mean '--trainer.max_steps'"),
        ("fit --config a5 --trainer.max_steps five", "trainer.max_steps"),
        (
            "fit --config a5 --trainer.val_check_interval 0",
            "trainer.val_check_interval: expected a positive number, got 0",
        ),
        ("fit --config a5 --trainer.accumulate_grad_batches 0", "accumulate_grad_batches: expected a positive number"),
        ("fit --config a5 --optimizer.betas [2,2]", "Invalid beta parameter"),
        (f"fit --config a5 --trainer.accelerator cpu --trainer.devices {MANY}", f"processes on this CPU, got {MANY}"),
        ("fit --config a5 --trainer.default_root_dir x", "use|has its folder from --run_dir"),
        ("fit --config a5 --model.d_modl 5", "'--model.d_modl'; did you mean '--model.d_model'"),
        ("fit --config a5 stray", "expected an option that starts with --, got 'stray'"),
        ("fit --config a5 --ckpt_path last", "no last.ckpt found"),
        ("fit --config a5 --ckpt_path x.ckpt", "ckpt_path: expected a checkpoint, 'last' or 'best', got 'x.ckpt'"),
        ("test --config a5", "no last.ckpt found as runs/a5"),
        ("fit", "data: expected a task"),
        ("fitt", "unknown command 'fitt'; did you mean 'fit'"),
        ("list mixer", "unknown list 'mixer'; did you mean 'mixers'"),
    ],
)
def test_mistakes_take_one_line(arguments: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments.split()) == 2
    printed, error = capsys.readouterr()
    assert error.startswith("seqmix: error: ") and error.count("\n") == 1 and not printed
    assert any(part in error for part in message.split("|"))
    assert not any(folder.rglob("*.ckpt")) and not list(folder.glob("runs/*/*")), "nothing was begun"


def test_a_key_of_a_config_file_that_does_not_exist(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, message in {
        "optimiser: {lr: 1}": "unknown key of the config: 'optimiser'; did you mean 'optimizer'",
        "trainer: {max_step: 1}": "unknown argument of trainer: 'max_step'; did you mean 'max_steps'",
        "model: {width: 1}": "unknown argument of model: 'width'",
    }.items():
        (folder / "mine.yaml").write_text(f"base: parity\n{text}\n")
        assert run("fit", "--config", "mine.yaml") == 2
        assert message in capsys.readouterr().err


def test_a_loss_that_is_no_number_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--config", "parity", *SHORT, "--optimizer.lr", "1e30", "--checkpoints.every_n_steps", "1") == 2
    error = capsys.readouterr().err
    assert "the loss is not finite at step" in error and "learning rate" in error and "last.ckpt" in error


def test_hybrids_and_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    mixers = "[{name: bd-lru, block_size: 2}, attention]"
    options = ["--config", "parity", *SHORT, "--mixer", mixers, "--model.n_layers", "2"]
    assert run("fit", *options, "--test_after_fit", "none") == 0
    assert "Attention, BDLRU x 2" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run("fit", *options, "--print_config")
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["mixer"] == [{"block_size": 2, "name": "bd-lru"}, "attention"]


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in {"mixers": "bd-lru", "tasks": "word-problem", "configs": "a5", "optimizers": "adamw"}.items():
        assert run("list", kind) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(line.split()[0] == name and len(line.split()) > 3 for line in lines)
    assert run("list", "configs", "s3*") == 0
    assert {line[:2] for line in capsys.readouterr().out.splitlines()} == {"s3"}


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert run(*arguments) == 0
        assert "seqmix fit --config a5" in capsys.readouterr().out
    assert run("--version") == 0 and capsys.readouterr().out == "seqmix 0.1.0\n"
    assert run("list", "--help") == 0 and "mixers" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run("fit", "--help")
    screen = capsys.readouterr().out
    assert stop.value.code == 0 and "gate_entropy" in screen and screen.count("\n") <= 30
    for part, line in {
        "trainer": "  max_steps = -1 ",
        "model": "  d_model = 128 ",
        "data": "`seqmix list tasks`",
        "mixer": "`seqmix list mixers`",
        "callbacks": "--gate_entropy",
    }.items():
        with pytest.raises(SystemExit):
            run("fit", "--help", part)
        assert line in capsys.readouterr().out, part


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"LOCAL_RANK": "0"}
    )


def test_lists_load_no_lightning() -> None:
    code = "import sys; from seqmix.__main__ import main; main(['list', KIND]); print('lightning' in sys.modules)"
    for kind in ("mixers", "tasks", "configs"):
        assert python(code.replace("KIND", repr(kind))).stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("module", ["lightning", "jsonargparse", "yaml"])
def test_a_missing_package_is_told_in_one_line(module: str) -> None:
    code = f"import sys; sys.modules['{module}'] = None; from seqmix.__main__ import main; sys.exit(main(['fit']))"
    result = python(code)
    assert result.returncode == 2
    assert result.stderr == f"seqmix: error: seqmix fit needs {module}: pip install 'seqmix[train]'\n"
    if module == "lightning":
        code = (
            "import sys; sys.modules['lightning'] = None; from seqmix.tasks import create_task; create_task('parity')"
        )
        assert "seqmix.tasks.Task needs lightning: pip install 'seqmix[train]'" in python(code).stderr


SMALL = ("--trainer.max_steps", "3", "--data.eval_size", "8", "--data.eval_lengths", "[16]")


def test_a_run_goes_on_with_what_it_was_made_with(tmp_path, monkeypatch, capsys) -> None:
    """Options of the first command need not be said again, and a failed attempt leaves the run as it was."""
    monkeypatch.chdir(tmp_path)
    made = ("--mixer.block_size", "4", "--mixer.d_state", "80", "--seed_everything", "3", "--optimizer.lr", "1e-4")
    assert run("fit", "--config", "a5", *SMALL, *made) == 0
    before = yaml.safe_load(Path("runs/a5/1/config.yaml").read_text())
    assert run("test", "--config", "a5") == 0
    assert run("fit", "--config", "a5", "--ckpt_path", "last", "--mixer.block_size", "5") == 2
    assert "mixer.block_size: the run of this checkpoint has 4, and goes on with it; got 5" in capsys.readouterr().err
    assert yaml.safe_load(Path("runs/a5/1/config.yaml").read_text()) == before
    assert run("fit", "--config", "a5", "--ckpt_path", "last", "--trainer.max_steps", "5") == 0
    after = yaml.safe_load(Path("runs/a5/1/config.yaml").read_text())
    assert after["seed_everything"] == 3 and after["model"]["optimizer"]["lr"] == 1e-4
    assert after["model"]["mixer"]["block_size"] == 4 and after["trainer"]["max_steps"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--optimizer.lr", "abc"), "lr must be a number, got 'abc'"),
        (("--gate_entropy.weight", "abc"), "gate_entropy"),
        (("--data.eval_lengths", "16"), "word-problem"),
        (("--trainer.devices", "0"), "0"),
    ],
)
def test_values_of_the_wrong_type_are_one_line(tmp_path, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("fit", "--config", "a5", *SMALL, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not Path("runs/a5/1").exists(), "a run that never began leaves no folder"
