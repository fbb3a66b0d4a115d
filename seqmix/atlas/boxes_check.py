"""Boxes checked without the code that made them: every step from a box ends in one, every answer leads."""

import copy
from typing import Any

import torch
from torch import Tensor

from seqmix.atlas.box_scans_check import CheckedMamba, CheckedPDSSM, products
from seqmix.mixers.lstm import LSTM
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.pd_ssm import PDSSM
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["check_boxes"]


@torch.no_grad()
def check_boxes(keys: Any, low: Any, high: Any, model: SequenceModel, automaton: Automaton) -> None:
    """`ValueError` unless boxes hold the start, whatever letters make of them, and answers that are right."""
    wide: Any = copy.deepcopy(model).double().eval()
    dtype = next(model.parameters()).dtype
    layer = _LAYERS[type(wide.blocks[0].mixer)](wide, dtype)
    start, unit = layer.start(), torch.finfo(dtype).eps / 2
    ends = torch.stack([torch.as_tensor(each, dtype=torch.float64) for each in (low, high)], 1)
    boxes = {(int(q), int(x)): box for (q, x), box in zip(keys, ends, strict=True)}
    if any(box.shape != start.shape or not (box[0] <= box[1]).all() for box in boxes.values()):
        raise ValueError("bracket: its boxes are no intervals of the state")
    if not torch.isfinite(ends).all():
        raise ValueError("bracket: its boxes have no ends")
    for (q, x), box in [((-1, -1), start), *boxes.items()]:
        state = automaton.start if q < 0 else int(automaton.step[q, x])
        for y in [y for y in range(automaton.vocab_size) if automaton.step[state, y] >= 0]:
            if (state, y) not in boxes:
                raise ValueError(f"bracket: it has no box of state {state} and token {y}")
            after, end = layer.step(y, box), boxes[state, y]
            if not ((after[0] >= end[0]) & (after[1] <= end[1])).all():
                raise ValueError(f"bracket: the box of state {state} and token {y} does not hold what comes to it")
    scaled = (wide.embedding if wide.head is None else wide.head).weight * wide.norm.weight
    head = scaled - scaled.mean(1, keepdim=True)
    for (q, x), box in boxes.items():
        right = int(automaton.output[q, x])
        if right == IGNORE:
            continue
        others = torch.arange(len(head)) != right
        rows = head[right] - head[others]
        least, far, terms = rows @ wide.embedding.weight[x], wide.embedding.weight[x].abs(), len(rows[0])
        for matrix, said in layer.said(x, box):
            through = rows @ matrix
            least = least + through.clamp_min(0) @ said[0] + through.clamp_max(0) @ said[1]
            far, terms = far + matrix.abs() @ said.abs().amax(0), terms + matrix.shape[1]
        doubt = 2 * unit * (terms + 16) * (scaled[right].abs() + scaled[others].abs()) @ (far + far.mean())
        if not (least > doubt).all():
            raise ValueError(f"bracket: answers in the box of state {q} and token {x} may be wrong")


class _CheckedLSTM:
    """Ends of (h, c) after a token, with what rounding may add."""

    def __init__(self, wide: Any, dtype: torch.dtype) -> None:
        self.mixer, self.unit = wide.blocks[0].mixer, torch.finfo(dtype).eps / 2
        self.x = wide.blocks[0].mixer_norm(wide.embedding.weight)

    def start(self) -> Tensor:
        return torch.zeros(2, 2 * self.mixer.d_state, dtype=torch.float64)

    def step(self, token: int, box: Tensor) -> Tensor:
        mixer, x, n = self.mixer, self.x[token], self.mixer.d_state
        w, h, out = mixer.weight_hh, box[:, :n], torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        z = mixer.weight_ih @ x + mixer.bias + h @ w.clamp_min(0).T + h.flip(0) @ w.clamp_max(0).T
        size = mixer.weight_ih.abs() @ x.abs() + mixer.bias.abs() + w.abs() @ h.abs().amax(0)
        z = z + out * 4 * self.unit * (len(x) + n + 16) * size
        i, f, g, o = z.unflatten(1, (4, n)).unbind(1)
        small = 32 * self.unit
        i, f, o = (each.sigmoid() + out * small for each in (i, f, o))
        g = g.tanh() + out * small
        c = products(f, box[:, n:]) + products(i, g)
        c = c + out * small * (1 + c.abs())
        h = products(o, c.tanh() + out * small)
        return torch.cat([h + out * small, c], 1)

    def said(self, token: int, box: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.mixer.out_proj.weight, box[:, : self.mixer.d_state])]


_LAYERS: dict[type, Any] = {LSTM: _CheckedLSTM, Mamba: CheckedMamba, PDSSM: CheckedPDSSM}
