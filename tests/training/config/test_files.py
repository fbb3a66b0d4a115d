"""Configs: found by name, stacked, merged with options; every shipped one builds and takes a step."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from seqmix.tasks import create_task, get_task
from seqmix.training import SequenceLearner
from seqmix.training.config.files import (
    SECTIONS,
    expand,
    find_config,
    list_configs,
    load_config,
    merge,
    parse_value,
    set_by_path,
)

# `lm-paper` needs a corpus and a tokenizer: tests/training/test_language_model.py gives it some.
CONFIGS = [name for name in list_configs() if name != "lm-paper"]
PAPER = [name for name in CONFIGS if name.endswith(("-paper", "-mad"))]


@pytest.mark.parametrize(
    ("name", "whole"),
    [(name, name not in PAPER) for name in CONFIGS]
    + [pytest.param(name, True, marks=pytest.mark.slow) for name in PAPER],
)
def test_every_config_builds_and_takes_a_step(name: str, whole: bool, tmp_path: Path) -> None:
    config = expand(load_config(name))
    # The step is that of the config, with two sequences at published sizes, or eight: more than twenty gigabytes are
    # what some of them take with their own. What comes after the step is kept short.
    short: dict[str, Any] = {"eval_size": 2, "num_workers": 0}
    if name in PAPER:
        short["batch_size"] = min(8, config["data"]["init_args"].get("batch_size", 8)) if whole else 2
    known = inspect.signature(get_task(load_config(name)["data"]["name"]).load()).parameters
    arguments = config["data"]["init_args"] | {key: value for key, value in short.items() if key in known}
    task = create_task(load_config(name)["data"]["name"], **arguments)
    learner = SequenceLearner(vocab_size=task.vocab_size, **config["model"])
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    callbacks = []
    for entry in config["trainer"]["callbacks"]:
        module, _, cls = entry["class_path"].rpartition(".")
        callbacks.append(getattr(__import__(module, fromlist=[cls]), cls)(**entry.get("init_args", {})))
    options = {key: value for key, value in config["trainer"].items() if key != "callbacks"}
    options = {"val_check_interval": 500, "check_val_every_n_epoch": None} | options  # as the command line does
    # A stream has no epochs that end: one that is validated after epochs never would be.
    interval = options["val_check_interval"]
    if interval is None:
        own = create_task(load_config(name)["data"]["name"], **config["data"]["init_args"])  # batches of its own size
        interval = options["check_val_every_n_epoch"] * len(own.train_dataloader())
    assert interval <= options["max_steps"], "validation comes before the end"
    options |= {"fast_dev_run": True, "logger": False, "accelerator": "cpu", "enable_model_summary": False}
    Trainer(callbacks=callbacks, default_root_dir=tmp_path, **options).fit(learner, datamodule=task)
    assert any(not torch.equal(p, before[name]) for name, p in learner.named_parameters())
    assert all(p.isfinite().all() for p in learner.parameters())


def test_every_config_says_what_it_is() -> None:
    for name, description in list_configs().items():
        assert 20 < len(description) < 120 and not description.startswith(("data", "base")), name


def test_a_config_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("a5") == find_config("a5.yaml")
    own = tmp_path / "mine.yaml"
    own.write_text("base: parity\nmodel: {d_model: 16}\n")
    config = load_config("mine.yaml")
    assert config["model"]["d_model"] == 16 and config["data"]["name"] == "parity"
    with pytest.raises(ValueError, match=r"unknown config 'parityy'; did you mean 'parity'"):
        find_config("parityy")
    with pytest.raises(ValueError, match="unknown config 'elsewhere/a5'"):
        find_config("elsewhere/a5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: loop", "base leads back"),
        ("[1, 2]", "expected keys and values"),
        ("a: [", "not YAML"),
        ("base: no", "no"),
    ],
)
def test_bad_config_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(str(path))


def test_numbers_as_people_write_them() -> None:
    assert parse_value("[1e-3, 2E+4, .5, 3, x, null]") == [1e-3, 2e4, 0.5, 3, "x", None]


def test_another_name_starts_an_entry_afresh() -> None:
    config = {"mixer": {"name": "bd-lru", "block_size": 5}, "model": {"d_model": 128}}
    assert set_by_path(config, "mixer.block_size", 4)["mixer"] == {"name": "bd-lru", "block_size": 4}
    assert set_by_path(config, "model.mixer.block_size", 4) == set_by_path(config, "mixer.block_size", 4)
    assert set_by_path(config, "mixer", "mamba")["mixer"] == {"name": "mamba"}
    assert set_by_path(config, "mixer.name", "bd-lru")["mixer"] == config["mixer"]
    assert set_by_path(config, "mixer", [{"name": "lru"}, "attention"])["mixer"] == [{"name": "lru"}, "attention"]
    assert merge(config, {"model": {"n_layers": 2}})["model"] == {"d_model": 128, "n_layers": 2}


def test_sections_become_callbacks_and_back() -> None:
    config = expand(
        {
            "curriculum": {"start": 3},
            "progress": None,
            "data": {"name": "parity"},
            "mixer": "lstm",
            "seed_everything": 7,
        }
    )
    paths = {entry["class_path"]: entry.get("init_args") for entry in config["trainer"]["callbacks"]}
    assert paths[SECTIONS["curriculum"][0]] == {"start": 3}
    assert SECTIONS["progress"][0] not in paths and SECTIONS["gate_entropy"][0] not in paths
    assert SECTIONS["checkpoints"][0] in paths
    assert config["model"] == {"mixer": "lstm"}
    assert config["data"]["class_path"].endswith("Parity") and config["data"]["init_args"] == {"seed": 7}
    with pytest.raises(ValueError, match="curriculum: expected arguments or null"):
        expand({"curriculum": "yes"})


def test_a_saved_config_is_a_config_again(tmp_path: Path) -> None:
    written = expand(load_config("s3"))
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(written))
    read = load_config(str(path))
    assert expand(read) == written
    assert expand(set_by_path(read, "curriculum.start", 4)) == expand(
        set_by_path(load_config("s3"), "curriculum.start", 4)
    )
