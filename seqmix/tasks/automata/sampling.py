"""Words of an automaton: letters uniform, held with a probability, or such that the last state is balanced.

Balanced: with N_t(q, s) the number of words of t letters that lead from q to s, s is drawn uniformly among the states
that words of that length end in, and then letter x in q with t letters to come with probability
N_{t-1}(step(q, x), s) / N_t(q, s): every word to s is equally likely. Uniform letters leave little to track in many
automata (an (ab)* with a sink is in its sink after a few letters); `baseline` says how much.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix.tasks.automata.automaton import IGNORE, Automaton
from seqmix.tasks.streams import below, unit, words

__all__ = ["SAMPLING", "AutomatonExamples", "RepeatedExamples", "baseline"]

SAMPLING = ("uniform", "balanced", "held")
_MOST_CELLS = 1 << 25  # numbers of N_t

Array = NDArray[np.float64]


class AutomatonExamples:
    """Words of an automaton with the answer after every letter; a BOS stands first and counts in no length.

    Args:
        automaton: what words are words of.
        sampling: `"uniform"` letters among those that may come, `"balanced"` last states, or `"held"`: the letter 0
            with probability `hold`, others alike.
        hold: that probability, with `"held"` (flip-flop language modelling: 0.8 in training, 0.1 and 0.98 in tests).

    Raises:
        ValueError: an unknown sampling, a probability that is none.

    Example:
        >>> from seqmix.tasks.automata import named_automaton
        >>> from seqmix.tasks.automata.sampling import AutomatonExamples
        >>> examples = AutomatonExamples(named_automaton("flip-flop"))
        >>> batch = examples(seed=0, split="train", start=0, count=2, length=5)
        >>> batch["tokens"].shape
        torch.Size([2, 6])
    """

    prefixes = False

    def __init__(self, automaton: Automaton, sampling: str = "uniform", hold: float | None = None) -> None:
        if sampling not in SAMPLING:
            raise ValueError(f"automaton: sampling must be one of {', '.join(SAMPLING)}, got {sampling!r}")
        if (hold is not None) != (sampling == "held"):
            raise ValueError(f"automaton: hold goes with sampling 'held', got sampling {sampling!r} and hold {hold!r}")
        if hold is not None and not (isinstance(hold, int | float) and 0 < hold < 1):
            raise ValueError(f"automaton: hold must be a probability in (0, 1), got {hold!r}")
        self._automaton, self.sampling, self.hold = automaton, sampling, hold
        self.vocab_size = automaton.vocab_size
        self._begin = automaton.start if automaton.bos is None else int(automaton.step[automaton.start, automaton.bos])
        weights = (automaton.step >= 0).astype(np.float64)
        if automaton.bos is not None:
            weights[automaton.start] = 0
        if hold is not None:
            others = np.maximum(weights[:, 1:].sum(1, keepdims=True), 1)
            weights = np.concatenate([weights[:, :1] * hold, weights[:, 1:] * (1 - hold) / others], 1)
        self._weights = weights
        self._step = np.maximum(automaton.step, 0)
        self._tables: dict[int, tuple[Array, NDArray[np.int64]]] = {}
        self.chance = baseline(automaton, 64, 0, sampling, weights)

    def automaton(self) -> Automaton:
        return self._automaton

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length + bos), of examples `start` .. `start + count - 1`."""
        a, bos = self._automaton, int(self._automaton.bos is not None)
        # A stream for each length, or the slices of different examples would overlap.
        drawn = unit(words(seed, f"{split} {length}", start, count, n_words=length + 1))
        tokens = np.full((count, length + bos), a.bos if bos else 0, dtype=np.int64)
        targets = np.full_like(tokens, IGNORE)
        state = np.full(count, self._begin)
        counts = last = None
        if self.sampling == "balanced":
            counts, ends = self._counts(length)
            last = ends[np.minimum((drawn[:, -1] * len(ends)).astype(np.int64), len(ends) - 1)]
        for t in range(length):
            weights = self._weights[state]
            if counts is not None and last is not None:
                weights = weights * counts[length - t - 1][self._step[state], last[:, None]]
            sums = weights.cumsum(1)
            if not (sums[:, -1] > 0).all():
                raise ValueError(f"automaton: {a.name} has no words of length {length}")
            # Scaled before it is compared, so that the last letter that may come ends at one exactly.
            token = (drawn[:, t, None] * sums[:, -1:] >= sums).sum(1)
            tokens[:, t + bos] = token
            targets[:, t + bos] = a.output[state, token]
            state = self._step[state, token]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}

    def _counts(self, length: int) -> tuple[Array, NDArray[np.int64]]:
        """N_t (length + 1, Q, Q), each column scaled to a largest of one, and the states that words end in."""
        if length not in self._tables:
            q = self._automaton.n_states
            if (length + 1) * q * q > _MOST_CELLS:
                raise ValueError(
                    f"automaton: sampling 'balanced' must count at most {_MOST_CELLS:,} numbers, "
                    f"got {q} states and length {length}"
                )
            table = np.zeros((length + 1, q, q))
            table[0] = np.eye(q)
            for t in range(length):
                more = np.einsum("qx,qxs->qs", self._weights, table[t][self._step])
                table[t + 1] = more / np.maximum(more.max(0), np.finfo(np.float64).tiny)
            self._tables = {length: (table, np.flatnonzero(table[length, self._begin] > 0))}
        return self._tables[length]


class RepeatedExamples:
    """Words u v v v ... with u and v of at most three letters, drawn alike: what random letters never try.

    Trained layers that answer all random words of 1,000 letters fail on some of these. Tokens and targets are those of
    `AutomatonExamples`; every letter must be able to come in every state, else it is a `ValueError`.
    """

    prefixes = False

    def __init__(self, automaton: Automaton) -> None:
        self._plain = AutomatonExamples(automaton)
        self.vocab_size, self.chance = self._plain.vocab_size, self._plain.chance
        letters = np.flatnonzero((automaton.step >= 0).any(0))
        self._letters = letters[letters != automaton.bos]
        states = np.arange(automaton.n_states)
        if automaton.bos is not None:
            states = states[states != automaton.start]
        if (automaton.step[np.ix_(states, self._letters)] < 0).any():
            raise ValueError(
                f"automaton: repeated words need letters that may always come, {automaton.name} has others"
            )

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length + bos)."""
        automaton = self._plain.automaton()
        drawn = words(seed, f"{split} repeated", start, count, n_words=8)
        drawn_letters = self._letters[below(drawn[:, 2:], len(self._letters))]
        before, period = below(drawn[:, :1], 4), 1 + below(drawn[:, 1:2], 3)  # lengths of u and v
        place = np.arange(length)
        chosen = np.where(place < before, place, 3 + (place - before) % period)
        letters = np.take_along_axis(drawn_letters, chosen, 1)
        head = [] if automaton.bos is None else [automaton.bos]
        tokens = np.concatenate([np.full((count, len(head)), automaton.bos or 0), letters], 1)
        targets = np.array([automaton.answers(word) for word in tokens.tolist()]).reshape(tokens.shape)
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


def baseline(
    automaton: Automaton, length: int, k: int, sampling: str = "uniform", weights: Array | None = None
) -> float:
    """The best accuracy at the last of `length` letters of who sees the last k letters only, exactly.

    k = 0 is the share of the most frequent answer. `weights` (Q, V) are those of letters in states, by default alike.

    Example:
        >>> from seqmix.tasks.automata import named_automaton
        >>> from seqmix.tasks.automata.sampling import baseline
        >>> round(baseline(named_automaton("flip-flop"), 64, 3), 2)
        0.98
    """
    if weights is None:
        weights = (automaton.step >= 0).astype(np.float64)
    if sampling != "balanced":  # there words count alike, else letters
        weights = weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    begin = automaton.start if automaton.bos is None else int(automaton.step[automaton.start, automaton.bos])
    n, step = automaton.n_states, np.maximum(automaton.step, 0)
    seen = min(max(k, 1), length)  # an answer comes with a letter
    # Logarithms: a state that is left for ever keeps a share of 2^-length.
    log_weights = np.where(weights > 0, np.log(np.where(weights > 0, weights, 1)), -np.inf)

    def onward(log: Array) -> Array:
        after = np.full(n, -np.inf)
        np.logaddexp.at(after, step, log[:, None] + log_weights)
        return after

    before = np.full(n, -np.inf)
    before[begin] = 0
    for _ in range(length - seen):
        before = onward(before)
    after = before
    for _ in range(seen):
        after = onward(after)
    reached = after > -np.inf
    scale = np.where(reached, -np.where(reached, after, 0) - np.log(max(1, reached.sum())), 0)
    # Each way to read the last letters, (ways, Q): where it leads to from each state, how likely, and what is answered.
    here, log, told = np.arange(n)[None], before[None], np.full((1, n), IGNORE)
    for _ in range(seen):
        told, log, nearer = automaton.output[here], log[:, :, None] + log_weights[here], step[here]
        told, log, here = (each.transpose(0, 2, 1).reshape(-1, n) for each in (told, log, nearer))
    joint = np.exp(log + scale[here] if sampling == "balanced" else log)
    if k == 0:
        joint, told = joint.reshape(1, -1), told.reshape(1, -1)
    best = np.zeros(len(joint))
    for answer in np.unique(told):
        best = np.maximum(best, np.where(told == answer, joint, 0).sum(1))
    return float(best.sum())
