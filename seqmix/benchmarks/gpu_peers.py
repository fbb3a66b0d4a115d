"""Other libraries' GPU kernels for the same recurrences, where they are installed.

Each is called as its documentation says, with scale 1 where it would scale q. None of them is a dependency.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from seqmix.benchmarks.cases import Case

Call = Callable[..., Any]


def _from(module: str, name: str) -> Call:
    return getattr(importlib.import_module(module), name)


def _accelerated(a: Tensor, x: Tensor) -> Tensor:
    return _from("accelerated_scan.complex" if x.is_complex() else "accelerated_scan.scalar", "scan")(a, x)


def _hgrn(a: Tensor, x: Tensor) -> Tensor:
    return _from("fla.ops.hgrn", "chunk_hgrn")(x=x, g=a.log())[0]


def _gla(q: Tensor, k: Tensor, v: Tensor, log_g: Tensor) -> Tensor:
    return _from("fla.ops.gla", "chunk_gla")(q=q, k=k, v=v, g=log_g, scale=1.0)[0]


def _delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    return _from("fla.ops.delta_rule", "chunk_delta_rule")(q=q, k=k, v=v, beta=beta, scale=1.0)[0]


def _selective(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return _from("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")(x, dt, A, B, C, D)


def _convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _from("causal_conv1d", "causal_conv1d_fn")(x, weight, bias, activation="silu")


def attention(q: Tensor, k: Tensor, v: Tensor, **gates: Tensor) -> Tensor:
    """Causal softmax attention of the same heads: what a linear recurrence of that size is an alternative to."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


# op: (name, package, call, whether time is its last axis)
_PEERS: dict[str, list[tuple[str, str, Call, bool]]] = {
    "diagonal_scan": [("accelerated-scan", "accelerated_scan", _accelerated, True), ("fla hgrn", "fla", _hgrn, False)],
    "selective_scan": [("mamba-ssm", "mamba_ssm", _selective, True)],
    "causal_conv1d": [("causal-conv1d", "causal_conv1d", _convolution, True)],
    "gated_linear_attention": [("fla", "fla", _gla, False)],
    "delta_rule": [("fla", "fla", _delta, False)],
}
NAMES = tuple(dict.fromkeys(name for peers in _PEERS.values() for name, *_ in peers))


def gpu_peers(case: Case) -> list[tuple[str, Call, bool]]:
    """(name, call, time last) of the installed peers that compute `case`."""
    if case.op == "diagonal_scan" and case.unbatched:
        return []
    return [
        (name, call, last)
        for name, package, call, last in _PEERS.get(case.op, [])
        if importlib.util.find_spec(package) is not None and not (case.is_complex and name == "fla hgrn")
    ]
