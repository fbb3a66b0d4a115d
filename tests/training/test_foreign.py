"""What the config of somebody else's run may say to `seqmix test`: nothing that is built, read or written for it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from seqmix.__main__ import main
from seqmix.training import SequenceLearner
from seqmix.training.foreign import check_settings, modules_named

POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran", "shell": True}}
GOOD: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {
        "accelerator": "cpu",
        "devices": "0,1",
        "precision": "32-true",
        "max_time": "00:01:00",
        "logger": False,
        "callbacks": [{"class_path": "seqmix.training.callbacks.AccuracyTable", "init_args": {"figure": False}}],
        "default_root_dir": None,
    },
    "model": {"d_model": 8},
    "mixer": {"name": "bd-lru"},
    "optimizer": {"name": "adamw", "betas": [0.9, 0.95]},
    "data": {"name": "language-modeling", "files": "a.txt", "separator": "\n\n{%"},
    "curriculum": {"start": 2},
    "pretrain": None,
}
REFUSED: list[tuple[str, Any, str]] = [
    ("weights_only", False, "unknown key of a run: 'weights_only'"),
    ("ckpt_path", "evil.ckpt", "unknown key of a run: 'ckpt_path'"),
    ("base", "/etc/passwd", "unknown key of a run: 'base'"),
    ("model.mixer", "evil:Layer", "unknown key of a run: 'model.mixer'"),
    ("mixer", "evil:Layer", "--trust evil"),
    ("mixer", ["lstm", {"module": "evil.Layer"}], "--trust evil"),
    ("mixer", {"name": "bd-lru", "block_size": POPEN}, "--trust subprocess"),
    ("optimizer", {"name": "adamw", "betas": ["{class_path: subprocess.Popen}"]}, "--trust subprocess"),
    ("optimizer", {"name": "adamw", "lr": '{"class\\x5fpath": "subprocess.Popen"}'}, "--trust subprocess"),
    ("data", POPEN, "--trust subprocess"),
    ("data", {"name": "parity", **POPEN}, "--trust subprocess"),
    ("data", {"name": "parity", "batch_size": {"x.class_path": "subprocess.Popen"}}, "--trust subprocess"),
    ("data", {"class_path": "seqmix.tasks.base.LightningDataModule"}, "expected a LightningDataModule"),
    ("trainer", "evil.yaml", "trainer: expected arguments"),
    ("trainer", {"logger": POPEN}, "--trust subprocess"),
    ("trainer", {"plugins": [POPEN]}, "--trust subprocess"),
    ("trainer", {"profiler": "evil.Profiler"}, "trainer.profiler: expected a number or a word"),
    ("trainer", {"strategy": "folder/evil"}, "trainer.strategy: expected a number or a word"),
    ("trainer", {"accelerator": "a_file_here"}, "trainer.accelerator: expected a number or a word"),
    ("trainer", {"logger": {"save_dir": "/"}}, "trainer.logger: expected a number or a word"),
    ("trainer", {"callbacks": "evil.yaml"}, "callbacks: expected class_path"),
    ("trainer", {"callbacks": ["evil.Callback"]}, "callbacks: expected class_path"),
    ("trainer", {"callbacks": [POPEN]}, "--trust subprocess"),
    ("trainer", {"callbacks": [{"class_path": "seqmix.training.running.CSVLogger"}]}, "expected a Callback"),
    ("trainer", {"default_root_dir": "/tmp"}, "trainer.default_root_dir: expected none"),
    ("checkpoints", {"dirpath": "/tmp"}, "checkpoints.dirpath: expected none"),
    (
        "trainer",
        {"callbacks": [{"class_path": "seqmix.training.callbacks.Checkpoints", "init_args": {"dirpath": "/tmp"}}]},
        "checkpoints.dirpath: expected none",
    ),
    (
        "trainer",
        {
            "callbacks": [
                {"class_path": "seqmix.training.callbacks.checkpoints.Checkpoints", "init_args": {"dirpath": "/tmp"}}
            ]
        },
        "callbacks.dirpath: expected none",
    ),
]


def test_what_a_run_writes_may_stay() -> None:
    check_settings(GOOD, (), "theirs")


@pytest.mark.parametrize(("key", "value", "says"), REFUSED, ids=[f"{key}={value!r:.60}" for key, value, _ in REFUSED])
def test_what_is_refused(key: str, value: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file_here").write_text(yaml.safe_dump(POPEN))
    with pytest.raises(ValueError) as error:
        check_settings({**GOOD, key: value}, (), "theirs")
    assert says in str(error.value)
    check_settings({**GOOD, key: value}, None, "mine")


def test_aliases_are_looked_at_once() -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    check_settings({**GOOD, "curriculum": {"start": value}}, (), "theirs")


def test_what_is_trusted_may_be_named() -> None:
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "x"}}
    check_settings({**GOOD, "trainer": {"logger": [logger]}}, ["lightning.pytorch"], "theirs")
    monitor = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
    check_settings({**GOOD, "trainer": {"callbacks": [monitor]}}, ["lightning"], "theirs")
    with pytest.raises(ValueError, match="expected a Callback"):
        check_settings({**GOOD, "trainer": {"callbacks": [logger]}}, ["lightning"], "theirs")


def test_what_the_user_hands_over_is_trusted_with_its_modules() -> None:
    config = {"mixer": ["lstm", {"module": "mine.Layer"}, "own:Layer"], "data": {"class_path": "my.data.Task"}}
    config["trainer"] = {"callbacks": [{"class_path": "cb.Mine"}], "logger": True}
    assert modules_named(config) == {"mine", "own", "my.data", "cb"}
    assert modules_named({"model": {"mixer": "a:B"}}) == {"a"} and modules_named({}) == set()


def test_a_link_in_a_run_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    Path("victim").write_text("mine")
    Path("run/within").symlink_to("checkpoints")
    for name in ("accuracy.csv", "spectra/link"):
        link = Path("run", name)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(Path("victim").resolve())
        for argv in (
            ["test", "--ckpt_path", "run/checkpoints/last.ckpt"],
            ["fit", "--run_dir=run", "--ckpt_path=last"],
        ):
            assert main(argv) == 2
            assert f"{link} is a link that leads out of the folder of the run" in capsys.readouterr().err
        link.unlink()
    assert Path("victim").read_text() == "mine"


class Command:
    """Pickled, it leaves a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return subprocess.getoutput, ("touch ran",)


@pytest.mark.parametrize(
    ("command", "changes", "says"),
    [
        ("test", {"weights_only": False}, "unknown key of a run: 'weights_only'"),
        ("validate", {"data": POPEN}, "--trust subprocess"),
        ("predict", {"trainer": {"callbacks": [POPEN]}}, "--trust subprocess"),
        ("fit", {"base": "../outside"}, "a path out of the folder"),
    ],
    ids=["weights_only", "data", "callbacks", "base"],
)
def test_a_run_of_others_runs_nothing(
    command: str,
    changes: dict[str, Any],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    learner = SequenceLearner("bd-lru", vocab_size=3, d_model=8)
    Path("run/checkpoints").mkdir(parents=True)
    content = {"hyper_parameters": dict(learner.hparams), "state_dict": learner.state_dict(), "task": Command()}
    torch.save(content, "run/checkpoints/last.ckpt")
    Path("outside.yaml").write_text("mixer: lstm\n")
    config = {"model": {"d_model": 8}, "mixer": "bd-lru", "data": "parity"} | changes
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    assert main([command, "--ckpt_path", "run/checkpoints/last.ckpt"]) == 2
    assert says in capsys.readouterr().err and not Path("ran").exists()
