"""Rows of gates, normalised along their last axis, in the five ways of the released code of BD-LRU and H-LRU.

    softmax    e^z / sum e^z
    sigmoid    sigmoid(z) / sum sigmoid(z)
    relu       relu(z) / sum (relu(z) + 0.001)
    tanh       tanh(z) / sum |tanh(z)|
    linear     z / sum |z|, which is also called l1

Softmax and sigmoid share one unit among the entries of a row, relu a little less; with tanh and linear gates entries
may be negative, and their absolute values share it. Source: IgorDn8/mad-lab, mad/model/layers/bdlru_sel.py and
hlru_sel.py.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from seqmix.mixers.base import one_of, recurrent_dtype

# What signed gates are divided by at least: a row of zeros stays zero, and gradients grow by 1,000 at most. The
# released code adds .001 to each rectified gate and nothing to signed ones, where 0 / 0 comes of it.
SMALLEST_SUM = 1e-3
NORMALIZATIONS = ("softmax", "l1", "sigmoid", "relu", "tanh", "linear")


def normalization_of(owner: str, name: str) -> str:
    """`name`, of two names of one the shorter; `ValueError` for one that is none."""
    one_of(owner, "normalization", name, NORMALIZATIONS)
    return "l1" if name == "linear" else name


def softmax_logits(logits: Tensor, normalization: str) -> Tensor | None:
    """Logits whose softmax is the normalised rows, for scans that form them; None where there are none."""
    if normalization == "softmax":
        return logits
    if normalization == "sigmoid":
        with torch.autocast(logits.device.type, enabled=False):
            return logsigmoid(logits.to(recurrent_dtype(logits.dtype)))
    return None


def normalized(logits: Tensor, normalization: str) -> Tensor:
    """Rows (..., n) of gates, in at least float32, also under autocast: decays above 0.99 do not survive bf16."""
    z = logits.to(recurrent_dtype(logits.dtype))
    with torch.autocast(z.device.type, enabled=False):
        fused = softmax_logits(z, normalization)
        if fused is not None:
            return fused.softmax(-1)
        if normalization == "relu":
            z = z.relu()
            return z / (z + SMALLEST_SUM).sum(-1, keepdim=True)
        z = z.tanh() if normalization == "tanh" else z
        return z / z.abs().sum(-1, keepdim=True).clamp_min(SMALLEST_SUM)


class StaticGates(nn.Module):
    """Gates before normalisation that no token changes, in the place of a linear map; uniform in [0, 1) at first."""

    _no_weight_decay = ("A_w",)

    def __init__(self, shape: Sequence[int], *, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.A_w = nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.A_w)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, numbers) for x (B, T, d_model)."""
        return self.A_w.flatten().expand(*x.shape[:-1], -1)


def gates_projection(
    d_model: int, shape: Sequence[int], selective: bool, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """From tokens to gates before normalisation, all numbers of `shape` in a row."""
    if selective:
        return nn.Linear(d_model, math.prod(shape), device=device, dtype=dtype)
    return StaticGates(shape, device=device, dtype=dtype)


def reset_projections(gates: nn.Module, *others: nn.Linear) -> None:
    """The official initialisation: N(0, 0.02) weights, zero biases."""
    for projection in (gates, *others):
        if isinstance(projection, StaticGates):
            projection.reset_parameters()
        elif isinstance(projection, nn.Linear):
            nn.init.normal_(projection.weight, std=0.02)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
