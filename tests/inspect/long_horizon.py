"""Networks that keep a value for a very long time, with gates that round up: what safe lengths are held to.

One letter is read again and again, so that a long word is the scan of equal steps, in chunks. A letter that keeps what
is there spreads its gates over all entries of a block that hold the same value; in exact arithmetic nothing then moves,
and in the model's own it does, by (1 + delta)^n.
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
BOS, KEEP, RIGHT, WRONG = 0, 1, 1, 0


class Case(NamedTuple):
    """A mixer of one block or channel, how loud its state may become, and where its gates come from."""

    mixer: str
    m: int
    room: float  # how many times what was written the state must come to until the answer is wrong
    seed: int
    signed: bool = False
    decided: float = 1.5  # the logit of the gate that is chosen; others are between -2 and 1


def keeping() -> Automaton:
    """BOS, then letters that are all answered alike."""
    step = np.array([[1, -1], [-1, 1]])
    return Automaton("keeping", 0, step, np.where(step >= 0, RIGHT, -100), bos=BOS)


@torch.no_grad()
def network(case: Case) -> SequenceModel:
    """BOS writes 1 everywhere; the letter spreads its gates over the entries of the block, and never writes.

    Of some thousands of random gates it has those whose state is largest after a while. The first two dimensions of the
    stream name the token, two more are 1 and 0, and the state stands in the rest, whose largest entry speaks against
    the right answer.
    """
    options = {"name": case.mixer, "order": case.m, "d_state": 1}
    if case.mixer == "bd-lru":
        normalization = "l1" if case.signed else "softmax"
        options = {"name": case.mixer, "block_size": case.m, "d_state": case.m, "normalization": normalization}
    model = SequenceModel(options, 2, 4 + case.m, mlp_ratio=0)
    layer = model.blocks[0].mixer
    for weight in (model.embedding.weight, layer.proj_out.weight, model.head.weight, layer.proj_gates.weight):
        weight.zero_()
    model.embedding.weight[:, :2] = torch.eye(2)
    model.embedding.weight[:, 2] = 1
    inverse = torch.linalg.pinv(model.blocks[0].mixer_norm(model.embedding.weight))
    # Gates among entries are the bias and nothing else, so that they are what was chosen to the last bit.
    slots = torch.arange(len(layer.proj_gates.bias)) % (case.m + 1)
    layer.proj_gates.weight[slots == case.m] = inverse @ torch.tensor([300.0, 0.0 if case.signed else -300.0])
    layer.proj_gates.bias.copy_(_gates(case).repeat(len(slots) // (case.m + 1)))
    layer.proj_v.weight[:] = inverse.sum(1)
    layer.proj_out.weight[4:] = torch.eye(case.m)
    model.head.weight[RIGHT, 2] = case.room
    model.head.weight[WRONG, 4 + int(kept(model, 1 << 14).flatten().argmax())] = 1
    model.head.weight[:, 3] = -model.head.weight.sum(1)
    return model


def _gates(case: Case) -> Tensor:
    """Logits (m + 1,) of a row: of many random ones, those that sum to most when they have become gates."""
    logits = 3 * torch.rand(400_000, case.m + 1, generator=torch.Generator().manual_seed(case.seed)) - 2
    # Equal gates are rounded alike, which adds up.
    logits[::2, 1:] = logits[::2, 1:2]
    logits[:, 0] = case.decided
    logits = logits.abs() if case.signed else logits
    logits[:, -1] = 0 if case.signed else -300
    weights = logits if case.signed else (logits - case.decided).exp()
    total = weights[:, 0].clone()
    for k in range(1, case.m):
        total += weights[:, k]
    gates = weights / total[:, None] if case.signed else weights * (1 / total)[:, None]
    best = logits[gates.double().sum(1).topk(64).indices]
    # A state may stick where its digits round down: those are best that grow from wherever they begin.
    starts = 1 + torch.arange(32) / 32
    count = len(best) * len(starts)
    states = starts.repeat(len(best))[:, None, None].expand(count, 1, case.m)
    # One sequence each: a kernel may round channels that it takes together otherwise than a single one.
    steps, v = best.repeat_interleave(len(starts), 0)[:, None, None], torch.zeros(count, 1, 1)
    if case.mixer == "bd-lru":
        steps, v = steps.unsqueeze(3).expand(-1, -1, -1, case.m, -1), torch.zeros(count, 1, 1, case.m)
    grown = (_scan(steps, v, states, case, 2000) / states).amax((1, 2)).view(len(best), len(starts))
    row = best[int(grown.amin(1).argmax())]
    row[-1] = 0
    return row


def _scan(logits: Tensor, v: Tensor, state: Tensor, case: Case, letters: int) -> Tensor:
    """The state after so many equal steps, by the kernels that the mixers run."""
    while letters > 0:
        count = min(letters, max(1, CHUNK // v.numel()))
        steps, values = (x.expand(-1, count, *x.shape[2:]).contiguous() for x in (logits, v))
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
    """The mixer's state so many letters after BOS, or after a state."""
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
    """Whether the model still answers rightly to one letter more."""
    layers = (type(model.mixers[0].init_state(1))(state),)
    logits, _ = model.step(torch.tensor([KEEP]), SequenceModelState(layers))
    return int(logits.argmax()) == RIGHT


def check(case: Case, most: int) -> int:
    """The safe length of a case; it must hold at its end, or after `most` letters if those are fewer."""
    model, task = network(case), keeping()
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
