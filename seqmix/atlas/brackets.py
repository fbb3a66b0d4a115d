"""Horizon brackets: a length up to which a model is proved right, and a word that it answers wrongly.

Of one diagonal layer they are exact, by counts of letters (`seqmix.atlas.counts`); where states are saturated, gathered
or signs, boxes may close (`seqmix.atlas.boxes`); for layers that turn see `seqmix.atlas.drift`; of other models all
words up to some length are run. Words u v v v ... of short u and v are tried on the model itself, since they find what
random words do not.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch

from seqmix._checks import positive
from seqmix.atlas.boxes import boxable, boxes_of
from seqmix.atlas.counts import affine_of, by_counts
from seqmix.atlas.drift import drift_length
from seqmix.atlas.written import check, most_letters
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core, core_of

__all__ = ["Bracket", "horizon"]

_MOST_LETTERS = 400_000  # of repeated words


class Bracket(NamedTuple):
    """safe: letters of words up to which all are answered rightly, infinity for every length, as `method` says (counts,
    drift, boxes or all words); word: the shortest that was found to be answered wrongly at its end, BOS included, if
    any was; fails: its letters; boxes: keys, lows and highs (`seqmix.atlas.boxes`), where these are the method."""

    safe: float
    method: str
    word: list[int] | None
    fails: int | None
    boxes: tuple[list[list[int]], list[list[float]], list[list[float]]] | None = None


def horizon(model: SequenceModel, automaton: Automaton, longest: int = 1000) -> Bracket:
    """The bracket of a model on an automaton, up to words of `longest` letters.

    Args:
        model: any; with one diagonal layer that has no convolution, no norm before what is read and no MLP, `safe` is
            the best that holds; one layer of `lstm`, `pd-ssm` or `mamba` without an MLP may be right at every length.
        automaton: complete, with a BOS.
        longest: where it is given up.

    Raises:
        ValueError: an automaton without a BOS, or some of whose letters cannot come.
        ArithmeticError: a word that was run is answered wrongly although all of its length were proved right.

    Example:
        >>> from seqmix.atlas import construct, horizon
        >>> made = construct({"name": "mamba", "d_conv": 1}, "flip-flop")
        >>> bracket = horizon(made.model, made.automaton, 20)
        >>> bracket.safe, bracket.method
        (inf, 'boxes')
    """
    positive("horizon", "longest", longest)
    core = core_of(automaton)
    if automaton.bos is None or not core.complete:
        raise ValueError(
            f"horizon: automaton must have a BOS and letters that may always come, {automaton.name} has not"
        )
    if boxable(model) and (boxes := boxes_of(model, automaton)) is not None:
        return Bracket(float("inf"), "boxes", None, None, tuple(each.tolist() for each in boxes))
    try:
        affine = affine_of(model, automaton, core)
    except NotImplementedError:
        affine = None
    tried = _repeated(model, automaton, longest)
    if affine is None:
        letters = len(core.tokens)
        n = min(longest, most_letters(letters))
        safe, method = _by_drift(model, automaton, core), "drift"
        wrong = None
        if safe <= n:
            found = (check(model, automaton, longest=k, words=0).wrong for k in range(1, n + 1))
            wrong = next((word for word in found if word is not None), None)
            safe, method = n if wrong is None else len(wrong) - 2, "all words"
        words = [word for word in (tried, wrong) if word is not None]
    else:
        safe, word = by_counts(affine, core, longest)
        method = "counts"
        exact = None if word is None else [automaton.bos, *core.tokens[word].tolist()]
        words = [w for w in (exact, tried) if w is not None and _errs(model, automaton, w)]
    best = min(words, key=len, default=None)
    if best is not None and len(best) - 1 <= safe:
        raise ArithmeticError(f"horizon: {safe} letters are safe by {method}, but {best} is answered wrongly")
    return Bracket(safe, method, best, None if best is None else len(best) - 1)


def _by_drift(model: SequenceModel, automaton: Automaton, core: Core) -> int:
    try:
        return drift_length(model, automaton, core)
    except NotImplementedError:
        return 0


@torch.no_grad()
def _repeated(model: SequenceModel, automaton: Automaton, longest: int) -> list[int] | None:
    """The shortest wrong beginning of words u v v v ... with u and v of at most three letters, as far as few do."""
    letters = core_of(automaton).tokens.tolist()
    short = [list(w) for n in range(4) for w in itertools.product(letters, repeat=n)]
    pairs = sorted(((u, v) for u in short for v in short if v), key=lambda pair: len(pair[0] + pair[1]))
    pairs = pairs[: max(256, _MOST_LETTERS // longest)]
    best: list[int] | None = None
    for begin in range(0, len(pairs), 64):
        some = pairs[begin : begin + 64]
        words = [[automaton.bos, *u, *np.resize(v, longest).tolist()][: longest + 1] for u, v in some]
        says = model.eval()(torch.tensor(words))[0].argmax(-1)[:, 1:]
        right = torch.tensor([automaton.answers(word)[1:] for word in words])
        for row in (says != right).any(1).nonzero()[:, 0].tolist():
            length = int((says[row] != right[row]).nonzero()[0]) + 1
            if best is None or length < len(best) - 1:
                best = words[row][: length + 1]
    return best


@torch.no_grad()
def _errs(model: SequenceModel, automaton: Automaton, word: list[int]) -> bool:
    return int(model.eval()(torch.tensor([word]))[0][0, -1].argmax()) != automaton.answers(word)[-1]
