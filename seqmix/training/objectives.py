"""What a model is trained for: `objective: targets`, the answers that a task asks for, or `{name: gidd, p_u: 0.1}`.

An objective says how many tokens the model needs, what a batch costs, what is measured of it, and by which measure.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from seqmix._checks import positive
from seqmix._suggest import unknown_name
from seqmix.mixers.base import one_of
from seqmix.models import GIDD, Denoiser, SequenceModel
from seqmix.models._spans import places
from seqmix.models.diffusion import times
from seqmix.tasks.asked import asked_of
from seqmix.tasks.streams import unit, words
from seqmix.training.answers import check_answers, cross_entropy
from seqmix.training.config.files import OBJECTIVES
from seqmix.training.metrics import Bound, Counts, total_loss

__all__ = ["Gidd", "Objective", "Targets", "create_objective"]

Batch = Mapping[str, Tensor]


class Objective(Protocol):
    """What a `SequenceLearner` asks of its objective.

    Attributes:
        vocab_size: of the model.
    """

    vocab_size: int

    def metric(self, task: Any) -> str:
        """The measure that decides the task."""

    def check(self, model: SequenceModel, task: Any, stage: str) -> None:
        """`ValueError` where model and task do not fit."""

    def counts(self, task: Any, device: torch.device) -> "Counts | Bound":
        """Sums over the batches of a test set."""

    def loss(self, learner: Any, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a batch: mean loss, how many targets that is over, right answers, and of how many."""

    def measure(self, learner: Any, batch: Batch, counts: Any, place: tuple[int, int]) -> None:
        """Add a batch, its number and that of its set in `place`, to what is counted."""


class Targets:
    """The answers that the task asks for, of text the next token, by cross-entropy."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def metric(self, task: Any) -> str:
        return asked_of(task).metric

    def check(self, model: SequenceModel, task: Any, stage: str) -> None:
        check_answers(model, task)

    def counts(self, task: Any, device: torch.device) -> Counts:
        return Counts(device, macro=asked_of(task).metric == "macro_accuracy")

    def loss(self, learner: Any, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, targets = learner.answer(batch), batch["targets"]
        n_targets = (targets != -100).sum()
        right = (logits.detach().argmax(-1) == targets).sum()
        return cross_entropy(logits, targets), n_targets, right, n_targets

    def measure(self, learner: Any, batch: Batch, counts: Counts, place: tuple[int, int]) -> None:
        cut = learner.cut
        part = batch if cut is None else cut.part(batch)
        logits, targets, bounds = learner.answer(part), batch["targets"], batch.get("cu_seqlens")
        if bounds is not None and targets.shape != batch["tokens"].shape:  # one answer for each packed sequence
            logits, targets, bounds = logits.transpose(0, 1), targets.transpose(0, 1), None
        if cut is None:
            counts.add(logits, targets, bounds, batch.get("n_bytes"))
        else:  # every rank of a sequence counts it, so that shares are the same
            answers = cut.whole(logits.argmax(-1), targets.shape[1])
            loss = cut.sum(total_loss(logits, part["targets"]))
            counts.add_answers(answers, targets, bounds, loss, batch.get("n_bytes"))


class Gidd:
    """Generalised interpolating discrete diffusion of text (von Ruette et al. 2025, 2503.04482).

    Layers are bidirectional. The first token of a sequence, which says where it begins or what stood before, stays; all
    others are noised, as many as the time of their sequence says, and the model says what they were. Measured is an
    upper bound: `bits_per_byte_bound`, and in nats a token `loss`. Noise follows from the seed and the step.

    Args:
        vocab_size: symbols of the task; the model has a mask and `time_bins` tokens more.
        p_u: weight of an evenly drawn symbol half way, 0 to mask only.
        weighting: of the loss, `dynamic` (2 t (1 - t) times that of the bound, the paper's) or `elbo`, the bound's own.
        time_bins: parts of time that the model is told.
        draws: how often each batch is noised when it is measured; more make the bound's estimate less uncertain.

    Raises:
        ValueError: a number out of its range, an unknown weighting.
    """

    def __init__(
        self, vocab_size: int, p_u: float = 0.0, weighting: str = "dynamic", time_bins: int = 16, draws: int = 4
    ) -> None:
        self.process = GIDD(vocab_size, p_u)
        self.weighting = one_of("objective 'gidd'", "weighting", weighting, ("dynamic", "elbo"))
        self.time_bins = positive("objective 'gidd'", "time_bins", time_bins)
        self.draws = positive("objective 'gidd'", "draws", draws)
        self.vocab_size = vocab_size + 1 + time_bins

    def metric(self, task: Any) -> str:
        return "bits_per_byte_bound"

    def check(self, model: SequenceModel, task: Any, stage: str) -> None:
        if not asked_of(task).predicts_next:
            raise ValueError(
                f"objective: 'gidd' is for text, a task whose targets are tokens to come, got {type(task).__name__}"
            )
        self.denoiser(model)
        if task.vocab_size > self.process.n_symbols:
            raise ValueError(
                f"model.vocab_size: must be at least the {task.vocab_size} tokens of {type(task).__name__}, got "
                f"{self.process.n_symbols}"
            )
        if stage == "predict":
            raise ValueError("objective: 'gidd' has no answers to inputs; seqmix generate samples from the model")

    def counts(self, task: Any, device: torch.device) -> Bound:
        return Bound(device)

    def denoiser(self, model: SequenceModel) -> Denoiser:
        """The model behind this objective's noise: what it says, samples of it, corrections."""
        return Denoiser(model, self.process, self.time_bins)

    def loss(self, learner: Any, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        split = f"noise of rank {learner.global_rank}, batch {batch_idx}"
        x, free, bounds = whole_sequences(batch)
        uniform, shift = _noise(getattr(learner.trainer.datamodule, "seed", 0), split, learner.global_step, x)
        t = ((torch.arange(_rows(x, bounds), device=x.device) / _rows(x, bounds)).double() + shift) % 1
        t = 1e-4 + (1 - 2e-4) * t  # as in the paper, whose weights end there
        with learner.for_graphs():
            z, at, logits = self._said(learner.model, x, free, bounds, t, uniform)
        if self.weighting == "elbo":
            terms = self.process.bound(logits, z, x, at)
        else:
            terms = self.process.weights(z, x, at).to(logits.dtype) * self.process.divergence(logits, z, x, at)
        noised = free & (z != x)
        right = ((logits.detach().argmax(-1) == x) & noised).sum()
        n_targets = free.sum()
        return (terms * free).sum() / n_targets.clamp_min(1), n_targets, right, noised.sum()

    def measure(self, learner: Any, batch: Batch, counts: Bound, place: tuple[int, int]) -> None:
        x, free, bounds = whole_sequences(batch)
        for draw in range(self.draws):
            uniform, shift = _noise(draw, f"noise of set {place[1]}", place[0], x)
            t, weights = times(_rows(x, bounds), shift)
            z, at, logits = self._said(learner.model, x, free, bounds, t, uniform)
            weights = _spread(weights, x, bounds).to(logits.dtype)
            loss = (weights * self.process.bound(logits, z, x, at) * free).sum()
            counts.add(loss / self.draws, free.sum() / self.draws, batch["n_bytes"].sum() / self.draws)

    def _said(
        self, model: SequenceModel, x: Tensor, free: Tensor, bounds: Tensor | None, t: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z and the time of each token (B, T), and logits (B, T, N)."""
        at = _spread(t, x, bounds)
        z = torch.where(free, self.process.corrupt(x, at, uniform), x)
        logits = self.denoiser(model)(z, t, bounds)
        return z, at, logits if logits.dtype == torch.float64 else logits.float()


def create_objective(spec: str | Mapping[str, Any], vocab_size: int) -> Any:
    """The objective of an entry, a name or `{name: ..., arguments}`, on a task of `vocab_size` tokens.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, or a value out of its range.
    """
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if name not in OBJECTIVES:
        raise unknown_name("objective", str(name), OBJECTIVES)
    kind = {"targets": Targets, "gidd": Gidd}[name]
    try:
        return kind(vocab_size, **given)
    except TypeError as error:
        raise ValueError(f"objective {name!r}: {error}") from None


def whole_sequences(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Each sequence with its last target: symbols (B, T + 1), or (1, T + S) packed, which of them are targets, bounds.

    Raises `ValueError` for batches that carry states.
    """
    if "carry_from" in batch:
        raise ValueError("data.carry_state: objective 'gidd' needs whole sequences, got true")
    tokens, targets, bounds = batch["tokens"], batch["targets"], batch.get("cu_seqlens")
    if bounds is None:
        free = torch.nn.functional.pad(targets != -100, (1, 0))
        return torch.cat([tokens[:, :1], targets.clamp_min(0)], 1), free, None
    sequence, _ = places(tokens, bounds)
    index = torch.arange(tokens.shape[1], device=tokens.device) + sequence + 1
    further = torch.arange(len(bounds), device=tokens.device, dtype=bounds.dtype)
    x = tokens.new_zeros(1, tokens.shape[1] + len(bounds) - 1)
    free = torch.zeros_like(x, dtype=torch.bool)
    x[0, (bounds + further)[:-1].long()] = tokens[0, bounds[:-1].long()]
    x[0, index], free[0, index] = targets[0].clamp_min(0), targets[0] != -100
    return x, free, bounds + further


def _rows(x: Tensor, bounds: Tensor | None) -> int:
    return len(x) if bounds is None else len(bounds) - 1


def _spread(values: Tensor, x: Tensor, bounds: Tensor | None) -> Tensor:
    """What each sequence has, at each of its tokens (B, T)."""
    if bounds is None:
        return values[:, None].expand(x.shape)
    return values[places(x, bounds)[0]][None]


def _noise(seed: int, split: str, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """A number in (0, 1) for each token, and one for the times of all."""
    drawn = torch.from_numpy(unit(words(seed, split, number, 1, n_words=x.numel() + 1))[0]).to(x.device)
    return drawn[1:].view(x.shape), drawn[0]
