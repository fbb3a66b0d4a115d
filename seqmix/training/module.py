"""`SequenceLearner`: a `SequenceModel`, its optimizer and its measures as a LightningModule."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqmix._extras import require
from seqmix._measures import of_text
from seqmix._suggest import unknown_name
from seqmix.models import SequenceModel
from seqmix.models._specs import check_mixers
from seqmix.models._weights import check_weights
from seqmix.optim.create import create_optimizer
from seqmix.optim.registry import check_optimizer, check_shards
from seqmix.optim.scheduler import create_schedule
from seqmix.optim.schedules import check_schedule
from seqmix.tasks.asked import asked_of
from seqmix.training.answers import free_running_answers
from seqmix.training.carried_state import CarriedState
from seqmix.training.continuing import check_continues
from seqmix.training.metrics import Bound, Counts
from seqmix.training.objectives import create_objective

require("lightning.pytorch", extra="train", owner="seqmix.training")
from lightning.pytorch.trainer.states import TrainerFn  # noqa: E402

from seqmix.training.checkpoint_files import read_checkpoint  # noqa: E402
from seqmix.training.closures import LossInStep  # noqa: E402
from seqmix.training.cut import CutSequences  # noqa: E402
from seqmix.training.strategies import SequenceParallel, shard  # noqa: E402

__all__ = ["SequenceLearner"]

Entry = dict[str, Any]


class SequenceLearner(LossInStep):
    """Trains a `SequenceModel` on batches of `tokens` and `targets` (B, T); a target of -100 carries no loss.

    Sequences packed in one row come with `cu_seqlens`, which the model gets too.

    Accumulated batches and those of several processes count by their targets: the gradient is that of the whole batch.

    Logged: `train/loss`, `train/token_accuracy`, `lr`; for validation and test, for each of their sets L (named by its
    length, or otherwise by the task), `loss/L`, `token_accuracy/L` (positions), `last_accuracy/L` (last positions),
    `sequence_accuracy/L` (sequences right at every position); and `val/accuracy`, the task's own metric, averaged over
    the validation sets. Of text there are `bits_per_byte/L` and `perplexity/L` instead of the last two, and
    `val/bits_per_byte`; of text by `gidd` `bits_per_byte_bound` alone. These are teacher-forced: the input is right
    whatever the model has answered before. A task with `free_running` also has `free_token_accuracy/L` and
    `free_sequence_accuracy/L` in the test: the most likely answers when each is the next input, through the model's own
    state.

    Args:
        mixer: what mixes tokens: `bd-lru`, `{name: bd-lru, block_size: 5}`, or a list of those, one for each layer.
        vocab_size: number of tokens; the command line takes it from the task.
        d_model: width of the residual stream.
        n_layers: number of blocks.
        mlp_ratio: hidden width of the MLP over d_model; 0 for none.
        dropout: probability, on the embedding and the branches of every block.
        tie_embeddings: use the embedding as the head.
        activation_checkpointing: compute each block again for the backward pass instead of storing it.
        head: what answers, `{name: classification, n_classes: 10, pooling: mean}`, `autoencoder`, or by default
            `language`; see `SequenceModel`.
        embedding: `tokens`, or `{name: intensity, n_levels: 17}` for tokens that are numbers.
        bidirectional: let every layer read in both directions.
        norm: `layer` or `batch`, whose statistics are those of each accumulated part by itself.
        glu: gelu and a gated linear unit behind every mixer.
        final_norm: whether what the head sees is normalised.
        parametrization: `standard`, or `mup`: starts and rates that stay good in wider models.
        base_width: the width at which `mup` changes nothing.
        objective: `targets`, the answers that the task asks for, or `{name: gidd, p_u: 0.1}`: see
            `seqmix.training.objectives`.
        optimizer: name and arguments, `{name: adamw, lr: 2e-3, betas: [0.9, 0.95]}`.
        schedule: name and arguments, `{name: cosine, warmup: 100, final: 0.0}`, `{name: wsd, cooldown: 0.2}`.
        norm_after_clipping: whether NGN sees the norm of the gradients after clipping, or before it.

    Raises:
        ValueError: an unknown mixer, optimizer or schedule, or argument of one, with the nearest names.

    Example:
        >>> from seqmix.training import SequenceLearner
        >>> learner = SequenceLearner("lstm", vocab_size=7, d_model=16)
        >>> learner(torch.zeros(2, 5, dtype=torch.long)).shape
        torch.Size([2, 5, 7])
    """

    def __init__(
        self,
        mixer: str | Entry | list[str | Entry],
        vocab_size: int,
        d_model: int = 128,
        n_layers: int = 1,
        mlp_ratio: float = 8 / 3,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
        activation_checkpointing: bool = False,
        head: str | Entry | None = None,
        embedding: str | Entry | None = None,
        bidirectional: bool = False,
        norm: str = "layer",
        glu: bool = False,
        final_norm: bool = True,
        parametrization: str = "standard",
        base_width: int = 128,
        objective: str | Entry = "targets",
        optimizer: str | Entry = "adamw",
        schedule: str | Entry = "cosine",
        norm_after_clipping: bool = True,
    ) -> None:
        super().__init__(entry("optimizer", optimizer), norm_after_clipping)
        self.save_hyperparameters()
        self.schedule = entry("schedule", schedule)
        check_optimizer(**self.optimizer)
        check_schedule(**self.schedule)
        self.objective = create_objective(entry("objective", objective), vocab_size)
        self.model = self.build_model()
        # Callbacks add terms to the loss: functions called after the forward pass of each training step.
        self.loss_terms: dict[str, Callable[[], Tensor | None]] = {}
        # Right answers and answers of the last training step (2,), for callbacks, on the device.
        self.last_counts: Tensor | None = None
        self._counts: dict[int, Counts | Bound] = {}
        self._free_counts: dict[int, Counts] = {}
        self._carried = CarriedState()
        self._sharded = False
        self.cut: CutSequences | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        *,
        trust: Iterable[str] = (),
        map_location: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> "SequenceLearner":
        """The learner of a checkpoint; `kwargs` change its arguments.

        Lightning's own would call what a checkpoint names; here a layer as `module:Class` is imported only if `trust`
        has its module.
        """
        content = read_checkpoint(Path(checkpoint_path))
        known = inspect.signature(cls).parameters
        found = {name: value for name, value in content["hyper_parameters"].items() if name in known}
        if "mixer" not in kwargs:
            check_mixers(found.get("mixer"), trust, "checkpoint: its mixer")
        learner = cls(**{**found, **kwargs})
        learner.load_state_dict(content["state_dict"])
        learner.on_load_checkpoint(content)
        return learner.to(map_location)

    def build_model(self) -> SequenceModel:
        """A `SequenceModel` of this learner's arguments, with new weights."""
        own = ("optimizer", "schedule", "norm_after_clipping", "objective")
        arguments = {name: value for name, value in self.hparams.items() if name not in own}
        arguments["vocab_size"] = self.objective.vocab_size
        check_weights(SequenceModel, **arguments)
        return SequenceModel(**arguments)

    def forward(self, tokens: Tensor, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, T, vocab_size) for tokens (B, T), or what the head makes of them; see `SequenceModel.forward`."""
        return self.model(tokens, cu_seqlens=cu_seqlens, lengths=lengths)[0]

    def answer(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits for a batch, with the places of its sequences and what precedes them, where it has those."""
        if "carry_from" in batch:
            return self._carried.answer(self.model, batch)
        return self(batch["tokens"], **{name: batch[name] for name in ("cu_seqlens", "lengths") if name in batch})

    def setup(self, stage: str) -> None:
        """Raises `ValueError` where the task asks for answers that the model does not give."""
        if self._task is not None:
            self.objective.check(self.model, self._task, stage)
        if isinstance(self.trainer.strategy, SequenceParallel):
            self.trainer.strategy.check_task(self._task, stage)

    def configure_model(self) -> None:
        """Shards the parameters by block, and the sequences, when the strategy asks for it."""
        if self.device_mesh is None or self._sharded:
            return
        self.cut, self._sharded = shard(self.model, self.trainer.strategy), True  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        """The optimizer over parameter groups, and the schedule, stepped after every optimizer step."""
        if self._sharded:
            check_shards(**self.optimizer)
        total = self.trainer.estimated_stepping_batches
        if self.trainer.max_steps > 0:
            total = self.trainer.max_steps
        if total == float("inf") and self.schedule["name"] != "constant":
            raise ValueError(f"schedule: {self.schedule['name']!r} needs trainer.max_steps, which is not set")
        optimizer = create_optimizer(model=self.model, **self.optimizer)
        even = self.schedule["name"] == "constant" and not self.schedule.get("warmup")
        if even and not any("lr" in group for group in optimizer.param_groups):
            return optimizer
        total = 0 if total == float("inf") else int(total)
        schedule = create_schedule(optimizer=optimizer, total_steps=max(1, total), **self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._carried.advance()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        batch = batch if self.cut is None else self.cut.part(batch)
        loss, n_targets, right, n_answers = self.objective.loss(self, batch, batch_idx)
        self.last_counts = torch.stack([right, n_answers])
        terms = {name: term for name, function in self.loss_terms.items() if (term := function()) is not None}
        # Lightning's bookkeeping for a logged value costs more than a small layer: only where it is written.
        trainer: Any = self.trainer
        if trainer.log_every_n_steps and (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            sums = {name: value * n_targets for name, value in {"train/loss": loss, **terms}.items()}
            accuracy = right * (n_targets / n_answers.clamp_min(1))
            self.log_means(sums | {"train/token_accuracy": accuracy}, n_targets)
            self.log("lr", torch.tensor(trainer.optimizers[0].param_groups[0].get("lr", math.nan)), batch_size=1)
        for term in terms.values():
            loss = loss + term
        return {"loss": self.weighted(loss, n_targets), "mean_loss": loss.detach()}

    def on_validation_epoch_start(self) -> None:
        self._counts.clear()
        self._free_counts.clear()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        counts = self._counts.setdefault(dataloader_idx, self.objective.counts(self._task, self.device))
        self.objective.measure(self, batch, counts, (batch_idx, dataloader_idx))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx, dataloader_idx)
        if asked_of(self._task).free_running:
            answers, targets = free_running_answers(self.model, batch["tokens"], batch["targets"])
            self._free_counts.setdefault(dataloader_idx, Counts(self.device)).add_answers(answers, targets)

    @property
    def _task(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    @property
    def metric(self) -> str:
        """The measure that decides, as the objective has it of the task."""
        return self.objective.metric(self._task)  # type: ignore[no-any-return]

    def on_validation_epoch_end(self) -> None:
        task = asked_of(self._task)
        results, metric = self._results("val", task.validation_sets), self.metric
        decisive = [value for name, value in results.items() if f"/{metric}" in name]
        name = metric if of_text(metric) else "accuracy"
        self.log_dict({**results, f"val/{name}": torch.stack(decisive).mean()})

    def on_test_epoch_end(self) -> None:
        self.log_dict(self._results("test", asked_of(self._task).test_sets))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """`tokens`, `targets` and the most likely answers, `predictions`, of the shape of the targets."""
        return {**batch, "predictions": self.answer(batch).argmax(-1)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self._carried.state_dict())
        if self._task is not None:
            checkpoint["task"] = f"{type(self._task).__module__}.{type(self._task).__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            check_continues(checkpoint, self, self._task, trainer.max_steps)
        self._carried.load_state_dict(checkpoint)

    def _results(self, stage: str, sets: Sequence[Any] | None) -> dict[str, Tensor]:
        results = {}
        for index, counts in sorted(self._counts.items()):
            suffix = f"/{sets[index].name}" if sets else (f"/{index}" if len(self._counts) > 1 else "")
            for name, value in counts.rates(self.trainer.strategy).items():
                results[f"{stage}/{name}{suffix}"] = value
            if index in self._free_counts:
                free = self._free_counts[index].rates(self.trainer.strategy)
                for name in ("token_accuracy", "sequence_accuracy"):
                    results[f"{stage}/free_{name}{suffix}"] = free[name]
        return results


def entry(kind: str, value: str | Entry) -> Entry:
    """`{name: ..., arguments}` from a name alone or from itself; anything else is a `ValueError`."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict) or "name" not in value:
        near = unknown_name("key", next(iter(value)), ["name"]) if isinstance(value, dict) and value else ""
        raise ValueError(f"{kind}: expected a name or {{name: ..., arguments}}, got {value!r} {near}".rstrip())
    return dict(value)
