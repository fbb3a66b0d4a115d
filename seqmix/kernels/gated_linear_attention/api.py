"""`gated_linear_attention`: the recurrence under GLA, Mamba-2, Mamba-3, retention and plain linear attention."""

import torch
from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels._backend import in_chunks, load_kernels
from seqmix.kernels._chunked import matrix_recurrence
from seqmix.kernels._operator import operator
from seqmix.kernels._prepare import prepare
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.gated_linear_attention import reference

OP = "gated_linear_attention"


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, for every head on its own.

    Nothing is scaled or normalised. Decays of any strength are exact: no cumulative product is ever divided by. The
    backward pass recomputes the states from a few that the forward pass keeps.

    Args:
        q, k: queries and keys (B, T, H, K).
        v: values (B, T, H, V).
        log_g: logarithm of the decay, for every key channel (B, T, H, K) or for every head (B, T, H); no decay if
            None. It may be float32 beside low-precision values.
        initial_state: S_0 (S, H, K, V), zeros if None; its leading size is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        o (B, T, H, V) in the type of v, and the final state (S, H, K, V) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Yang et al. 2023 (2312.06635), eq. 3; Katharopoulos et al. 2020 (2006.16236) without decay.

    Example:
        >>> import torch
        >>> from seqmix.kernels import gated_linear_attention
        >>> one = torch.ones(1, 3, 1, 1)
        >>> o, _ = gated_linear_attention(one, one, one, torch.full((1, 3, 1), 0.5).log())
        >>> [round(value, 4) for value in o.flatten().tolist()]
        [1.0, 1.5, 1.75]
    """
    checks.check_tensor(OP, "q", q, "B T H K")
    checks.check_tensor(OP, "k", k, "B T H K")
    checks.check_tensor(OP, "v", v, "B T H V")
    checks.check_shape(OP, "k", k, q.shape, "as q")
    checks.check_shape(OP, "v", v, (*q.shape[:3], v.shape[3]), "batch, time and heads of q")
    for name, tensor in (("q", q), ("v", v)):
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{OP}: {name} must hold at least one head of width 1, got shape {tuple(tensor.shape)}")
    if log_g is not None:
        per_head = isinstance(log_g, Tensor) and log_g.ndim == 3
        checks.check_tensor(OP, "log_g", log_g, "B T H" if per_head else "B T H K")
        checks.check_shape(OP, "log_g", log_g, q.shape[: log_g.ndim], "as q, the last axis optional")
    heads, keys, values = *q.shape[2:], v.shape[3]
    given = {"v": v, "q": q, "k": k} | ({} if log_g is None else {"log_g": log_g})
    result = v.dtype
    backend, tensors, S0 = prepare(
        OP, __package__, given, "S H K V", (heads, keys, values), initial_state, cu_seqlens, backend
    )
    if backend == "reference":

        def recurrence(v: Tensor, q: Tensor, k: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            *gates, S = rest
            return reference.gated_linear_attention(q, k, v, *gates, initial_state=S)

        def step(v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            if in_chunks(__package__, v.device):
                return matrix_recurrence(recurrence, v, rest[:-1], rest[-1])
            return recurrence(v, *rest)

        o, final = over_sequences(OP, step, tensors, S0, cu_seqlens)
    else:
        v, q, k, *gates = tensors
        # One form for the kernels: (B, T, H, G) with G = K, 1, or 0 where nothing decays.
        log_g = (gates[0] if gates[0].ndim == 4 else gates[0][..., None]) if gates else q.new_empty(*q.shape[:3], 0)
        o, final, _ = _gated_linear_attention(q, k, v, log_g, S0, cu_seqlens, backend)
    return o.to(result), final


@operator("gated_linear_attention", OP)
def _gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return load_kernels(__package__, backend).forward(q, k, v, log_g, initial_state, cu_seqlens)


@operator("gated_linear_attention_backward", OP)
def _gated_linear_attention_backward(
    do: Tensor,
    dfinal: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor,
    initial_state: Tensor,
    borders: Tensor,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = load_kernels(__package__, backend)
    return kernels.backward(do, dfinal, q, k, v, log_g, initial_state, borders, cu_seqlens)


@_gated_linear_attention.register_fake
def _(q, k, v, log_g, initial_state, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    slots = load_kernels(__package__, backend).border_slots(q.shape[0], q.shape[1], initial_state.shape[0])
    return (
        torch.empty_like(v, memory_format=torch.contiguous_format),
        torch.empty_like(initial_state, memory_format=torch.contiguous_format),
        initial_state.new_empty(slots, *initial_state.shape[1:]),
    )


@_gated_linear_attention_backward.register_fake
def _(do, dfinal, q, k, v, log_g, initial_state, borders, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    inputs = (q, k, v, log_g, initial_state)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, cu_seqlens, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[2], cu_seqlens)


def _backward(ctx, do, dfinal, _):  # type: ignore[no-untyped-def]
    grads = _gated_linear_attention_backward(do, dfinal, *ctx.saved_tensors, ctx.backend)
    return *grads, None, None


_gated_linear_attention.register_autograd(_backward, setup_context=_setup_context)
_gated_linear_attention_backward.once()
