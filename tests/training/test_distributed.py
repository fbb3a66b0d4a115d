"""Two gloo processes follow one process at the same global batch, with DDP and with sharded parameters.

For a few steps: sums of other orders part by a factor with each, and a fault shows in the first.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

# Sharded weights refuse the restarts that the config has.
OPTIONS = ["--config", "s3", "--trainer.accelerator", "cpu", "--seed_everything", "1", "--volume_restart", "null"]
OPTIONS += ["--model.d_model", "32", "--model.n_layers", "2", "--data.eval_lengths", "[16,32]"]
OPTIONS += ["--optimizer.weight_decay", "0.1", "--gate_entropy.ramp_steps", "5", "--curriculum.threshold", "0.2"]
OPTIONS += ["--data.eval_size", "65", "--trainer.val_check_interval", "5"]


def seqmix(folder: Path, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SEQMIX", "LOCAL_RANK"))}
    result = subprocess.run(
        [sys.executable, "-m", "seqmix", *arguments],
        cwd=folder,
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt")["state_dict"]


def table(folder: Path) -> list[list[float]]:
    _, *rows = (folder / "accuracy.csv").read_text().split()
    return [[float(value) for value in row.split(",")] for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    seqmix(folder, "fit", *OPTIONS, "--trainer.max_steps", "10", "--run_dir", "one")
    return folder / "one"


@pytest.mark.parametrize("strategy", ["ddp", "fully_shard"])
def test_two_processes_follow_one(strategy: str, alone: Path, tmp_path: Path) -> None:
    two = ["--trainer.strategy", strategy, "--trainer.devices", "2"]
    printed = seqmix(tmp_path, "fit", *OPTIONS, *two, "--trainer.max_steps", "10", "--run_dir", "two")
    assert printed.count("whole sequence") == 1, "one process prints"
    one = weights(alone)
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(
            value, one[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for ours, theirs in zip(table(tmp_path / "two"), table(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=0.02), "each test example counts once"

    seqmix(tmp_path, "fit", *OPTIONS, *two, "--trainer.max_steps", "5", "--run_dir", "part", "--schedule", "constant")
    seqmix(tmp_path, "fit", *OPTIONS, *two, "--trainer.max_steps", "10", "--run_dir", "part", "--schedule", "constant",
           "--ckpt_path", "last")  # fmt: skip
    seqmix(tmp_path, "fit", *OPTIONS, *two, "--trainer.max_steps", "10", "--run_dir", "full", "--schedule", "constant")
    whole = weights(tmp_path / "full")
    for name, value in weights(tmp_path / "part").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-5, atol=1e-6)


PLAIN = [*OPTIONS, "--schedule", "constant"]
for section in ("curriculum", "gate_entropy", "stop_when_solved"):
    PLAIN += [f"--{section}", "null"]


@pytest.mark.parametrize("mixer", ["bd-lru", "lstm"])
def test_sequences_cut_over_two_processes_follow_one(mixer: str, tmp_path: Path) -> None:
    few = [*PLAIN, "--mixer", mixer, "--trainer.max_steps", "5", "--model.n_layers", "1"]
    seqmix(tmp_path, "fit", *few, "--run_dir", "one")
    seqmix(
        *(tmp_path, "fit", *few, "--run_dir", "two"),
        *("--trainer.strategy", "sequence_parallel", "--trainer.devices", "2"),
    )
    one = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(
            value, one[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for ours, theirs in zip(table(tmp_path / "two"), table(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, abs=0.02), "every sequence counts once, and whole"


def test_checkpoints_in_parts_go_on_with_another_number_of_processes(tmp_path: Path) -> None:
    few = [*PLAIN, "--test_after_fit", "none"]
    seqmix(tmp_path, "fit", *few, "--trainer.devices", "1", "--trainer.max_steps", "7", "--run_dir", "one")
    for steps, processes in ((2, "2"), (4, "1"), (6, "2")):
        again = ["--ckpt_path", "last"] if steps > 2 else []
        sharded = ["--trainer.strategy", "fully_shard_dcp", "--trainer.devices", processes]
        seqmix(tmp_path, "fit", *few, *sharded, "--trainer.max_steps", str(steps), "--run_dir", "parts", *again)
        assert (tmp_path / "parts/checkpoints/last.ckpt/.metadata").is_file()
    whole = ["--trainer.strategy", "fully_shard", "--trainer.devices", "2", "--ckpt_path", "last"]
    seqmix(tmp_path, "fit", *few, *whole, "--trainer.max_steps", "7", "--run_dir", "parts")  # and in one file again
    one = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "parts").items():
        torch.testing.assert_close(
            value, one[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("optimizer", ["adamw", "muown"])
def test_a_run_goes_on_with_another_number_of_processes(optimizer: str, tmp_path: Path) -> None:
    """Two processes, one, two: weights, moments and the place in the data are those of one process all along."""
    few = [*OPTIONS[:2], "--optimizer", optimizer, *OPTIONS[2:], "--schedule", "constant", "--test_after_fit", "none"]
    for section in ("curriculum", "gate_entropy", "volume_restart", "stop_when_solved"):
        few += [f"--{section}", "null"]
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "fully_shard"]
    seqmix(tmp_path, "fit", *few, *one, "--trainer.max_steps", "6", "--run_dir", "one")
    for steps, processes in ((2, two), (4, one), (6, two)):
        again = ["--ckpt_path", "last"] if steps > 2 else []
        seqmix(tmp_path, "fit", *few, *processes, "--trainer.max_steps", str(steps), "--run_dir", "changed", *again)
    whole = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "changed").items():
        torch.testing.assert_close(
            value, whole[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("clip", [(), ("--trainer.gradient_clip_val", "0.2", "--model.norm_after_clipping", "false")])
def test_ngn_sees_the_loss_of_all_processes(tmp_path: Path, clip: tuple[str, ...]) -> None:
    # With steps from losses of their own the processes would part; small batches, so that those differ by percents.
    ngn = [*OPTIONS, "--optimizer", "ngn-md", "--optimizer.lr", "10", "--data.batch_size", "4"]
    ngn += ["--trainer.max_steps", "2", *clip]
    for section in ("curriculum", "gate_entropy", "volume_restart", "stop_when_solved"):
        ngn += [f"--{section}", "null"]
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    seqmix(tmp_path, "fit", *ngn, "--run_dir", "one")
    seqmix(tmp_path, "fit", *ngn, *two, "--run_dir", "two")
    one = weights(tmp_path / "one")
    for name, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(
            value, one[name], rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
