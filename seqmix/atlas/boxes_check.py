"""Boxes of an LSTM checked without the code that made them: every step from a box ends in one, every answer leads."""

import copy
from typing import Any

import torch
from torch import Tensor

from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["check_boxes"]


def check_boxes(keys: Any, low: Any, high: Any, model: SequenceModel, automaton: Automaton) -> None:
    """`ValueError` unless boxes hold the start, whatever letters make of them, and answers that are right."""
    wide: Any = copy.deepcopy(model).double().eval()
    mixer, n = wide.blocks[0].mixer, wide.blocks[0].mixer.d_state
    unit = 2.0**-24 if next(model.parameters()).dtype == torch.float32 else 2.0**-53
    ends = torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in (low, high)], 1)
    boxes = {(int(q), int(x)): box for (q, x), box in zip(keys, ends, strict=True)}
    if any(box.shape != (2, 2 * n) or not (box[0] <= box[1]).all() for box in boxes.values()):
        raise ValueError("bracket: its boxes are no intervals of the state")
    head = (wide.embedding if wide.head is None else wide.head).weight * wide.norm.weight
    head = (head - head.mean(1, keepdim=True)).detach()
    for (q, x), box in [((-1, -1), torch.zeros(2, 2 * n, dtype=torch.float64)), *boxes.items()]:
        state = automaton.start if q < 0 else int(automaton.step[q, x])
        for y in [y for y in range(automaton.vocab_size) if automaton.step[state, y] >= 0]:
            if (state, y) not in boxes:
                raise ValueError(f"bracket: it has no box of state {state} and token {y}")
            with torch.no_grad():
                e = wide.embedding(torch.tensor([y]))
                after = _step(mixer, wide.blocks[0].mixer_norm(e)[0], box, unit)
            end = boxes[state, y]
            if not ((after[0] >= end[0]) & (after[1] <= end[1])).all():
                raise ValueError(f"bracket: the box of state {state} and token {y} does not hold what comes to it")
    for (q, x), box in boxes.items():
        right = int(automaton.output[q, x])
        if right == IGNORE:
            continue
        others = torch.arange(len(head)) != right
        rows = (head[right] - head[others]).detach()
        e, through = wide.embedding.weight[x].detach(), rows @ mixer.out_proj.weight.detach()
        least = rows @ e + (through.clamp_min(0) @ box[0, :n] + through.clamp_max(0) @ box[1, :n])
        far = e.abs().sum() + mixer.out_proj.weight.detach().abs().sum(1) @ torch.ones(len(e), dtype=e.dtype)
        doubt = 64 * unit * (n + len(e)) * rows.abs().amax(1) * (far + 1)
        if not (least > doubt).all():
            raise ValueError(f"bracket: answers in the box of state {q} and token {x} may be wrong")


def _step(mixer: Any, x: Tensor, box: Tensor, unit: float) -> Tensor:
    """Ends of (h, c) after input x, with what rounding may add."""
    n, out = mixer.d_state, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    w = mixer.weight_hh
    own = mixer.weight_ih @ x + mixer.bias
    h = box[:, :n]
    z = own + h @ w.clamp_min(0).T + h.flip(0) @ w.clamp_max(0).T
    size = mixer.weight_ih.abs() @ x.abs() + mixer.bias.abs() + w.abs() @ h.abs().amax(0)
    z = z + out * 4 * unit * (len(x) + n + 16) * size
    i, f, g, o = z.unflatten(1, (4, n)).unbind(1)
    small = 32 * unit
    i, f, o = (each.sigmoid() + out * small for each in (i, f, o))
    g = g.tanh() + out * small
    c = _products(f, box[:, n:]) + _products(i, g)
    c = c + out * small * (1 + c.abs())
    h = _products(o, c.tanh() + out * small)
    return torch.cat([h + out * small, c], 1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    every = (a[:, None] * b[None]).flatten(0, 1)
    return torch.stack([every.amin(0), every.amax(0)])
