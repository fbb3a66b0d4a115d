"""`seqmix bench numbers`: every mixer on a device against itself in float64 on the CPU, outputs and gradients.

What is allowed is ten times the error of the plain loops in the same type on the CPU, and 20 eps of the largest number:
the rule of scans that associate in another order.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seqmix.benchmarks.gate import REASSOCIATED
from seqmix.benchmarks.layer_setup import Shape, build, row_of
from seqmix.benchmarks.record import reason_of
from seqmix.kernels import backend
from seqmix.mixers import TokenMixer

__all__ = ["run_numbers"]

Row = dict[str, Any]
Found = Mapping[str, Tensor]

_CPU = torch.device("cpu")


def run_numbers(name: str, shape: Shape, dtype: torch.dtype, device: torch.device, kernels: str | None) -> Row:
    """The row of one mixer: its largest error over what is allowed, and where that is; `kernels` names a backend."""
    row = row_of(name, shape, dtype)
    try:
        layer = build(name, shape, torch.float64, _CPU)
        weights = layer.state_dict()
        with backend("reference"):
            truth = _found(layer, weights, shape, torch.float64, _CPU, name)
            loop = _found(layer, weights, shape, dtype, _CPU, name)
        with backend(kernels):
            found = _found(layer, weights, shape, dtype, device, name)
        if found.keys() != truth.keys():
            raise ValueError(f"gradients of {', '.join(sorted(found.keys() ^ truth.keys()))} are not everywhere")
    except Exception as error:  # one that does not run here is a row, not the end
        return row | {"status": "error", "reason": reason_of(error), "worst": None, "where": ""}
    worst = {key: _share(found[key], loop[key], truth[key], dtype) for key in truth}
    where = max(worst, key=worst.__getitem__)
    status = "ok" if worst[where] <= 1 else "wrong"
    reason = "" if status == "ok" else f"{where} is {worst[where]:.3g} times off what is allowed"
    return row | {"status": status, "reason": reason, "worst": worst[where], "where": where}


def _found(
    layer: TokenMixer, weights: Found, shape: Shape, dtype: torch.dtype, device: torch.device, name: str
) -> dict[str, Tensor]:
    """Output and gradients by name, in float64 on the CPU, of a layer with these weights in a type on a device."""
    layer = build(name, shape, dtype, device)
    layer.load_state_dict({key: value.to(device, layer.state_dict()[key].dtype) for key, value in weights.items()})
    generator = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.length, shape.d_model)
    x, upstream = (torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2))
    y = layer(x.requires_grad_())[0]
    names, leaves = zip(*((key, p) for key, p in layer.named_parameters() if p.requires_grad), strict=True)
    gradients = torch.autograd.grad(y, [x, *leaves], upstream, allow_unused=True)
    found = zip(("output", "d x", *(f"d {key}" for key in names)), (y, *gradients), strict=True)
    return {
        key: value.detach().to(_CPU, torch.promote_types(value.dtype, torch.float64))
        for key, value in found
        if value is not None
    }


def _share(found: Tensor, loop: Tensor, truth: Tensor, dtype: torch.dtype) -> float:
    times, eps = REASSOCIATED
    allowed = times * (loop - truth).abs().max() + eps * torch.finfo(dtype).eps * truth.abs().max()
    error = (found - truth).abs().max()
    if not torch.isfinite(error):  # which no comparison would choose
        return math.inf
    return float(error / allowed) if allowed > 0 else float(error > 0)
