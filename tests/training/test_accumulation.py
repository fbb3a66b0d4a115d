"""A step over micro-batches, of one process or of several, has the gradient and the loss of the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from seqmix.optim import register_optimizer, registry
from seqmix.training import SequenceLearner
from seqmix.training.answers import cross_entropy
from seqmix.training.pretraining import Pretraining, PretrainingLearner

COUNTS = (45, 46, 50, 0, 28, 3)  # targets of the micro-batches
SEEN: list[dict[str, Any]] = []


class Noted(torch.optim.SGD):
    """SGD that notes the loss; asks `evaluations` times for it."""

    def __init__(self, params: Any, lr: float = 0.1, evaluations: int = 1) -> None:
        super().__init__(params, lr)
        self.evaluations = evaluations

    def step(self, closure=None):
        for _ in range(self.evaluations):
            loss = float(closure())
        SEEN.append({"loss": loss})
        super().step()


class Gradients(Callback):
    """Notes those of the step, by name."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if SEEN:
            SEEN[0]["grads"] = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


def batches() -> list[dict[str, Tensor]]:
    """Rows (4, 16) with the given numbers of targets, at random places."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in COUNTS:
        tokens, targets = torch.randint(7, (2, 4, 16), generator=generator)
        targets.view(-1)[torch.randperm(64, generator=generator)[count:]] = -100
        found.append({"tokens": tokens, "targets": targets})
    return found


class Inputs(LightningDataModule):
    """Process r of n takes batches r, r + n, r + 2 n, ..."""

    seed, mask_token, vocab_size = 0, None, 7

    def train_dataloader(self):
        rank, n = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(batches()[rank::n], batch_size=None)


class Data(Inputs):
    """With what a `SequenceLearner` asks for."""

    val_dataloader = Inputs.train_dataloader


def learner(evaluations: int = 1, **kwargs) -> SequenceLearner:
    torch.manual_seed(0)
    optimizer = {"name": "noted", "evaluations": evaluations}
    return SequenceLearner("lstm", 7, 8, optimizer=optimizer, schedule="constant", **kwargs).double()


def fit(module: Any, folder: Path, accumulate: int, data: type[Inputs] = Data, **kwargs) -> Trainer:
    SEEN.clear()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(
        default_root_dir=folder,
        max_steps=1,
        accumulate_grad_batches=accumulate,
        enable_model_summary=False,
        limit_val_batches=0,
        precision="64-true",
        log_every_n_steps=1,
        use_distributed_sampler=False,
        callbacks=[Gradients()],
        **quiet | kwargs,
    )
    trainer.fit(module, datamodule=data())
    return trainer


def whole(module: Any, some: list[dict[str, Tensor]]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of all rows as one batch."""
    batch = {name: torch.cat([each[name] for each in some]) for name in some[0]}
    loss = cross_entropy(module(batch["tokens"]), batch["targets"])
    named = dict(module.named_parameters())
    return loss.item(), dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def close(loss: float, grads: dict[str, Tensor]) -> None:
    (seen,) = SEEN
    assert seen["loss"] == pytest.approx(loss, rel=1e-12)
    assert seen["grads"].keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(seen["grads"][name], grad, rtol=1e-10, atol=1e-14)


@pytest.fixture(autouse=True)
def noted():
    register_optimizer("noted", Noted, description="Notes loss and gradients.", needs="a closure")
    yield
    del registry._ENTRIES["noted"]


@pytest.mark.parametrize("accumulate", [1, 3, 6])
def test_micro_batches_count_by_their_targets(tmp_path: Path, accumulate: int) -> None:
    loss, grads = whole(learner(), batches()[:accumulate])
    trainer = fit(learner(), tmp_path, accumulate)
    close(loss, grads)
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(loss, rel=1e-12)


def test_a_last_step_of_fewer_batches_is_their_mean(tmp_path: Path) -> None:
    loss, grads = whole(learner(), batches())
    fit(learner(), tmp_path, 8)
    close(loss, grads)


def test_penalties_are_weighted_alike(tmp_path: Path) -> None:
    module = learner()
    module.loss_terms["train/penalty"] = lambda: module.model.head.weight.pow(2).sum()
    loss, grads = whole(learner(), batches())
    penalty = module.loss_terms["train/penalty"]().item()
    grads["model.head.weight"] = grads["model.head.weight"] + 2 * module.model.head.weight.detach()
    trainer = fit(module, tmp_path, 6)
    close(loss + penalty, grads)
    assert float(trainer.callback_metrics["train/penalty"]) == pytest.approx(penalty, rel=1e-12)


def test_clipping_sees_the_gradient_of_the_whole(tmp_path: Path) -> None:
    _, grads = whole(learner(), batches())
    norm = float(torch.nn.utils.get_total_norm(grads.values()))
    fit(learner(), tmp_path, 6, gradient_clip_val=norm / 2)
    assert float(torch.nn.utils.get_total_norm(SEEN[0]["grads"].values())) == pytest.approx(norm / 2, rel=1e-5)


def test_pretraining_too(tmp_path: Path) -> None:
    module = PretrainingLearner(learner(), Inputs(), Pretraining(steps=1, objective="causal")).double()
    rows = torch.cat([batch["tokens"] for batch in batches()[:3]])
    inputs, targets = module.inputs_and_targets({"tokens": rows})
    loss = cross_entropy(module.head(module.model.features(inputs)[0]), targets)
    trainer = fit(module, tmp_path, 3, Inputs)
    assert float(trainer.callback_metrics["pretrain/loss"]) == pytest.approx(loss.item(), rel=1e-12)
    assert SEEN[0]["loss"] == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("accumulate", "evaluations"), [(1, 1), (1, 2), (3, 1)])
def test_processes_count_by_their_targets(tmp_path: Path, accumulate: int, evaluations: int) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SEQMIX", "LOCAL_RANK"))}
    command = [
        sys.executable,
        "-m",
        "tests.training.test_accumulation",
        str(tmp_path),
        str(accumulate),
        str(evaluations),
    ]
    subprocess.run(command, env=env | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    loss, grads = whole(learner(), batches()[: 2 * accumulate])
    for rank in range(2):
        SEEN[:] = [torch.load(tmp_path / f"{rank}.pt")]
        close(loss, grads)
        assert SEEN[0]["logged"] == pytest.approx(loss, rel=1e-12)


def main(folder: str, accumulate: str, evaluations: str) -> None:
    """What each of two processes does."""
    register_optimizer("noted", Noted, description="Notes loss and gradients.", needs="a closure")
    trainer = fit(learner(int(evaluations)), Path(folder), int(accumulate), devices=2, strategy="ddp")
    logged = float(trainer.callback_metrics["train/loss"])
    torch.save(SEEN[0] | {"logged": logged}, f"{folder}/{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
