"""The models that come with seqmix: they answer, their proofs hold, and they are small."""

from pathlib import Path

import pytest
import torch

from seqmix.__main__ import main
from seqmix.models import SequenceModel
from seqmix.models.shipped import about_shipped, list_models, shipped_folder
from seqmix.tasks import create_task


def test_there_are_some_and_they_are_small() -> None:
    assert {"a5", "parity", "s3", "s5"} <= set(list_models())
    files = [path for name in list_models() for path in shipped_folder(name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 2e6


@pytest.mark.parametrize("name", list_models())
def test_it_answers_long_words(name: str) -> None:
    model = SequenceModel.from_pretrained(f"seqmix:{name}").eval()
    arguments = dict(about_shipped(name)["task"])
    task = create_task(arguments.pop("name"), **arguments, eval_lengths=[1000], eval_size=4, seed=7)
    task.setup("test")
    batch = next(iter(task.test_dataloader()[0]))
    with torch.no_grad():
        logits, _ = model(batch["tokens"])
    asked = batch["targets"] >= 0
    assert asked.any() and (logits.argmax(-1) == batch["targets"])[asked].all()


@pytest.mark.parametrize("name", list_models())
def test_its_certificate_holds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "--verify", f"seqmix:{name}"]) == 0
    assert f"holds for seqmix:{name}" in capsys.readouterr().out


def test_it_is_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models", "a5"]) == 0
    assert 'from_pretrained("seqmix:a5")' in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"unknown model 'a6'.*a5"):
        SequenceModel.from_pretrained("seqmix:a6")
    assert main(["certify"]) == 2 and "got nothing" in capsys.readouterr().err


def test_the_folder_of_weights_is_packaged() -> None:
    names = {"about.json", "certificate.json", "config.json", "model.safetensors"}
    for name in list_models():
        assert {path.name for path in Path(shipped_folder(name)).iterdir()} == names
