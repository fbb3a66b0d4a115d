"""Networks that keep a value for a very long time, with gates that round up: what safe lengths are held to.

One letter, or a few in turn, are read again and again, so that a long word is a scan in chunks. A letter that keeps
what is there spreads its gates over all entries of a block that hold the same value; in exact arithmetic nothing then
moves, and in the model's own it does, by (1 + delta)^n.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqmix import SequenceModel
from seqmix.inspect import certify, verify
from seqmix.kernels import block_scan, gated_block_scan, gated_higher_order_scan
from seqmix.models.sequence_model import SequenceModelState
from seqmix.tasks import Automaton

CHUNK = 1 << 16
BOS, RIGHT, WRONG = 0, 1, 0


class Case(NamedTuple):
    """A mixer of one block or channel, how loud its state may become, and where its gates come from."""

    mixer: str
    m: int
    room: float  # how many times what was written the state must come to until the answer is wrong
    seed: int
    signed: bool = False
    decided: float = 1.5  # the logit of the gate that is chosen; others are between -2 and 1
    silent: int = 0  # gates that are zero: sums of few terms round less
    letters: int = 1  # read in turn: where digits round down under one they may not under the next


def keeping(letters: int = 1) -> Automaton:
    """BOS, then letters that are all answered alike."""
    step = np.array([[1, *[-1] * letters], [-1, *[1] * letters]])
    return Automaton("keeping", 0, step, np.where(step >= 0, RIGHT, -100), bos=BOS)


@torch.no_grad()
def network(case: Case) -> SequenceModel:
    """BOS writes 1 everywhere; letters spread their gates over the entries of the block, and never write.

    Of some thousands of random gates they have those under which the state is largest after a while. A token is named
    by 1 and -1 in two dimensions of the stream: its mean is then zero, all others are zero behind the norm, too, and a
    gate is one product, rounded once in whatever order a matrix is multiplied. Behind these stand a zero and the state,
    whose largest entry speaks against the right answer.
    """
    options = {"name": case.mixer, "order": case.m, "d_state": 1}
    if case.mixer == "bd-lru":
        normalization = "l1" if case.signed else "softmax"
        options = {"name": case.mixer, "block_size": case.m, "d_state": case.m, "normalization": normalization}
    tokens = 1 + case.letters
    model = SequenceModel(options, tokens, 2 * tokens + 1 + case.m, mlp_ratio=0)
    layer = model.blocks[0].mixer
    for weight in (model.embedding.weight, layer.proj_v.weight, layer.proj_out.weight, model.head.weight):
        weight.zero_()
    names, zero = torch.arange(0, 2 * tokens, 2), 2 * tokens
    for sign, dimensions in ((1, names), (-1, names + 1)):
        model.embedding.weight[torch.arange(tokens), dimensions] = sign
    size = float(model.blocks[0].mixer_norm(model.embedding.weight)[0, 0])
    gates = layer.proj_gates.weight.view(-1, case.m + 1, model.d_model)
    gates.zero_()
    gates[:, case.m, BOS] = 300 / size
    gates[:, :, names[1:]] = _gates(case, size).T
    layer.proj_gates.bias.zero_()
    layer.proj_v.weight[:, names] = 1 / size
    layer.proj_out.weight[zero + 1 :] = torch.eye(case.m)
    model.head.weight[RIGHT, names] = case.room
    model.head.weight[WRONG, zero + 1 + int(kept(model, 1 << 14).flatten().argmax())] = 1
    model.head.weight[:, zero] = -model.head.weight.sum(1)
    return model


def _gates(case: Case, size: float) -> Tensor:
    """Weights (letters, m + 1) for a row: of many random ones, those that sum to most when they have become gates."""
    rows = 3 * torch.rand(400_000, case.m + 1, generator=torch.Generator().manual_seed(case.seed)) - 2
    # Equal gates are rounded alike, which adds up.
    rows[::2, 1:] = rows[::2, 1:2]
    rows[:, 0] = case.decided
    rows = (rows.abs() if case.signed else rows) / size
    rows[:, -1] = 0 if case.signed else -300 / size
    rows[:, case.m - case.silent : case.m] = rows[:, -1:]
    logits = rows * size
    weights = logits if case.signed else (logits - logits[:, :1]).exp()
    total = weights[:, 0].clone()
    for k in range(1, case.m):
        total += weights[:, k]
    gates = weights / total[:, None] if case.signed else weights * (1 / total)[:, None]
    best = gates.double().sum(1).topk(64).indices
    # A state may stick where its digits round down: those are best that grow from most beginnings.
    starts = 1 + torch.arange(512) / 512 + torch.rand(512, generator=torch.Generator().manual_seed(0)) / 512
    count = len(best) * len(starts)
    states = starts.repeat(len(best))[:, None, None].expand(count, 1, case.m)
    # One sequence each: a kernel may round channels that it takes together otherwise than a single one.
    steps, v = logits[best].repeat_interleave(len(starts), 0)[:, None, None], torch.zeros(count, 1, 1)
    if case.mixer == "bd-lru":
        steps, v = steps.unsqueeze(3).expand(-1, -1, -1, case.m, -1), torch.zeros(count, 1, 1, case.m)
    grown = _scan(steps, v, states, case, 64).amax((1, 2)).view(len(best), len(starts)) / starts - 1
    # Among those that never stick, the fastest.
    order = ((grown > 0).double().mean(1) + grown.mean(1)).topk(case.letters).indices
    return rows[best[order]]


def _scan(logits: Tensor, v: Tensor, state: Tensor, case: Case, letters: int) -> Tensor:
    """The state after so many letters, in turn, by the kernels that the mixers run."""
    in_turn = logits.shape[1]
    while letters > 0:
        count = min(letters, max(in_turn, CHUNK // v[:, :1].numel() // in_turn * in_turn))
        order = torch.arange(count) % in_turn
        steps, values = logits[:, order].contiguous(), v[:, order].contiguous()
        if case.mixer == "h-lru":
            _, state = gated_higher_order_scan(steps, values, initial_state=state)
        elif case.signed:
            gates = steps / steps.abs().sum(-1, keepdim=True)
            _, state = block_scan(gates[..., :-1].contiguous(), gates[..., -1] * values, initial_state=state)
        else:
            _, state = gated_block_scan(steps, values, initial_state=state)
        letters -= count
    return state


@torch.no_grad()
def kept(model: SequenceModel, letters: int, state: Tensor | None = None) -> Tensor:
    """The mixer's state so many letters after BOS, or after a state; the first letter comes first, then the second."""
    block = model.blocks[0]
    x, layer = block.mixer_norm(model.embedding.weight), block.mixer
    if state is None:
        state = layer(x[None, :1])[1][0]
    case = Case("h-lru" if hasattr(layer, "order") else "bd-lru", 0, 0, 0, getattr(layer, "normalization", "") == "l1")
    logits, v = layer.logits(x[None, 1:]), layer.proj_v(x[None, 1:])
    v = v if case.mixer == "h-lru" else v.unsqueeze(2)
    return _scan(logits, v, state, case, letters)


@torch.no_grad()
def right_after(model: SequenceModel, state: Tensor) -> bool:
    """Whether the model still answers rightly to one letter more, whichever it is."""
    letters = torch.arange(1, model.vocab_size)
    layers = (type(model.mixers[0].init_state(1))(state.expand(len(letters), *state.shape[1:])),)
    logits, _ = model.step(letters, SequenceModelState(layers))
    return bool((logits.argmax(-1) == RIGHT).all())


def check(case: Case, most: int) -> int:
    """The safe length of a case; it must hold at its end, or after `most` letters if those are fewer."""
    model, task = network(case), keeping(case.letters)
    found = certify(model, task)
    if not found.certified:
        return 0
    verify(found, model, task)
    letters = int(min(found.safe_length, most))
    if letters:
        assert right_after(model, kept(model, letters - 1)), f"{case}: wrong at {letters} of {found.safe_length}"
    return letters


def cases(count: int, first: int = 0) -> Iterator[Case]:
    """Cases of every kind: orders and sizes of blocks, how loud they speak, gates from leaking to sharp."""
    for seed in range(first, first + count):
        rng = np.random.default_rng(seed)
        mixer, signed = (("h-lru", False), ("bd-lru", False), ("bd-lru", True))[seed % 3]
        m = int(rng.integers(2, 17 if mixer == "h-lru" else 7))
        room = float(np.exp(rng.uniform(np.log(2), np.log(3000))))
        yield Case(mixer, m, room, seed, signed, decided=float(rng.choice([1.01, 1.5, 4.0, 20.0])))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Look for a safe length that does not hold.")
    parser.add_argument("count", type=int, nargs="?", default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=10**7, help="letters at which longer ones are tried")
    options = parser.parse_args()
    lengths = []
    for number, case in enumerate(cases(options.count, options.first), 1):
        lengths.append(check(case, options.most))
        print(f"{number}: {case}, right after {lengths[-1]:,} letters", flush=True)
    print(f"{len(lengths)} networks, {sum(n > 0 for n in lengths)} with a safe length, none wrong at its end")
