"""`seqmix bench fixed-point`: every way of solving the fixed-point layers, its error beside its time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, Times, prefixed, take_turns, threads
from seqmix.kernels import diagonal_scan
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.solvers import Forward
from seqmix.mixers import TokenMixer, create_mixer
from seqmix.mixers.fp_rnn import FixedPointRNN

Row = dict[str, Any]
Call = Callable[[], object]

SWEEPS, PARTS = "sweeps", "scan and mixing x sweeps"


@dataclass(frozen=True)
class Case:
    """A layer with some arguments, at `length` tokens, solved in several ways."""

    name: str
    mixer: str
    length: int
    solvers: tuple[str, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


_LINEAR = {"hidden_dependence": ("c",)}
_BOUND = {"max_radius": 0.9}
_ALL, _HIDDEN = ("sequential", "direct", SWEEPS), ("sequential", SWEEPS)

CASES = (
    *(
        Case(f"fp-rnn linear T={length}{' radius<.9' * bool(bound)}", "fp-rnn", length, _ALL, _LINEAR | bound)
        for length, bound in ((64, _BOUND), (64, {}), (512, _BOUND))
    ),
    Case("fp-rnn linear rank=8 T=512", "fp-rnn", 512, ("sequential", "direct"), _LINEAR | {"rank": 8}),
    Case("fp-rnn linear Kronecker T=64", "fp-rnn", 64, _ALL, _LINEAR | _BOUND | {"mixing": "kronecker"}),
    Case("fp-rnn T=64 radius<.9", "fp-rnn", 64, _HIDDEN, _BOUND),
    Case("fp-rnn T=64", "fp-rnn", 64, _HIDDEN),
    Case("fp-mamba T=64 radius<.3", "fp-mamba", 64, _HIDDEN, {"max_radius": 0.3}),
)


def run_case(case: Case, batch: int, d_model: int, settings: Settings, progress: Progress) -> list[Row]:
    """Rows of one case: a solver at one thread count each, and what the sweeps of FP-RNN are made of."""
    dtype, device, plan = settings.dtype, settings.device, settings.plan
    length = min(case.length, 16) if d_model < 64 else case.length
    generator = torch.Generator().manual_seed(1)
    x, upstream = (torch.randn(batch, length, d_model, generator=generator).to(device, dtype) for _ in range(2))
    sizes = {"B": batch, "T": length, "d_model": d_model}
    base: Row = {"case": case.name, "mixer": case.mixer, "sizes": sizes, "dtype": str(dtype).removeprefix("torch.")}
    exact = _layer(case, "sequential", d_model, torch.float64, device)
    with torch.no_grad():
        truth = exact(x.double())[0]
    layers = {solver: _layer(case, solver, d_model, dtype, device) for solver in case.solvers}
    facts = {solver: _facts(layer, x, truth) for solver, layer in layers.items()}
    rows = []
    for count in settings.threads:
        told = prefixed(progress, f"{count} threads: ")
        with threads(count):
            forward: dict[str, Call] = {name: torch.no_grad()(partial(layer, x)) for name, layer in layers.items()}
            both: dict[str, Call] = {name: partial(_step, layer, x, upstream) for name, layer in layers.items()}
            sweeping = layers.get(SWEEPS)
            if isinstance(sweeping, FixedPointRNN):
                forward |= _parts(sweeping, x)
            times, steps = take_turns(forward, device, plan, told), take_turns(both, device, plan, told)
        for name in case.solvers:
            rows.append(base | _row(name, count, times[name], steps[name]) | facts[name])
        if "scan" in times:
            sweeps = facts[SWEEPS]["sweeps"]
            parts = sweeps * (times["scan"].median_ms + times["mixing"].median_ms)
            solve = times["solve"].median_ms
            rows.append(base | _row(PARTS, count) | {"median_ms": parts, "solve_ms": solve, "sweeps": sweeps})
    return rows


def _layer(case: Case, solver: str, d_model: int, dtype: torch.dtype, device: torch.device) -> TokenMixer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_mixer(case.mixer, d_model, solver=solver, **case.arguments).to(device, dtype)


@torch.no_grad()
def _facts(layer: Any, x: Tensor, truth: Tensor) -> Row:
    """The error in the output beside its largest number, and what the solve reports."""
    y, _ = layer(x)
    iterations, _, converged, sequential = layer.last_solve.double().unbind(1)
    sweeping = layer.solver == SWEEPS
    return {
        "error": ((y.double() - truth).abs().max() / truth.abs().max()).item(),
        "sweeps": iterations.max().item() if sweeping else None,
        "converged": converged.mean().item(),
        "fallback": sequential.mean().item() if sweeping else None,
    }


def _step(layer: TokenMixer, x: Tensor, upstream: Tensor) -> object:
    leaf = x.detach().requires_grad_()
    leaves = [leaf, *layer.parameters()]
    return torch.autograd.grad(layer(leaf)[0], leaves, upstream, allow_unused=True)


@torch.no_grad()
def _parts(layer: FixedPointRNN, x: Tensor) -> dict[str, Call]:
    """The whole solve by sweeps, one diagonal scan and one mixing (the gates, where they see the state, included)."""
    p = layer.proj_in(x)[..., : layer.cell.size].contiguous()
    h0, weight = layer.init_state(len(x), device=x.device, dtype=x.dtype).h, layer.weight_hidden.to(p.dtype)
    h, *_ = layer.scan(p, h0, None, SWEEPS)
    problem = Forward(layer.cell, p.flatten(0, 1), weight, h0, Rows.of("bench", p, None))
    flat = h.flatten(0, 1)

    def mixing() -> tuple[Tensor, Tensor]:
        g = problem.gates(flat)
        return g.decay, g.write * layer.cell.target(g, flat)

    decay, source = (t.unsqueeze(0) for t in mixing())
    bounds = problem.rows.cu_seqlens
    return {
        "solve": torch.no_grad()(lambda: layer.scan(p, h0, None, SWEEPS)),
        "scan": lambda: diagonal_scan(decay, source, initial_state=h0, cu_seqlens=bounds),
        "mixing": torch.no_grad()(mixing),
    }


def _row(solver: str, count: int, forward: Times | None = None, both: Times | None = None) -> Row:
    return {
        "solver": solver,
        "threads": count,
        "status": "ok",
        "reason": "",
        **(forward.record() if forward else NO_TIMES),
        "step_median_ms": both.median_ms if both else None,
        **dict.fromkeys(("error", "sweeps", "converged", "fallback", "solve_ms")),
    }
