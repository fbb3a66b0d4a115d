"""No time for wrong numbers: outputs and gradients of every contestant against the float64 loop.

The rule of the library: the error is at most 3 times that of the plain loop in the same type plus 2 eps max|truth|.
Scans that associate in another order round differently: theirs is 10 times the loop's plus 20 eps max|truth|.
In float64 the loop is the truth itself, so at least 1e-12 max|truth| is allowed.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from seqmix.benchmarks import memory
from seqmix.benchmarks.cases import Case, Inputs, Sizes
from seqmix.benchmarks.contestants import Contestant, reference_of
from seqmix.benchmarks.timing import synchronize

EXACT = (3, 2)
REASSOCIATED = (10, 20)

# Numbers (product of all sizes) that the float64 loop is given: a whole sequence of every standard size, or more.
_AFFORDABLE = 2**24


@dataclass(frozen=True)
class Verdict:
    """`worst` is the largest error as a share of what is allowed, over outputs and gradients; `where` names it.

    `first_ms` is what the first call took, forward and backward, compilation included where nothing was cached;
    `peak_bytes` the most GPU memory that it had beyond its inputs.
    """

    worst: float
    where: str
    kept_bytes: int = 0
    kept_beyond_inputs: int = 0
    first_ms: float | None = None
    peak_bytes: int | None = None

    @property
    def passed(self) -> bool:
        return self.worst <= 1

    def __str__(self) -> str:
        return f"{self.where}: error is {self.worst:.3g} times what is allowed"


def rule(exact: bool) -> str:
    """The bound in words."""
    times, eps = EXACT if exact else REASSOCIATED
    return f"{times} x the plain loop's error + {eps} eps max|truth|"


class _WrongShape(Exception):
    pass


class Gate:
    """The truth for one case and one set of inputs.

    Every contestant runs on the full inputs. The upstream gradient is zero except in some sequences of the batch,
    spread evenly; the float64 loop is run on those alone, and they are compared over their whole length.
    """

    def __init__(self, case: Case, sizes: Sizes, inputs: Inputs, dtype: torch.dtype) -> None:
        self.case, self.inputs, self.eps = case, inputs, torch.finfo(dtype).eps
        self.floor = 1e-12 if dtype == torch.float64 else 0.0
        values = inputs[case.values]
        batch = sizes["B"]
        count = max(1, min(batch, _AFFORDABLE * batch // prod(sizes.values())))
        self.rows = torch.linspace(batch - 1, 0, count, device=values.device).round().long().unique()
        generator = torch.Generator().manual_seed(1)
        dense = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        self.upstream = torch.zeros_like(values)
        self.upstream[self.rows] = dense.to(values)[self.rows]
        self.truth = self._truth()
        self.loop_errors: dict[str, float] | None = None

    @property
    def checked_shape(self) -> tuple[int, ...]:
        """Shape of the part of the output that is compared."""
        return tuple(self.truth["output"].shape)

    def _truth(self) -> dict[str, Tensor]:
        unbatched = self.case.unbatched
        wide = {}
        for name, x in self.inputs.items():
            part = x.detach() if name in unbatched else x.detach()[self.rows]
            if x.requires_grad:  # all but places
                part = part.to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_()
            wide[name] = part
        upstream = self.upstream[self.rows].to(next(iter(wide.values())).dtype)
        first, *rest = reference_of(self.case)(**wide)
        gradients = torch.autograd.grad(first, list(leaves_of(wide).values()), upstreams(first, upstream))
        return _named(wide, (together(first), *rest), gradients)

    def check(self, contestant: Contestant) -> Verdict:
        """Run `contestant` once, forward and backward, and hold its numbers to the rule."""
        try:
            got, costs = self._run(contestant)
        except _WrongShape as mismatch:
            return Verdict(float("inf"), str(mismatch))
        errors, where, worst = {}, "", 0.0
        for name, truth in self.truth.items():
            if name not in got:
                continue  # a peer without a final state
            error = (got[name].to(truth.dtype) - truth).abs().max().item()
            errors[name] = error if error == error else float("inf")
        if contestant.role == "loop" and self.loop_errors is None:
            self.loop_errors = errors
        times, eps = EXACT if contestant.exact else REASSOCIATED
        for name, error in errors.items():
            largest = self.truth[name].abs().max().item()
            loop = (self.loop_errors or {}).get(name, 0.0)
            allowed = times * loop + max(eps * self.eps, self.floor) * largest
            share = error / allowed if allowed else float("inf") if error else 0.0
            if share >= worst:
                worst, where = share, name
        return Verdict(worst, where, **costs)

    def _run(self, contestant: Contestant) -> tuple[dict[str, Tensor], dict[str, Any]]:
        inputs = enter(self.case, contestant, self.inputs)
        began, before = time.perf_counter(), memory.watch(self.upstream.device)
        held: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            held.append(x)  # alive, so that no storage is freed and counted again under the same address
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            outputs = contestant.call(**inputs)
        first, *rest = outputs if isinstance(outputs, tuple) else (outputs,)
        upstream = contestant.enter(self.upstream)
        for output in first if isinstance(first, tuple) else (first,):
            if output.shape != upstream.shape:
                raise _WrongShape(f"output has shape {tuple(output.shape)} in place of {tuple(upstream.shape)}")
        gradients = torch.autograd.grad(first, list(leaves_of(inputs).values()), upstreams(first, upstream))
        synchronize(upstream.device)
        costs: dict[str, Any] = {"first_ms": 1e3 * (time.perf_counter() - began)}
        costs["peak_bytes"] = memory.peak_since(before, upstream.device)
        named = _named(inputs, (together(first), *rest), gradients)
        rows, unbatched = self.rows, self.case.unbatched
        result = {}
        for name, x in named.items():
            x = x.detach()
            if not torch.isfinite(x).all():
                x = torch.full_like(x, float("nan"))
            whole = name.removeprefix("gradient of ") in unbatched
            back = x if whole or name == "final state" else contestant.leave(x)
            result[name] = back if whole else back[rows]
        kept = _storages(held)
        given = _storages(inputs.values())
        beyond = sum(size for pointer, size in kept.items() if pointer not in given)
        return result, costs | {"kept_bytes": sum(kept.values()), "kept_beyond_inputs": beyond}


def enter(case: Case, contestant: Contestant, inputs: Inputs) -> Inputs:
    """`inputs` in a contestant's own layout: the same leaves where nothing changes."""
    own = {}
    for name, x in inputs.items():
        turned = x if name in case.unbatched else contestant.enter(x.detach())
        same = turned.data_ptr() == x.data_ptr() and turned.shape == x.shape
        own[name] = x if same else turned.requires_grad_(x.requires_grad)
    return own


def leaves_of(inputs: Inputs) -> Inputs:
    """Those that have a gradient: all but places."""
    return {name: x for name, x in inputs.items() if x.requires_grad}


def upstreams(first: Tensor | tuple[Tensor, ...], upstream: Tensor) -> Tensor | list[Tensor]:
    """The same upstream gradient for every output of an op."""
    return [upstream] * len(first) if isinstance(first, tuple) else upstream


def together(first: Tensor | tuple[Tensor, ...]) -> Tensor:
    """All outputs of an op as one tensor, to be compared."""
    return torch.cat(first, dim=-1) if isinstance(first, tuple) else first


def _named(inputs: Inputs, outputs: tuple[Any, ...], gradients: tuple[Tensor, ...]) -> dict[str, Tensor]:
    named = dict(zip(("output", "final state"), (x.detach() for x in outputs), strict=False))
    return named | {f"gradient of {name}": x for name, x in zip(leaves_of(inputs), gradients, strict=True)}


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
