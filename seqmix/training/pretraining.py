"""Self-pretraining: a first stage on the task's own training inputs, without answers (Amos et al. 2024, 2310.02980).

Masked: a share of the tokens is replaced by the task's mask token, and the model says what stood there. Causal: the
model says the next token. A linear head of this stage does the saying, and is left behind; everything else goes on into
training as it is. Nothing but the task's own inputs is seen, so that what is gained is not from other data.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix._suggest import unknown_name
from seqmix.optim.create import create_optimizer
from seqmix.optim.scheduler import create_schedule
from seqmix.tasks.asked import asked_of
from seqmix.tasks.streams import unit, words
from seqmix.training.answers import cross_entropy
from seqmix.training.callbacks import Checkpoints, NonFiniteGuard
from seqmix.training.closures import LossInStep
from seqmix.training.continuing import check_same, check_value
from seqmix.training.module import SequenceLearner

__all__ = ["Pretraining", "PretrainingLearner", "is_of_pretraining", "pretrain"]

# Of the trainer's options those that say how to compute; what is logged, stored and measured is this stage's own.
_COMPUTE = (
    "accelerator",
    "strategy",
    "devices",
    "num_nodes",
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "deterministic",
    "benchmark",
    "use_distributed_sampler",
    "log_every_n_steps",
    "fast_dev_run",
)


@dataclass(frozen=True)
class Pretraining:
    """What `pretrain: {steps: 500, objective: masked, mask_rate: 0.5}` in a config says.

    Args:
        steps: of the optimizer, before and beside `trainer.max_steps`; the schedule goes once through both.
        objective: `masked` or `causal`; None for masked with bidirectional layers, causal without.
        mask_rate: share of the tokens that are masked. Published: 0.5 for pictures, 0.1 for ListOps, 0.15 for text.
        lr: learning rate of this stage; None for that of the optimizer.

    Raises:
        ValueError: numbers out of range or an unknown objective.
    """

    steps: int
    objective: str | None = None
    mask_rate: float = 0.5
    lr: float | None = None

    def __post_init__(self) -> None:
        positive("pretrain", "steps", self.steps)
        if self.objective not in (None, "masked", "causal"):
            raise ValueError(f"pretrain: objective must be 'masked', 'causal' or null, got {self.objective!r}")
        if not isinstance(self.mask_rate, int | float) or not 0 < self.mask_rate < 1:
            raise ValueError(f"pretrain: mask_rate must be in (0, 1), got {self.mask_rate!r}")
        if self.lr is not None and not (isinstance(self.lr, int | float) and self.lr > 0):
            raise ValueError(f"pretrain: lr must be positive or null, got {self.lr!r}")

    @classmethod
    def parse(cls, section: Any) -> "Pretraining":
        """From a config's section; unknown keys raise with the nearest names."""
        if not isinstance(section, dict) or "steps" not in section:
            raise ValueError(f"pretrain: expected {{steps: ..., arguments}} or null, got {section!r}")
        for key in section:
            if key not in cls.__dataclass_fields__:
                raise unknown_name("argument of pretrain:", key, cls.__dataclass_fields__)
        return cls(**section)


class PretrainingLearner(LossInStep):
    """Trains the model of a `SequenceLearner` on the inputs of its task; targets of the batches are not looked at.

    Args:
        learner: whose model, optimizer and schedule are used; its head is left as it is.
        task: says the mask token, and the seed, from which the masks follow.
        options: the stage.

    Raises:
        ValueError: a causal objective for bidirectional layers, or masks for a task that has no mask token.
    """

    def __init__(self, learner: SequenceLearner, task: Any, options: Pretraining) -> None:
        optimizer = learner.optimizer | ({} if options.lr is None else {"lr": options.lr})
        super().__init__(optimizer, learner.norm_after_clipping)
        self.model, self.schedule, self.options = learner.model, learner.schedule, options
        self.masked = (options.objective or ("masked" if self.model.bidirectional else "causal")) == "masked"
        self.mask_token, self.seed = asked_of(task).mask_token, task.seed
        if not self.masked and self.model.bidirectional:
            raise ValueError("pretrain: objective 'causal' needs causal layers, got model.bidirectional = true")
        if self.masked and self.mask_token is None:
            raise ValueError(
                f"pretrain: objective 'masked' needs a task with a mask token, which {type(task).__name__} has not; "
                "'causal' needs none"
            )
        # What a checkpoint of this stage says, so that another stage does not go on from it.
        self._made = {"model": dict(learner.hparams), "data": dict(asked_of(task).hparams or {})}
        self.head = nn.Linear(self.model.d_model, self.model.vocab_size, bias=False)
        nn.init.normal_(self.head.weight, std=0.02)

    def configure_optimizers(self) -> Any:
        """The learner's optimizer over the model without its head, and this stage's."""
        optimizer = create_optimizer(model=self, **self.optimizer)
        schedule = create_schedule(optimizer=optimizer, total_steps=self.options.steps, **self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["pretraining"] = self._made | {"options": asdict(self.options)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        made = checkpoint.get("pretraining")
        if made is None:
            raise ValueError("ckpt_path: expected a checkpoint of pretraining, got one of training")
        check_same("model", made["model"], self._made["model"])
        check_same("data", made["data"], self._made["data"])
        check_value("pretrain", made["options"], asdict(self.options))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = self.inputs_and_targets(batch)
        x, _ = self.model.features(inputs, cu_seqlens=batch.get("cu_seqlens"), lengths=batch.get("lengths"))
        loss, n_targets = cross_entropy(self.head(x), targets), (targets != -100).sum()
        self.log_means({"pretrain/loss": loss * n_targets}, n_targets)
        return self.weighted(loss, n_targets)

    def inputs_and_targets(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What goes in and what is asked for, both (B, T), -100 where nothing is; masks follow from seed and step."""
        tokens = batch["tokens"]
        inside = torch.ones_like(tokens, dtype=torch.bool)
        if "lengths" in batch:
            inside = torch.arange(tokens.shape[1], device=tokens.device) < batch["lengths"][:, None]
        if self.mask_token is not None and self.masked:
            split = f"pretraining masks of rank {self.global_rank}"
            drawn = unit(words(self.seed, split, self.global_step, 1, n_words=tokens.numel()))
            chosen = torch.from_numpy(drawn < self.options.mask_rate).view(tokens.shape).to(tokens.device) & inside
            return tokens.masked_fill(chosen, int(self.mask_token)), tokens.masked_fill(~chosen, -100)
        targets = tokens.masked_fill(~inside, -100).roll(-1, dims=1)
        targets[:, -1] = -100
        if "cu_seqlens" in batch:
            targets[:, batch["cu_seqlens"][1:].long() - 1] = -100
        return tokens, targets


class _Inputs(LightningDataModule):
    # The training batches of a task, from the first, for a trainer of its own.
    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def prepare_data(self) -> None:
        self.task.prepare_data()

    def setup(self, stage: str) -> None:
        self.task.setup(stage)

    def train_dataloader(self) -> Any:
        self.task.trainer = self.trainer
        return self.task.train_dataloader()


class _StageCheckpoints(Checkpoints):
    """`checkpoints/pretraining.ckpt` in the run's folder, regularly, at the end, and when a signal interrupts."""

    CHECKPOINT_NAME_LAST = "pretraining"


def is_of_pretraining(checkpoint: Path) -> bool:
    """Whether a file is what a run goes on from whose first stage was interrupted."""
    return checkpoint.stem == _StageCheckpoints.CHECKPOINT_NAME_LAST


def pretrain(
    learner: SequenceLearner,
    task: Any,
    options: Pretraining,
    trainer: dict[str, Any],
    folder: str,
    checkpoint: Path | None = None,
) -> None:
    """Run the stage, or the rest of it: the learner's model has other weights afterwards.

    Ctrl-C and SIGTERM do what they do in training: `TrainingInterrupted`, and `checkpoints/pretraining.ckpt`.

    Args:
        learner: to be trained afterwards.
        task: its data module.
        options: the stage.
        trainer: options of the trainer that comes afterwards; how to compute is taken from there.
        folder: of the run; losses go to `pretraining/metrics.csv` there.
        checkpoint: of this stage, to go on from.

    Raises:
        ValueError: see `PretrainingLearner`; also parameters that are sharded.
    """
    if trainer.get("strategy") in ("fully_shard", "fully_shard_dcp", "sequence_parallel"):
        raise ValueError(f"pretrain: parameters must not be sharded (trainer.strategy {trainer['strategy']})")
    stage = PretrainingLearner(learner, task, options)
    logger = CSVLogger(folder, name="pretraining", version="") if trainer.get("logger") is not False else False
    runner = Trainer(
        **{name: trainer[name] for name in _COMPUTE if trainer.get(name) is not None},
        max_steps=options.steps,
        callbacks=[NonFiniteGuard(), _StageCheckpoints(every_n_steps=_interval(trainer))],
        logger=logger,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # A head that is idle has no gradients, which would let processes wait for one another.
    idle = [] if learner.model.head is None else list(learner.model.head.parameters())
    for parameter in idle:
        parameter.requires_grad = False
    try:
        runner.fit(stage, datamodule=_Inputs(task), ckpt_path=checkpoint)
    finally:
        for parameter in idle:
            parameter.requires_grad = True
    if "pretrain/loss" in runner.callback_metrics:  # else there was nothing left to do
        loss = float(runner.callback_metrics["pretrain/loss"])
        stage.print(f"pretraining on the task's own inputs: {options.steps} steps, loss {loss:.4f}", flush=True)


def _interval(trainer: dict[str, Any]) -> int:
    found = [each for each in trainer.get("callbacks") or [] if isinstance(each, Checkpoints)]
    return found[0].last_every_n_steps if found else Checkpoints().last_every_n_steps
