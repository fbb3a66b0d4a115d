"""Data of others names no code that runs: what is imported is seqmix's own, or what the user said."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from seqmix import _trust
from seqmix.__main__ import main
from seqmix.mixers import TokenMixer
from seqmix.models import SequenceModel, _specs
from seqmix.training import SequenceLearner
from seqmix.training.config.files import load_config
from seqmix.training.loading import build_model, build_task, load_model, task_of

THEIRS = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from torch import nn

class Theirs(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(x)
"""
MODULE = "code_of_others"
MIXERS = [f"{MODULE}:Theirs", {"module": f"{MODULE}.Theirs"}, ["lstm", {"name": f"{MODULE}:Theirs"}]]


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, with code that leaves a file `ran` where it is imported."""
    (tmp_path / f"{MODULE}.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop(MODULE, None)


def refused(action: Callable[[], Any], says: str = f"--trust {MODULE}") -> None:
    with pytest.raises(ValueError, match="trust") as error:
        action()
    assert says in str(error.value) and not Path("ran").exists()


def run_with(folder: Path, **changes: Any) -> Path:
    """The folder of a run: a checkpoint that is harmless, and a config with `changes`."""
    learner = SequenceLearner("bd-lru", vocab_size=3, d_model=8)
    (folder / "checkpoints").mkdir(parents=True)
    content = {"hyper_parameters": dict(learner.hparams), "state_dict": learner.state_dict()}
    torch.save(content, folder / "checkpoints/last.ckpt")
    config = {"model": {"mixer": "bd-lru", "d_model": 8}, "data": "parity"} | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


COMMAND = {"class_path": "subprocess.Popen", "init_args": {"args": "touch ran", "shell": True}}


@pytest.mark.parametrize(
    "argv",
    [
        ["certify", "run"],
        ["inspect", "spectrum", "run", "--out", "a.svg"],
        ["inspect", "spectrum", "run/config.yaml", "--out", "a.svg"],
        ["certify", "run", "--config", "run/config.yaml"],
        ["list", "parameters", "--config", "run/config.yaml"],
    ],
    ids=" ".join,
)
def test_a_config_calls_no_command(argv: list[str], theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_with(theirs / "run", data=COMMAND)
    assert main(argv) == 2
    assert "--trust subprocess" in capsys.readouterr().err and not Path("ran").exists()
    # Trusted or not, it is no task.
    assert main([*argv, "--trust", "subprocess"]) == 2
    assert "expected a LightningDataModule, got 'subprocess.Popen'" in capsys.readouterr().err
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "path", ["seqmix.leaderboard.sweep.local.LocalProcesses", "seqmix.training.running.LightningDataModule"]
)
def test_what_seqmix_has_is_not_a_task_for_that(path: str) -> None:
    with pytest.raises(ValueError, match="data: expected a LightningDataModule"):
        build_task({"data": {"class_path": path}})


@pytest.mark.parametrize(
    "name", ["seqmix.mixers.registry:create_mixer", "seqmix.models.sequence_model:nn", "seqmix.x:Y"]
)
def test_what_seqmix_has_is_not_a_mixer_for_that(name: str) -> None:
    with pytest.raises(ValueError, match="mixer: "):
        build_model({"mixer": {"name": name}})
    _specs.check_mixers(["seqmix.mixers.bd_lru:BDLRU", "lstm", None], (), "mixer")


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_a_config_imports_nothing(mixer: Any, theirs: Path) -> None:
    config = {"mixer": mixer, "model": {"n_layers": 2}}
    refused(lambda: build_model(config))
    assert isinstance(build_model(config, trust=[MODULE]), SequenceModel) and Path("ran").exists()


def test_a_checkpoint_imports_nothing(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_with(theirs / "run") / "checkpoints/last.ckpt"
    content = torch.load(path)
    content["hyper_parameters"]["mixer"] = {"name": f"{MODULE}:Theirs"}
    torch.save(content, path)
    refused(lambda: load_model(path))
    refused(lambda: SequenceLearner.load_from_checkpoint(path))
    kept = SequenceLearner.load_from_checkpoint(path, mixer="bd-lru")
    assert torch.equal(kept.model.head.weight, content["state_dict"]["model.head.weight"])
    for argv in (["certify", "run"], ["inspect", "mixing", "run", "--out", "a.svg"]):
        assert main(argv) == 2 and f"--trust {MODULE}" in capsys.readouterr().err
    assert not Path("ran").exists()
    with pytest.raises(ValueError, match="of no one model"):
        load_model(path, trust=[MODULE])
    assert Path("ran").exists()


def test_a_pretrained_model_imports_nothing(theirs: Path) -> None:
    SequenceModel({"module": f"{MODULE}.Theirs"}, vocab_size=3, d_model=8).save_pretrained("model")
    Path("ran").unlink()
    del sys.modules[MODULE]
    refused(lambda: SequenceModel.from_pretrained("model"), f"trust=['{MODULE}']")
    model = SequenceModel.from_pretrained("model", trust=[MODULE])
    assert isinstance(model.mixers[0].module, nn.Module) and Path("ran").exists()
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps([config]))
    with pytest.raises(ValueError, match="does not describe a model"):
        SequenceModel.from_pretrained("model")


def test_a_task_of_others_is_one_when_it_is_trusted(theirs: Path) -> None:
    Path(f"{MODULE}.py").write_text(
        THEIRS + "\nfrom seqmix.tasks import create_task\nTheirTask = type(create_task('parity'))\n"
    )
    run = run_with(theirs / "run", data={"class_path": f"{MODULE}.TheirTask", "init_args": {}})
    checkpoint = run / "checkpoints/last.ckpt"
    refused(lambda: task_of(checkpoint))
    assert task_of(checkpoint, trust=[MODULE]).vocab_size == 3


def test_trust_is_of_one_call_and_of_what_lies_beneath(theirs: Path) -> None:
    config = {"mixer": f"{MODULE}:Theirs"}
    build_model(config, trust=[MODULE])
    with pytest.raises(ValueError, match="trust"):
        build_model(config)
    for module, trust in ((f"{MODULE}.a.b", [MODULE]), ("a.b", ["c", "a.b"])):
        _trust.require_trust(module, trust, "here")
    for module, names in (("ab", ["a"]), ("a", ["a.b"]), ("seqmix_evil", []), ("", ["a"])):
        with pytest.raises(ValueError, match="here names"):
            _trust.require_trust(module, names, "here")
    with pytest.raises(ValueError, match="--trust seqmix_evil"):
        build_task({"data": {"class_path": "seqmix_evil.Task"}})


def test_trusted_code_is_what_its_source_says(theirs: Path) -> None:
    # A compiled file that says it need not be compared with its source is taken for it by Python.
    import importlib.util
    import py_compile

    source = theirs / f"{MODULE}.py"
    source.write_text("raise SystemError('not what can be read')\n")
    cache = importlib.util.cache_from_source(str(source))
    py_compile.compile(str(source), cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text(THEIRS)
    _trust.import_trusted([MODULE])
    assert hasattr(sys.modules[MODULE], "Theirs")
    for name, says in (("no_such_module", "no module 'no_such_module'"), (".x", "name of a module"), ("", "name of a")):
        with pytest.raises(ValueError, match=f"--trust: .*{says}"):
            _trust.import_trusted([name])


def test_what_a_user_types_needs_no_more_words(theirs: Path) -> None:
    assert issubclass(type(SequenceModel(f"{MODULE}:Theirs", 3, 8).mixers[0]), TokenMixer)
    assert main(["inspect", "gradient", f"{MODULE}:Theirs", "--out", "a.svg"]) == 0
    assert main(["list", "parameters", "--mixer", f"{MODULE}:Theirs"]) == 0


def test_paths_stay_inside(tmp_path: Path) -> None:
    folder, victim = tmp_path / "folder", tmp_path / "victim"
    (folder / "sub").mkdir(parents=True)
    victim.write_text("mine")
    (folder / "link").symlink_to(victim)
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    for name in ("../victim", str(victim), "link", "up/victim", "up", ".", "..", "sub/../.."):
        with pytest.raises(ValueError, match="here: a path out of the folder"):
            _trust.inside(folder, name, "here")
    for name in ("new", "sub/new", "sub/../new"):
        assert _trust.inside(folder, name, "here") == folder / name
    _trust.write_inside(folder, "link", "theirs", "here")
    assert victim.read_text() == "mine" and (folder / "link").read_text() == "theirs"
    assert (
        not (folder / "link").is_symlink()
        and os.stat(folder / "link").st_mode & 0o777 == os.stat(victim).st_mode & 0o777
    )
    for name in ("../victim", str(victim), "sub/x", "..", ""):
        with pytest.raises(ValueError, match="here: expected the name of a file"):
            _trust.write_inside(folder, name, "theirs", "here")
    (folder / "base.yaml").symlink_to(tmp_path / "outside.yaml")
    (tmp_path / "outside.yaml").write_text("model: {d_model: 8}\n")
    for base in ("base", "../outside"):
        (folder / "config.yaml").write_text(f"base: {base}\n")
        with pytest.raises(ValueError, match="out of the folder"):
            load_config(str(folder / "config.yaml"), within=folder)
    (folder / "config.yaml").write_text("base: parity\n")
    assert load_config(str(folder / "config.yaml"), within=folder)["data"]["name"] == "parity"
