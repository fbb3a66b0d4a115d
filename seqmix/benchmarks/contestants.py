"""Who runs a case: the op itself, the plain loop, torch's associative scan, other libraries, and yardsticks."""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu

import seqmix.kernels
from seqmix.benchmarks.cases import Case
from seqmix.benchmarks.gpu_peers import attention, gpu_peers

_CPU = torch.device("cpu")


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Contestant:
    """One implementation of a case.

    `call(**inputs)` returns the output, or a tuple that starts with it. `enter` and `leave` turn tensors with a batch
    axis into this implementation's own layout and back; that is done outside the timed region. `role` is "seqmix",
    "loop", "peer", or "yardstick" (computes something else, so its numbers are not compared).
    `exact` is False where products are associated in another order than time's.
    """

    name: str
    call: Callable[..., Any]
    role: str = "peer"
    exact: bool = False
    forward_only: bool = False
    enter: Callable[[Tensor], Tensor] = _same
    leave: Callable[[Tensor], Tensor] = _same


def reference_of(case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    """The plain loop of a case from a zero state: unbind, step, stack."""
    shared = case.op.startswith("gated_") and case.op.endswith("_scan")  # one folder with the plain scan
    folder = case.op.removeprefix("gated_") if shared else case.op
    home = importlib.import_module(f"seqmix.kernels.{folder}.reference")
    loop = getattr(home, case.op)

    def run(**inputs: Tensor) -> tuple[Tensor, Tensor]:
        return loop(**inputs, **case.options, initial_state=_zero_state(case, inputs))

    return run


def _zero_state(case: Case, inputs: dict[str, Tensor]) -> Tensor:
    first = inputs[case.values]
    shape = [first.shape[0], *first.shape[2:]]
    if case.op in ("higher_order_scan", "gated_higher_order_scan"):
        gates = inputs.get("a", inputs.get("logits"))
        assert gates is not None
        shape.append(gates.shape[-1] - (case.op != "higher_order_scan"))
    elif case.op == "selective_scan":
        shape.append(inputs["A"].shape[1])
    elif case.op == "causal_conv1d":
        shape.insert(1, inputs["weight"].shape[1] - 1)
    elif case.op in ("gated_linear_attention", "delta_rule", "dplr_delta_rule"):
        shape.insert(2, inputs["k"].shape[-1])
    elif case.op == "selective_rotary":
        shape[-1] //= 2
    return first.new_zeros(shape)


def _scalar_step(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return right[0] * left[0], right[0] * left[1] + right[1]


def _matrix_step(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return right[0] @ left[0], (right[0] @ left[1].unsqueeze(-1)).squeeze(-1) + right[1]


def _associative(step: Callable[..., Any], a: Tensor, x: Tensor) -> Tensor:
    from torch._higher_order_ops.associative_scan import associative_scan

    return associative_scan(step, (a, x), 1, combine_mode="generic")[1]


def _associative_diagonal(a: Tensor, x: Tensor) -> Tensor:
    return _associative(_scalar_step, a.expand_as(x), x)


def _associative_block(a: Tensor, x: Tensor) -> Tensor:
    return _associative(_matrix_step, a, x)


def _associative_gated_block(logits: Tensor, v: Tensor) -> Tensor:
    gates = logits.softmax(-1)
    return _associative(_matrix_step, gates[..., :-1], gates[..., -1] * v)


def _associative_selective(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    decay = torch.exp(dt.unsqueeze(-1) * A)
    s = _associative(_scalar_step, decay, (dt * x).unsqueeze(-1) * B.unsqueeze(2))
    return (s @ C.unsqueeze(-1)).squeeze(-1) + D * x


_ASSOCIATIVE: dict[str, Callable[..., Tensor]] = {
    "diagonal_scan": _associative_diagonal,
    "block_scan": _associative_block,
    "gated_block_scan": _associative_gated_block,
    "selective_scan": _associative_selective,
}


def _mambapy_diagonal(a: Tensor, x: Tensor) -> Tensor:
    from mambapy.pscan import pscan

    return pscan(a.unsqueeze(-1), x.unsqueeze(-1)).squeeze(-1)


def _mambapy_selective(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    # Its layer forms the decays and inputs for all of (B, T, D, N) before it scans them.
    from mambapy.pscan import pscan

    s = pscan(torch.exp(dt.unsqueeze(-1) * A), (dt.unsqueeze(-1) * B.unsqueeze(2)) * x.unsqueeze(-1))
    return (s @ C.unsqueeze(-1)).squeeze(-1) + D * x


def _accelerated(a: Tensor, x: Tensor) -> Tensor:
    from accelerated_scan.ref import scan

    return scan(a, x)


def _torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    width = weight.shape[1]
    padded = conv1d(x, weight.unsqueeze(1), bias, padding=width - 1, groups=weight.shape[0])
    return silu(padded[..., : x.shape[-1]])


def _channels_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous()


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def contestants_for(case: Case, device: torch.device = _CPU, *, compiled: bool = False) -> list[Contestant]:
    """Everything here that can run `case` on `device`; `compiled` adds torch.compile of the associative scan."""
    op = getattr(seqmix.kernels, case.op)
    found = [
        Contestant("plain loop", reference_of(case), role="loop", exact=True),
        Contestant("seqmix", lambda **inputs: op(**inputs, **case.options), role="seqmix", exact=True),
    ]
    if case.op in _ASSOCIATIVE:
        scan = _ASSOCIATIVE[case.op]
        found.append(Contestant("associative_scan", scan))
        if compiled:
            found.append(Contestant("associative_scan compiled", _compile(scan)))
    if device.type == "cuda":
        for name, call, last in gpu_peers(case):
            turned = _channels_first if last else _same
            found.append(Contestant(name, call, enter=turned, leave=turned))
    varying = case.op == "diagonal_scan" and "a" not in case.unbatched and device.type == "cpu"
    # mambapy's backward pass does not conjugate, so it is a scan for real numbers.
    if varying and not case.is_complex and _installed("mambapy"):
        found.append(Contestant("mambapy", _mambapy_diagonal))
    if case.op == "selective_scan" and _installed("mambapy") and device.type == "cpu":
        found.append(Contestant("mambapy", _mambapy_selective))
    if varying and _installed("accelerated_scan"):
        found.append(Contestant("accelerated-scan ref", _accelerated, enter=_channels_first, leave=_channels_first))
    if case.op == "causal_conv1d":
        # The batch axis stays first; weight and bias have none and keep their layout.
        found.append(Contestant("torch conv1d", _torch_conv, enter=_channels_first, leave=_channels_first))
    if case.op == "gated_block_scan" and device.type == "cuda":
        from seqmix.benchmarks.loop_by_rows import loop_by_rows

        found.append(Contestant("loop by rows", loop_by_rows, role="yardstick", forward_only=True))
    if case.op in ("gated_linear_attention", "delta_rule", "dplr_delta_rule"):
        found.append(Contestant("softmax attention", attention, role="yardstick"))
    if case.op == "diagonal_scan":
        found.append(Contestant("product", lambda a, x: a * x, role="yardstick"))
    if case.op == "higher_order_scan":
        first = seqmix.kernels.diagonal_scan
        found.append(Contestant("diagonal_scan", first, role="yardstick", enter=_first_lag))
    if case.op == "gather_scan":
        found.append(Contestant("diagonal_scan", _where_it_is, role="yardstick"))
    return found


def _where_it_is(index: Tensor, d: Tensor, x: Tensor) -> Any:
    return seqmix.kernels.diagonal_scan(d, x)


def _first_lag(x: Tensor) -> Tensor:
    return x[..., 0].contiguous() if x.ndim == 4 else x


def _compile(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(**inputs: Tensor) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations, while it compiles
            return program(**inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.compile(function, dynamic=False)
    return run
