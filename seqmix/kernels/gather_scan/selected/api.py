"""The gather recurrence with transitions that a token selects, and the straight-through gradient of what it selects.

    M_t = sum over k of weights_t[k] dictionary[k]            (N, N), real
    index_t[j] = argmax over i of M_t[i, j]                   h_t as in `gather_scan`

The derivative of an index is zero wherever it exists. The published gradient, with `straight_through`, is the one that
softmax(M_t) over columns would have in its place: with s_t = dL/dh_t,

    dP_t[i, j] = Re(s_t[i] conj(d_t[j] h_{t-1}[j])),    dM_t = P (dP_t - sum over i of P dP_t),    P = softmax(M_t)

N^2 numbers for each token, which are formed for a few tokens at a time and never kept: on a CPU by kernels of their own
(`cpu_kernels.py`), elsewhere by products in torch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import load_kernels
from seqmix.kernels._loops import shifted
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.gather_scan.reference import gather_scan as reference

OP = "selected_gather_scan"
_GATHER = "seqmix.kernels.gather_scan"  # whose kernels go through time
_AT_ONCE = 1 << 20  # entries of M for all tokens that are treated together


def selected_gather_scan(
    weights: Tensor,
    dictionary: Tensor,
    d: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    straight_through: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) and the final state (S, N) for weights (B, T, K), dictionary (K, N, N), both real, d and x (B, T, N).

    All in one precision. Weights and dictionary get the straight-through gradient, or none. `ValueError` for a shape or
    type that does not fit.
    """
    for name, tensor in (("x", x), ("d", d)):
        checks.check_tensor(OP, name, tensor, "B T N", complex_ok=True)
    states = x.shape[-1]
    checks.check_shape(OP, "d", d, x.shape, "as x")
    checks.check_tensor(OP, "weights", weights, "B T K")
    checks.check_tensor(OP, "dictionary", dictionary, "K N N")
    checks.check_shape(OP, "weights", weights, (*x.shape[:2], weights.shape[2]), "batch and time of x")
    checks.check_shape(OP, "dictionary", dictionary, (weights.shape[2], states, states), "K of weights, N of x")
    if not states or not weights.shape[2]:
        raise ValueError(f"{OP}: x and weights must hold at least one state and one matrix, got {states} of N")
    real = {"x": x.real.dtype, "weights": weights.dtype, "dictionary": dictionary.dtype}
    if len(set(real.values())) > 1:
        raise ValueError(f"{OP}: weights and dictionary must have the precision of x, got {real}")
    backend, (d, x), h0 = prepare(
        OP, _GATHER, {"d": d, "x": x}, "x", "S N", (states,), initial_state, cu_seqlens, backend, complex_ok=True
    )
    if backend != "reference":
        h, final, _ = _selected_gather_scan(weights, dictionary, d, x, h0, cu_seqlens, straight_through, backend)
        return h, final
    places = select(weights, dictionary)
    if not straight_through:
        return over_sequences(OP, reference, (places, d, x), h0, cu_seqlens)
    soft = torch.cat([M.softmax(-2) for M in _matrices(weights, dictionary)]).view(*x.shape, states)
    # Not `one_hot`, which looks at values and so cannot be vmapped.
    hard = (places.unsqueeze(-2) == torch.arange(states, device=places.device)[:, None]).to(soft.dtype)

    def recurrence(P: Tensor, d: Tensor, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for P_t, d_t, x_t in zip(P.unbind(1), d.unbind(1), x.unbind(1), strict=True):
            h = (P_t @ (d_t * h).unsqueeze(-1)).squeeze(-1) + x_t
            rows.append(h)
        return torch.stack(rows, 1), h

    return over_sequences(OP, recurrence, ((hard + soft - soft.detach()).to(x.dtype), d, x), h0, cu_seqlens)


def select(weights: Tensor, dictionary: Tensor) -> Tensor:
    """index (B, T, N), int64, for weights (B, T, K) and dictionary (K, N, N); of NaN nothing is said."""
    places = [M.argmax(-2) for M in _matrices(weights, dictionary)]
    return torch.cat(places).view(*weights.shape[:2], dictionary.shape[-1])


def _matrices(weights: Tensor, dictionary: Tensor) -> Iterator[Tensor]:
    """M (tokens, N, N), for a few tokens at a time."""
    flat = dictionary.flatten(1)
    for rows in weights.flatten(0, 1).split(max(1, _AT_ONCE // flat.shape[1])):
        yield (rows @ flat).view(-1, *dictionary.shape[1:])


def _forward(
    weights: Tensor,
    dictionary: Tensor,
    d: Tensor,
    x: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    straight_through: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        index = _functions(backend)[0](weights, dictionary).int()
    return *load_kernels(_GATHER, backend).forward(index, d, x, h0, cu_seqlens), index


def _backward(
    dh: Tensor,
    dfinal: Tensor,
    weights: Tensor,
    dictionary: Tensor,
    d: Tensor,
    h: Tensor,
    h0: Tensor,
    index: Tensor,
    cu_seqlens: Tensor | None,
    straight_through: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    dd, dx, dh0 = load_kernels(_GATHER, backend).backward(dh, dfinal, index, d, h, h0, cu_seqlens)
    if not straight_through:
        none = (torch.zeros_like(given, memory_format=torch.contiguous_format) for given in (weights, dictionary))
        return *none, dd, dx, dh0
    with torch.autocast(h.device.type, enabled=False):
        found = _functions(backend)[1](weights, dictionary, index, dx, d * shifted(h, h0, cu_seqlens))
    return *found, dd, dx, dh0


def _straight_through(
    weights: Tensor, dictionary: Tensor, index: Tensor, s: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weights (B, T, K) and dictionary (K, N, N) where dP_t = Re(s_t u_t^H), s and u (B, T, N)."""
    ddictionary = torch.zeros_like(dictionary, memory_format=torch.contiguous_format)
    flat, dweights, first = dictionary.flatten(1), [], 0
    for M in _matrices(weights, dictionary):
        rows = slice(first, first + len(M))
        first += len(M)
        outer = s.flatten(0, 1)[rows, :, None] * u.flatten(0, 1)[rows, None, :].conj()
        P = M.softmax(-2)
        g = P * (outer.real if outer.is_complex() else outer)
        g = (g - P * g.sum(-2, keepdim=True)).flatten(1)  # (tokens, N^2)
        dweights.append(g @ flat.mT)
        ddictionary += (weights.flatten(0, 1)[rows].mT @ g).view_as(dictionary)
    return torch.cat(dweights).view(weights.shape), ddictionary


def _functions(backend: str) -> tuple[Callable[..., Tensor], Callable[..., tuple[Tensor, Tensor]]]:
    """What selects, and its straight-through gradient."""
    if backend != "cpu":
        return select, _straight_through
    # Here, since it takes Numba.
    from seqmix.kernels.gather_scan.selected import cpu

    return cpu.select, cpu.straight_through


_selected_gather_scan = recurrent_op(
    OP,
    "PD-SSM",
    _forward,
    _backward,
    inputs="weights dictionary d x initial_state",
    outputs="h final",
    extra="index",
    fakes=lambda given: [
        *same("x", "initial_state")(given),
        given["x"].new_empty(given["x"].shape, dtype=torch.int32),
    ],
    kept="weights dictionary d h initial_state index",
    gradients="weights dictionary d h initial_state",
    options="bool straight_through, str backend",
    values="x",
)
