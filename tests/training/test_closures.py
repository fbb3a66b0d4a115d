"""The loss that an optimizer sees: the mean over the micro-batches of its step; clipping; second evaluations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from seqmix.optim import get_optimizer, list_optimizers, register_optimizer, registry
from seqmix.tasks import create_task
from seqmix.training import SequenceLearner
from seqmix.training.answers import cross_entropy
from seqmix.training.callbacks import Checkpoints

SEEN: list[dict[str, Any]] = []


class Watcher(torch.optim.SGD):
    """SGD that notes what its steps are given; `evaluations` of the closure a step."""

    def __init__(self, params: Any, lr: float = 0.1, evaluations: int = 1) -> None:
        super().__init__(params, lr)
        self.evaluations = evaluations

    def step(self, closure=None, *, loss=None, clip_coefficient=1.0):
        for _ in range(self.evaluations):
            seen = float(closure())
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norm = float(torch.nn.utils.get_total_norm(grads))
        SEEN.append({"loss": seen, "norm": norm, "coefficient": float(clip_coefficient)})
        super().step()


@pytest.fixture(autouse=True)
def watcher() -> Iterator[None]:
    SEEN.clear()
    register_optimizer("watcher", Watcher, description="Notes the loss.", needs="a closure")
    yield
    del registry._ENTRIES["watcher"]


class Batches(Callback):
    """Keeps the weights before each step and the batches of it."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.batches: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.weights.append({name: p.detach().clone() for name, p in pl_module.named_parameters()})
        self.batches.append(batch)


def fit(
    path: Path,
    optimizer: Any,
    steps: int = 2,
    callbacks: tuple[Any, ...] = (),
    *,
    after: bool = True,
    mixer: Any = "lstm",
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> SequenceLearner:
    torch.manual_seed(0)
    task = create_task("word-problem", group="S3", train_length=8, batch_size=8, eval_size=8)
    learner = SequenceLearner(
        mixer, task.vocab_size, 8, optimizer=optimizer, schedule="constant", norm_after_clipping=after
    )
    arguments = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    arguments |= {"enable_model_summary": False, "limit_val_batches": 0, "accelerator": "cpu"}
    Trainer(default_root_dir=path, max_steps=steps, callbacks=list(callbacks), **arguments | kwargs).fit(
        learner, datamodule=task, ckpt_path=ckpt_path
    )
    return learner


def losses_by_hand(learner: SequenceLearner, seen: Batches, accumulate: int) -> list[float]:
    found = []
    for start in range(0, len(seen.batches), accumulate):
        learner.load_state_dict(seen.weights[start])
        with torch.no_grad():
            losses = [
                cross_entropy(learner(batch["tokens"]), batch["targets"])
                for batch in seen.batches[start : start + accumulate]
            ]
        found.append(float(torch.stack(losses).mean()))
    return found


@pytest.mark.parametrize("accumulate", [1, 3])
def test_loss_is_the_mean_over_micro_batches(tmp_path: Path, accumulate: int) -> None:
    seen = Batches()
    learner = fit(tmp_path, "watcher", callbacks=(seen,), accumulate_grad_batches=accumulate)
    assert len(seen.batches) == 2 * accumulate
    assert [step["loss"] for step in SEEN] == pytest.approx(losses_by_hand(learner, seen, accumulate), rel=1e-6)
    assert SEEN[0]["loss"] != pytest.approx(SEEN[1]["loss"], rel=1e-3)


def test_penalties_are_in_the_loss(tmp_path: Path) -> None:
    class Penalty(Callback):
        def on_fit_start(self, trainer, pl_module) -> None:
            pl_module.loss_terms["train/penalty"] = lambda: torch.tensor(10.0)

    seen = Batches()
    learner = fit(tmp_path, "watcher", 1, (seen, Penalty()))
    assert SEEN[0]["loss"] == pytest.approx(10 + losses_by_hand(learner, seen, 1)[0], rel=1e-6)


@pytest.mark.parametrize("after", [True, False])
def test_norm_after_or_before_clipping(tmp_path: Path, after: bool) -> None:
    fit(tmp_path, {"name": "watcher", "lr": 1e-3}, 1)
    whole = SEEN.pop()["norm"]
    fit(tmp_path, {"name": "watcher", "lr": 1e-3}, 1, after=after, gradient_clip_val=whole / 4)
    assert SEEN[0]["norm"] == pytest.approx(whole / 4, rel=1e-3)
    assert SEEN[0]["coefficient"] == pytest.approx(1.0 if after else 0.25, rel=1e-3)
    around = {"name": "anti-pgd", "base": {"name": "watcher", "lr": 1e-3}, "sigma": 0.0}
    fit(tmp_path, around, 1, after=after, gradient_clip_val=whole / 4)
    assert SEEN.pop()["coefficient"] == SEEN[0]["coefficient"]
    # A bound that is not reached changes nothing.
    fit(tmp_path, {"name": "watcher", "lr": 1e-3}, 1, after=after, gradient_clip_val=whole * 4)
    assert (SEEN[1]["norm"], SEEN[1]["coefficient"]) == (pytest.approx(whole, rel=1e-6), 1.0)


@pytest.mark.parametrize("name", ["adamw", "muown", "ngn-md"])
def test_clipping_in_mixed_precision(tmp_path: Path, name: str) -> None:
    class Norm(Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_before_zero_grad(self, trainer, pl_module, optimizer) -> None:
            if trainer.global_step:
                self.norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()])))

    fit(tmp_path, name, 2, (norm := Norm(),), precision="bf16-mixed", gradient_clip_val=0.01)
    assert norm.norms == pytest.approx([0.01] * len(norm.norms), rel=1e-3) and norm.norms


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"more than once a step, which needs trainer\.accumulate_grad_batches"):
        fit(tmp_path, {"name": "watcher", "evaluations": 2}, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=r"needs clipping by norm"):
        clip = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}
        fit(tmp_path, "watcher", after=False, **clip)
    with pytest.raises(ValueError, match=r"False is for NGN, optimizer 'sam' uses no norm"):
        fit(tmp_path, "sam", after=False, gradient_clip_val=1.0)
    with pytest.raises(ValueError, match=r"False is for NGN, optimizer 'adamw' uses no norm"):
        SequenceLearner("lstm", 7, 8, norm_after_clipping=False)


def test_several_evaluations(tmp_path: Path) -> None:
    fit(tmp_path, {"name": "watcher", "evaluations": 2})
    learner = fit(tmp_path, {"name": "sam", "lr": 1e-2, "rho": 0.05}, 3)
    assert all(torch.isfinite(p).all() for p in learner.parameters())


def test_a_gradient_scaler_hands_the_loss_over(tmp_path: Path) -> None:
    from lightning.pytorch.plugins.precision import MixedPrecision

    class Scaled(MixedPrecision):
        """Scales the loss by 2^10 and evaluates the closure as fp16 does, in float32."""

        def __init__(self) -> None:
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
            super().__init__("16-mixed", "cpu", scaler)

        def autocast_context_manager(self):
            return torch.autocast("cpu", enabled=False)

    seen, clip = Batches(), {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2}
    learner = fit(tmp_path, {"name": "ngn-md", "lr": 0.1}, 2, (seen,), plugins=[Scaled()], **clip)
    plain = fit(tmp_path, {"name": "ngn-md", "lr": 0.1}, 2, **clip)
    for one, two in zip(learner.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert any(not torch.equal(seen.weights[0][name], p) for name, p in learner.named_parameters())


def test_bases_of_wrappers_are_asked(tmp_path: Path) -> None:
    from seqmix.training.closures import LossInStep

    assert LossInStep({"name": "lookahead", "base": {"name": "watcher"}})._wants_loss
    assert LossInStep({"name": "lookahead", "base": "watcher"})._wants_loss
    assert not LossInStep({"name": "lookahead"})._wants_loss


@pytest.mark.parametrize(
    ("name", "mixer"),
    [
        ("sophiah", {"name": "bd-lru", "d_state": 8, "block_size": 2}),
        ("adahessian", {"name": "attention", "n_heads": 2}),
        ("sophiah", {"name": "fp-rnn", "d_state": 4}),
        ("adahessian", {"name": "lstm", "d_state": 4}),
    ],
    ids=str,
)
def test_second_derivatives_through_the_reference(tmp_path: Path, name: str, mixer: dict[str, Any]) -> None:
    learner = fit(tmp_path, {"name": name, "lr": 1e-3}, 2, mixer=mixer)
    assert all(torch.isfinite(p).all() for p in learner.parameters())
    moment = "hessian_moment" if name == "sophiah" else "exp_hessian_diag_sq"
    assert any((value[moment] != 0).any() for value in learner.trainer.optimizers[0].state.values())


@pytest.mark.parametrize("name", ["schedulefreeadamw", "schedulefreewrapper"])
def test_schedule_free_weights_are_those_of_the_mode(tmp_path: Path, name: str) -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.trained: list[torch.Tensor] = []
            self.validated: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            self.trained.append(pl_module.model.embedding.weight.detach().clone())

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
            self.validated.append(pl_module.model.embedding.weight.detach().clone())

    watch, entry = Watch(), {"name": name, "lr": 0.1}
    often = {
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 0,
    }
    learner = fit(tmp_path, entry, 6, (watch, Checkpoints(str(tmp_path))), enable_checkpointing=True, **often)
    # Validation sees other weights than the step before it has left, and the step after it goes on from those.
    assert (watch.validated[0] - watch.trained[2]).abs().max() > 1e-3
    # To and fro is the same up to rounding.
    torch.testing.assert_close(learner.model.embedding.weight.detach(), watch.validated[-1])
    whole = learner.model.state_dict()
    saved = torch.load(tmp_path / "last.ckpt")["state_dict"]
    assert torch.equal(saved["model.embedding.weight"], whole["embedding.weight"])
    part = tmp_path / "part"
    fit(part, entry, 4, (Checkpoints(str(part)),), enable_checkpointing=True, **often)
    again = (Checkpoints(str(part)),)
    resumed = fit(part, entry, 6, again, ckpt_path=part / "last.ckpt", enable_checkpointing=True, **often)
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-5)


def test_no_learning_rate_no_schedule(tmp_path: Path) -> None:
    fit(tmp_path, "alig", log_every_n_steps=1)
    learner = SequenceLearner("lstm", 7, 8, optimizer="alig")
    learner.trainer = Trainer(max_steps=1, logger=False, accelerator="cpu")
    with pytest.raises(ValueError, match="has no learning rate; without one the schedule is 'constant'"):
        learner.configure_optimizers()


# They stand still for some steps by design, or ask for what a config must give.
_SLOW_STARTERS = {"adashift", "po-radam", "schedulefreeradam"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in list_optimizers() if get_optimizer(n).library != "none"])
def test_every_registered_optimizer_trains(name: str, tmp_path: Path) -> None:
    if name == "sparseadam":
        with pytest.raises(RuntimeError, match="does not support dense gradients"):
            fit(tmp_path, name, 1)
        return
    needed = {"num_iterations": 12} if name == "ranger21" else {}
    mixer = {"name": "bd-lru", "d_state": 8, "block_size": 2}
    before = fit(tmp_path, "watcher", 0, mixer=mixer).state_dict()
    after = fit(tmp_path, {"name": name, **needed}, 12 if name in _SLOW_STARTERS else 3, mixer=mixer).state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
