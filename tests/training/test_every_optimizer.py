"""Every optimizer trains from the command line, and its checkpoint is tested and resumed."""

from pathlib import Path

import pytest
import torch

from seqmix.__main__ import main
from seqmix.optim import get_optimizer
from tests.optim.test_registry import CREATED, REQUIRED

# Their states hold queues, enumerations or objects of the library.
APART = ("scion", "conda", "adashift", "scalableshampoo")
NAMES = [
    pytest.param(name, marks=[] if name in APART else pytest.mark.slow)
    for name in CREATED
    if name != "sparseadam"  # its gradients come from sparse embeddings alone
]
OPTIONS = ["--trainer.accelerator", "cpu", "--data.eval_size", "4", "--data.eval_lengths", "[6]", "--run_dir", "run"]
OPTIONS += ["--data.train_length=6", "--data.batch_size", "8", "--model.d_model", "8", "--seed_everything", "1"]
OPTIONS += ["--trainer.val_check_interval", "2", "--schedule", "constant", "--schedule.warmup", "0"]
for section in ("curriculum", "gate_entropy", "volume_restart", "stop_when_solved"):
    OPTIONS += [f"--{section}", "null"]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_is_tested_and_resumed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    needs = get_optimizer(name).needs
    options = [*OPTIONS, "--optimizer", name]
    for key, value in REQUIRED.get(name, {}).items():
        options += [f"--optimizer.{key}", str(value)]
    if needs == "a closure":
        options += ["--trainer.accumulate_grad_batches", "1"]
    assert main(["fit", "--config", "s3", *options, "--trainer.max_steps", "4", "--test_after_fit", "none"]) == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert main(["test", "--ckpt_path", str(last)]) == 0
    assert main(["fit", "--config", "s3", *options, "--trainer.max_steps", "6", "--ckpt_path", "last"]) == 0
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 6 and all(value.isfinite().all() for value in saved["state_dict"].values())
