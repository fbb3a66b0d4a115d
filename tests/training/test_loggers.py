"""Loggers of others: their package is asked for in one line, and with it they hear of the run. Stubs stand for them."""

import importlib.util
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from seqmix.__main__ import main
from seqmix.training.loggers import TrackioLogger, check_loggers

SHORT = (
    "--trainer.max_steps=2",
    "--trainer.log_every_n_steps=1",
    "--data.eval_size",
    "4",
    "--data.eval_lengths",
    "[8]",
    "--data.train_length",
    "8",
)


@pytest.mark.parametrize(
    ("name", "package"),
    [("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow"), ("CometLogger", "comet-ml"), ("TrackioLogger", "trackio")],
)
def test_a_missing_package_is_named(name: str, package: str) -> None:
    if importlib.util.find_spec(package.replace("-", "_")) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"trainer.logger: {name} needs .*: pip install {package}$"):
        check_loggers([{"class_path": f"lightning.pytorch.loggers.{name}"}])
    check_loggers(None)
    check_loggers({"class_path": "lightning.pytorch.loggers.CSVLogger"})


def test_it_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys) -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "parity", "--trainer.logger", "WandbLogger", *SHORT]) == 2
    error = capsys.readouterr().err
    assert error == "seqmix: error: trainer.logger: WandbLogger needs wandb: pip install wandb\n"
    assert not (tmp_path / "runs" / "parity").exists()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Makes a stub of a package and of modules in it; Lightning is told that it is there."""
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec

    def make(name: str, *modules: str) -> MagicMock:
        monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object() if n == name else find(n, *a))
        stub = MagicMock()
        for path in (name, *modules):
            module: Any = stub
            for part in path.split(".")[1:]:
                module = getattr(module, part)
            monkeypatch.setitem(sys.modules, path, module)
        return stub

    return make


def test_trackio_hears_of_a_run(package: Any) -> None:
    trackio = package("trackio")
    logger = TrackioLogger("mine", name="first")
    logger.log_hyperparams({"lr": 1e-3, "mixer": {"name": "lru"}})
    logger.log_metrics({"train/loss": 0.5}, step=3)
    logger.log_metrics({"train/loss": 0.4}, step=4)
    logger.finalize("success")
    trackio.init.assert_called_once_with(
        project="mine", name="first", space_id=None, config={"lr": 1e-3, "mixer": "{'name': 'lru'}"}
    )
    run = trackio.init.return_value
    assert [call.args[0] for call in run.log.call_args_list] == [{"train/loss": 0.5}, {"train/loss": 0.4}]
    run.finish.assert_called_once_with()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "class_path", "options"),
    [
        ("wandb", "WandbLogger", {"project": "mine", "offline": "true"}),
        ("mlflow", "MLFlowLogger", {"experiment_name": "mine"}),
        ("trackio", "seqmix.training.loggers.TrackioLogger", {"project": "mine"}),
    ],
)
def test_loggers_of_the_guide_hear_of_a_run(name, class_path, options, package, monkeypatch) -> None:
    import lightning.pytorch.loggers as loggers

    modules = {
        "wandb": ["wandb.wandb_run", "wandb.sdk", "wandb.sdk.lib"],
        "mlflow": ["mlflow.tracking", "mlflow.entities", "mlflow.utils"],
    }
    if name == "mlflow":
        modules[name] += ["mlflow.utils.mlflow_tags", "mlflow.tracking.context"]
    stub = package(name, *modules.get(name, []))
    for flag in ("wandb._WANDB_AVAILABLE", "mlflow._MLFLOW_AVAILABLE"):
        module, _, attribute = flag.partition(".")
        monkeypatch.setattr(getattr(loggers, module), attribute, True)
    if name == "wandb":  # of which it asks what its run is
        stub.run, stub.wandb_run.Run, stub.sdk.lib.RunDisabled = None, MagicMock, MagicMock
    words = [f"--trainer.logger.{key}={value}" for key, value in options.items()]
    assert main(["fit", "--config", "parity", "--trainer.logger", class_path, *words, *SHORT]) == 0
    assert any("log" in call[0] for call in stub.mock_calls), "metrics have come to it"
    assert any("mine" in str(call) for call in stub.mock_calls)
