"""`construct`: a model whose weights are written, not learned, and what checks it."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix.atlas.constructions import Plan, plan
from seqmix.atlas.prediction import automaton_of
from seqmix.atlas.traits import mixer_of
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Check", "Construction", "check", "closed", "construct", "most_letters"]

_MOST_WORDS = 60_000


class Construction(NamedTuple):
    """A model of one or two layers, the automaton that it follows, with a BOS, and how."""

    model: SequenceModel
    automaton: Automaton
    plan: Plan


class Check(NamedTuple):
    """words: how many were tried; wrong: the first that is answered wrongly; margin: the smallest lead of a right
    logit over another, over the root mean square of the head's inputs."""

    words: int
    wrong: list[int] | None
    margin: float


def construct(mixer: str | Mapping[str, Any], automaton: Any, n_layers: int = 1) -> Construction:
    """Layers with written weights that follow an automaton at every length, or as far as their plan says.

    Args:
        mixer: a registered name, or `{"name": ..., arguments}`; sizes that it does not say are as small as they can be.
        automaton: a name, an `Automaton`, or a task; words begin with a BOS, which is added where there is none.
        n_layers: at most this many, one or two.

    Raises:
        ValueError: there is no construction, or it would be too large; unknown names.

    Example:
        >>> from seqmix.atlas import check, construct
        >>> made = construct({"name": "bd-lru", "normalization": "l1"}, "counter-2-reset")
        >>> check(made.model, made.automaton, longest=4).wrong is None
        True
    """
    if n_layers not in (1, 2):
        raise ValueError(f"construct: n_layers must be 1 or 2, got {n_layers!r}")
    chosen, task = mixer_of(mixer), automaton_of(automaton)
    found = plan(chosen, task, n_layers)
    if found is None:
        layers = "" if n_layers == 1 else " in two layers"
        raise ValueError(f"construct: there is no construction of {task.name} for {chosen.title}{layers}")
    return Construction(found.build(), task, found)


@torch.no_grad()
def check(
    model: SequenceModel, automaton: Automaton, *, longest: int = 6, words: int = 64, length: int = 1000, seed: int = 0
) -> Check:
    """Answers of a model to all short words, as far as they are no more than 60,000, and to long random ones.

    Args:
        model: a `SequenceModel` that knows the automaton's tokens.
        automaton: complete, with a BOS or not.
        longest: letters of the longest short words.
        words, length, seed: of the random words; half of them repeat a random period.
    """
    tried, margin = 0, float("inf")
    for batch in _batches(automaton, longest, words, length, seed):
        tokens = torch.from_numpy(batch)
        logits = model.eval()(tokens)[0].double()
        answers = torch.tensor([automaton.answers(word) for word in batch.tolist()])
        asked = answers != IGNORE
        right = logits.gather(2, answers.clamp_min(0)[..., None]).squeeze(2)
        others = logits.scatter(2, answers.clamp_min(0)[..., None], -torch.inf).amax(2)
        lead = torch.where(asked, right - others, torch.inf)
        tried += len(batch)
        margin = min(margin, float(lead.min()))
        if not (lead > 0).all():
            row, place = (int(i) for i in (~(lead > 0)).nonzero()[0])
            return Check(tried, batch[row, : place + 1].tolist(), margin)
    return Check(tried, None, margin)


@torch.no_grad()
def closed(model: SequenceModel, automaton: Automaton, most: int = 500) -> int | None:
    """How many pairs of an automaton's state and a model's states, bit by bit, single tokens lead to.

    Where that ends and every answer on the way was right, the model is right at every length, one token at a time in a
    batch of one on this machine. None where there are more than `most`, or where an answer was wrong.

    Example:
        >>> from seqmix.atlas import closed, construct
        >>> made = construct("pd-ssm", "clip-2")
        >>> closed(made.model, made.automaton)
        3
    """
    model.eval()
    letters = np.flatnonzero((automaton.step >= 0).any(0))
    state, q = model.init_state(1), automaton.start
    if automaton.bos is not None:
        state, q = model.step(torch.tensor([automaton.bos]), state)[1], int(automaton.step[q, automaton.bos])
        letters = letters[letters != automaton.bos]
    seen: set[tuple[int, bytes]] = set()
    queue = [(state, q)]
    while queue:
        state, q = queue.pop()
        for letter in letters.tolist():
            logits, after = model.step(torch.tensor([letter]), state)
            if automaton.output[q, letter] not in (IGNORE, int(logits.argmax())):
                return None
            # Counts of tokens are no part of what is remembered, but whether there were any.
            leaves = [leaf for layer in after.layers for leaf in layer]
            bits = b"".join((leaf if _real(leaf) else leaf > 0).numpy().tobytes() for leaf in leaves)
            key = (int(automaton.step[q, letter]), bits)
            if key not in seen:
                seen.add(key)
                queue.append((after, key[0]))
            if len(seen) > most:
                return None
    return len(seen)


def _real(leaf: torch.Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def most_letters(letters: int) -> int:
    """Letters of the longest words that are all run, where there are so many letters: 60,000 words at most."""
    return int(np.log(_MOST_WORDS) / np.log(max(2, letters)))


def _batches(automaton: Automaton, longest: int, words: int, length: int, seed: int) -> Iterator[NDArray[np.int64]]:
    letters = np.flatnonzero((automaton.step >= 0).any(0))
    letters = letters[letters != automaton.bos]
    head = [] if automaton.bos is None else [automaton.bos]
    n = min(longest, most_letters(len(letters)))
    short = np.array([[*head, *word] for word in itertools.product(letters.tolist(), repeat=max(1, n))])
    yield from np.array_split(short, -(-len(short) // 4096))
    if words:
        draw = np.random.default_rng(seed)
        drawn = draw.choice(letters, (words, length))
        for row in drawn[words // 2 :]:
            period = int(draw.integers(1, 5))
            row[:] = np.resize(row[:period], length)
        yield np.concatenate([np.tile(np.array(head, dtype=np.int64), (words, 1)), drawn], 1)
