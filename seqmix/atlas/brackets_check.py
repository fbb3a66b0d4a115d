"""`verify_bracket`: a bracket checked again.

The word is run on the model, words of two runs of letters are up to 512 letters, and where the method is to run all
words they are run again. Boxes, and counts up to 12 letters, are checked by code of their own: for every number of
letters of each kind the least lead is a recursion over those that have come, where the method's goes over those to
come, with maps from derivatives of one step in float64. Longer lengths by counts, and those by drift, are computed
again, which finds what was forged, not what both computations have wrong.
"""

import copy
import itertools
from typing import Any

import torch
from torch import Tensor

from seqmix.atlas.boxes import boxable
from seqmix.atlas.boxes_check import check_boxes
from seqmix.atlas.brackets import Bracket
from seqmix.atlas.counts import affine_of, by_counts
from seqmix.atlas.drift import drift_length
from seqmix.atlas.written import most_letters
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import core_of

__all__ = ["verify_bracket"]

_FAR = 12  # lengths up to which all counts are gone through here


def verify_bracket(bracket: Bracket, model: SequenceModel, automaton: Automaton) -> int:
    """Return up to which length all words were found right here, one by one or by counts, at most 12; `ValueError` if
    the bracket does not hold."""
    if automaton.bos is None:
        raise ValueError("bracket: automaton must have a BOS")
    letters = [t for t in range(automaton.vocab_size) if t != automaton.bos and (automaton.step[:, t] >= 0).any()]
    if bracket.word is not None:
        right = automaton.answers(bracket.word)[-1]
        _require(len(bracket.word) - 1 == bracket.fails, f"its word has not {bracket.fails} letters")
        _require(_says(model, bracket.word) != right, f"the model answers {right} to its word, which is right")
        _require(bracket.safe < len(bracket.word) - 1, "its word is shorter than what it calls safe")
    _require((bracket.method == "boxes") == (bracket.boxes is not None), "boxes are there if and only if they prove it")
    if bracket.boxes is not None:
        _require(boxable(model), "boxes are of one layer of lstm, pd-ssm or mamba")
        check_boxes(*bracket.boxes, model, automaton)
    _require(bracket.safe < float("inf") or bracket.boxes is not None, "only boxes prove every length")
    far = int(min(bracket.safe, 512))
    for x, y in itertools.product(letters, repeat=2):
        for first in range(0, far + 1, max(1, far // 16)):
            word: list[int] = [automaton.bos, *[x] * first, *[y] * (far - first)]
            says = model.eval()(torch.tensor([word]))[0][0].argmax(-1).tolist()
            _require(says[1:] == automaton.answers(word)[1:], f"a word of {far} letters is answered wrongly: {word}")
    _require(_again(bracket, model, automaton) >= bracket.safe, f"{bracket.safe:,} letters are not proved safe")
    near = int(min(bracket.safe, _FAR))
    if bracket.method != "counts":
        if bracket.method == "all words":
            near = int(bracket.safe)
            longest = most_letters(len(letters))
            _require(near <= longest, f"words longer than {longest} letters are not all run")
        else:
            near = next(n for n in range(near, -1, -1) if len(letters) ** n <= 4096)
        _all_right(model, automaton, letters, near)
        return near
    maps = _maps(model, [*letters, automaton.bos])
    for n in range(1, near + 1):
        _require(_least(maps, model, automaton, letters, n) > 0, f"a word of {n} letters is answered wrongly")
    return near


def _again(bracket: Bracket, model: SequenceModel, automaton: Automaton) -> float:
    """The safe length once more, where that is not shown otherwise."""
    core = core_of(automaton)
    if bracket.method == "drift":
        return drift_length(model, automaton, core)
    if bracket.method == "counts":
        return by_counts(affine_of(model, automaton, core), core, int(bracket.safe))[0]
    return bracket.safe


@torch.no_grad()
def _all_right(model: SequenceModel, automaton: Automaton, letters: list[int], n: int) -> None:
    assert automaton.bos is not None
    every = itertools.product(letters, repeat=n)
    while words := [[automaton.bos, *rest] for rest in itertools.islice(every, 4096)]:
        told = model.eval()(torch.tensor(words))[0].argmax(-1)[:, 1:].tolist()
        for word, says in zip(words, told, strict=True):
            _require(says == automaton.answers(word)[1:], f"{word} is answered wrongly")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"bracket: {message}")


@torch.no_grad()
def _says(model: SequenceModel, word: list[int]) -> int:
    return int(model.eval()(torch.tensor([word]))[0][0, -1].argmax())


def _maps(model: SequenceModel, tokens: list[int]) -> dict[int, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """For each token, the BOS last, decays, what is written to an empty state, the residual stream's slope in the state
    and itself."""
    wide: Any = copy.deepcopy(model).double().eval()
    mixer, found = wide.blocks[0].mixer, {}
    empty = mixer.init_state(1, dtype=torch.float64)
    # Other leaves, as counts of tokens, are those behind the BOS, which comes first.
    begun = mixer.step(wide.blocks[0].mixer_norm(wide.embedding(torch.tensor(tokens[-1:]))), empty)[1]
    index = next(i for i, leaf in enumerate(empty) if leaf.numel() and leaf.is_floating_point())
    for token in tokens:
        e = wide.embedding(torch.tensor([token])).detach()

        others = empty if token == tokens[-1] else begun

        def step(h: Tensor, e: Tensor = e, others: Any = others) -> tuple[Tensor, Tensor]:
            leaves = [h.view(leaf.shape) if i == index else leaf for i, leaf in enumerate(others)]
            y, after = mixer.step(wide.blocks[0].mixer_norm(e), type(empty)(*leaves))
            return after[index].flatten(), (e + y).flatten()

        zero = torch.zeros(empty[index].numel(), dtype=torch.float64)
        slope, out = torch.autograd.functional.jacobian(step, zero)
        write, stream = (each.detach() for each in step(zero))
        found[token] = (slope.diagonal().clone(), write, out, stream)
    return found


def _least(maps: Any, model: SequenceModel, automaton: Automaton, letters: list[int], n: int) -> float:
    """The least lead over all words of n letters, before the last norm divides it."""
    head: Any = (model.embedding if model.head is None else model.head).weight
    rows = (head * model.norm.weight).double().detach()
    rows = rows - rows.mean(1, keepdim=True)
    pairs = rows[:, None] - rows[None]  # (V, V, D): how far one token is ahead of another
    begin, least = int(automaton.step[automaton.start, automaton.bos or 0]), float("inf")
    for last in letters:
        _, _, out, stream = maps[last]
        read, own = pairs @ out, pairs @ stream

        def behind(counts: Any) -> Tensor:
            return torch.stack([maps[x][0] ** t for x, t in zip(letters, counts, strict=True)]).prod(0)

        for total in itertools.product(range(n), repeat=len(letters)):
            if sum(total) != n - 1:
                continue
            # The least that each token can be ahead of each other, by letters that have come and the state.
            best = {((0,) * len(letters), begin): read @ (behind(total) * maps[automaton.bos][1]) + own}
            for come in itertools.product(*(range(t + 1) for t in total)):
                for (_, state), leads in [item for item in best.items() if item[0][0] == come]:
                    for i, x in enumerate(letters):
                        after = tuple(c + (j == i) for j, c in enumerate(come))
                        left = [t - c for t, c in zip(total, after, strict=True)]
                        if min(left) >= 0:
                            key = (after, int(automaton.step[state, x]))
                            longer = leads + read @ (behind(left) * maps[x][1])
                            best[key] = torch.minimum(best[key], longer) if key in best else longer
            for (counts, state), leads in best.items():
                if counts == total:
                    right = int(automaton.output[state, last])
                    others = torch.arange(len(leads)) != right
                    least = min(least, float(leads[right][others].min()))
    return least
