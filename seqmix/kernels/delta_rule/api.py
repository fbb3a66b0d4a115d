"""`delta_rule`: the recurrence under DeltaNet, Gated DeltaNet and DeltaProduct."""

import torch
from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels._backend import in_chunks, load_kernels
from seqmix.kernels._chunked import matrix_recurrence
from seqmix.kernels._operator import operator
from seqmix.kernels._prepare import prepare
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.delta_rule import reference

OP = "delta_rule"


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) e^{g_t} S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t, for every head on its own.

    Nothing is scaled or normalised: with keys of length one the transition contracts for beta in [0, 2], projects at
    1 and reflects at 2; with longer keys it may grow.

    Args:
        q, k: queries and keys (B, T, H, K).
        v: values (B, T, H, V).
        beta: strength of the write (B, T, H).
        log_g: logarithm of a decay of the whole state (B, T, H), applied before the write; none if None. It and beta
            may be float32 beside low-precision values.
        initial_state: S_0 (S, H, K, V), zeros if None; its leading size is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        o (B, T, H, V) in the type of v, and the final state (S, H, K, V) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Yang et al. 2024 (2406.06484), eq. 2; with a decay Yang et al. 2024 (2412.06464), eq. 10.

    Example:
        >>> import torch
        >>> from seqmix.kernels import delta_rule
        >>> one = torch.ones(1, 3, 1, 1)
        >>> o, _ = delta_rule(one, one, torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), torch.ones(1, 3, 1))
        >>> o.flatten().tolist()  # at beta = 1 a value replaces the one before
        [1.0, 2.0, 3.0]
    """
    checks.check_tensor(OP, "q", q, "B T H K")
    checks.check_tensor(OP, "k", k, "B T H K")
    checks.check_tensor(OP, "v", v, "B T H V")
    checks.check_tensor(OP, "beta", beta, "B T H")
    checks.check_shape(OP, "k", k, q.shape, "as q")
    checks.check_shape(OP, "v", v, (*q.shape[:3], v.shape[3]), "batch, time and heads of q")
    checks.check_shape(OP, "beta", beta, q.shape[:3], "batch, time and heads of q")
    for name, tensor in (("q", q), ("v", v)):
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{OP}: {name} must hold at least one head of width 1, got shape {tuple(tensor.shape)}")
    if log_g is not None:
        checks.check_tensor(OP, "log_g", log_g, "B T H")
        checks.check_shape(OP, "log_g", log_g, q.shape[:3], "batch, time and heads of q")
    heads, keys, values = *q.shape[2:], v.shape[3]
    given = {"v": v, "q": q, "k": k, "beta": beta} | ({} if log_g is None else {"log_g": log_g})
    result = v.dtype
    backend, tensors, S0 = prepare(
        OP, __package__, given, "S H K V", (heads, keys, values), initial_state, cu_seqlens, backend
    )
    if backend == "reference":

        def recurrence(v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            q, k, *gates, S = rest
            return reference.delta_rule(q, k, v, *gates, initial_state=S)

        def step(v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            if in_chunks(__package__, v.device):
                return matrix_recurrence(recurrence, v, rest[:-1], rest[-1])
            return recurrence(v, *rest)

        o, final = over_sequences(OP, step, tensors, S0, cu_seqlens)
    else:
        v, q, k, beta, *gates = tensors
        # One form for the kernels: (B, T, H, G) with G = 1, or 0 where nothing decays.
        log_g = gates[0][..., None] if gates else q.new_empty(*q.shape[:3], 0)
        o, final, _ = _delta_rule(q, k, v, beta, log_g, S0, cu_seqlens, backend)
    return o.to(result), final


@operator("delta_rule", OP)
def _delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return load_kernels(__package__, backend).forward(q, k, v, beta, log_g, initial_state, cu_seqlens)


@operator("delta_rule_backward", OP)
def _delta_rule_backward(
    do: Tensor,
    dfinal: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor,
    initial_state: Tensor,
    borders: Tensor,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = load_kernels(__package__, backend)
    return kernels.backward(do, dfinal, q, k, v, beta, log_g, initial_state, borders, cu_seqlens)


@_delta_rule.register_fake
def _(q, k, v, beta, log_g, initial_state, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    slots = load_kernels(__package__, backend).border_slots(q.shape[0], q.shape[1], initial_state.shape[0])
    return (
        torch.empty_like(v, memory_format=torch.contiguous_format),
        torch.empty_like(initial_state, memory_format=torch.contiguous_format),
        initial_state.new_empty(slots, *initial_state.shape[1:]),
    )


@_delta_rule_backward.register_fake
def _(do, dfinal, q, k, v, beta, log_g, initial_state, borders, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    inputs = (q, k, v, beta, log_g, initial_state)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, cu_seqlens, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[2], cu_seqlens)


def _backward(ctx, do, dfinal, _):  # type: ignore[no-untyped-def]
    grads = _delta_rule_backward(do, dfinal, *ctx.saved_tensors, ctx.backend)
    return *grads, None, None


_delta_rule.register_autograd(_backward, setup_context=_setup_context)
_delta_rule_backward.once()
