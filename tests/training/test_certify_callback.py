"""The certificate of the weights that are tested: in the run's folder, and for its record."""

import json
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from seqmix.inspect import Certificate
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.callbacks import Certify
from tests.inspect.test_certify import word_problem


def task(name: str = "word-problem", **options):
    return create_task(name, **{"train_length": 4, "batch_size": 4, "eval_size": 4, "eval_lengths": [4]} | options)


def look(folder: Path, learner: SequenceLearner, data, **options) -> Certify:
    callback = Certify(**options)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(default_root_dir=folder, callbacks=[callback], **quiet).test(learner, datamodule=data, verbose=False)
    return callback


def test_exact_model_is_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = word_problem("S3")
    learner = SequenceLearner("bd-lru", model.vocab_size, model.d_model)
    learner.model = model
    kept = look(tmp_path, learner, task(group="S3")).certificate
    assert kept is not None and kept["certified"] is True and "proof" not in kept
    assert [block["degree"] for block in kept["blocks"]] == [3]
    whole = Certificate.from_dict(json.loads((tmp_path / "certificate.json").read_text()))
    assert whole.certified and whole.proof is not None and whole.states == kept["states"]
    assert "with its gates hardened: every length" in capsys.readouterr().out


def test_untrained_model_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learner = SequenceLearner({"name": "bd-lru", "block_size": 2}, 3, 8)
    kept = look(tmp_path, learner, task(group="Z2")).certificate
    assert kept is not None and kept["certified"] is False and kept["reason"]
    assert (
        f"your network: nothing proved; with its gates hardened: not certified, {kept['reason']}"
        in capsys.readouterr().out
    )


def test_what_is_no_automaton_is_told_before_the_test(tmp_path: Path) -> None:
    learner = SequenceLearner("bd-lru", 32, 8)
    with pytest.raises(NotImplementedError, match="finite automaton"):
        look(tmp_path, learner, task("selective-copy", train_length=40, eval_lengths=[40]))
    with pytest.raises(ValueError, match="max_states must be a positive integer, got 0"):
        Certify(max_states=0)
