"""`higher_order_scan` and its gated form: linear difference equations of order m, one per channel (H-LRU)."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.higher_order_scan import reference


@handed_on
def higher_order_scan(
    a: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = sum_i a_{t,i} h_{t-i} + x_t for i = 1..m, for every channel on its own; m multiplies a step.

    Args:
        a: coefficients (B, T, N, m), newest lag first.
        x: input (B, T, N).
        initial_state: (h_0, h_{-1}, ..., h_{1-m}) (S, N, m), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1. Lags never reach across.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        h (B, T, N) in the type of x, and the last m values (S, N, m), newest first, in float32 (float64 for double).

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: H-LRU, Dubinin, Orvieto, Effenberger 2026 (2602.12021), in the difference-equation convention.

    Example:
        >>> import torch
        >>> from seqmix.kernels import higher_order_scan
        >>> start = torch.tensor([[[1.0, 0.0]]])
        >>> h, _ = higher_order_scan(torch.ones(1, 5, 1, 2), torch.zeros(1, 5, 1), initial_state=start)
        >>> h.flatten().tolist()  # Fibonacci
        [1.0, 2.0, 3.0, 5.0, 8.0]
    """
    checks.check_tensor("higher_order_scan", "x", x, "B T N")
    checks.check_tensor("higher_order_scan", "a", a, "B T N m")
    return _scan("higher_order_scan", "a", a, "x", x, a.shape[-1], initial_state, cu_seqlens, backend)


@handed_on
def gated_higher_order_scan(
    logits: Tensor,
    v: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """[a_t, g_t] = softmax(logits_t), h_t = sum_i a_{t,i} h_{t-i} + g_t v_t.

    Args:
        logits: (B, T, N, m + 1): m lags, newest first, and last the input gate.
        v: values (B, T, N).
        initial_state: (h_0, h_{-1}, ..., h_{1-m}) (S, N, m), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1. Lags never reach across.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        h (B, T, N) in the type of v, and the last m values (S, N, m), newest first, in float32 (float64 for double).

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: H-LRU, Dubinin, Orvieto, Effenberger 2026 (2602.12021).

    Example:
        >>> import torch
        >>> from seqmix.kernels import gated_higher_order_scan
        >>> h, _ = gated_higher_order_scan(torch.zeros(1, 2, 1, 2), torch.ones(1, 2, 1))
        >>> h.flatten().tolist()
        [0.5, 0.75]
    """
    checks.check_tensor("gated_higher_order_scan", "v", v, "B T N")
    checks.check_tensor("gated_higher_order_scan", "logits", logits, "B T N m+1")
    order = logits.shape[-1] - 1
    return _scan("gated_higher_order_scan", "logits", logits, "v", v, order, initial_state, cu_seqlens, backend)


def _scan(
    op: str,
    gates_name: str,
    gates: Tensor,
    values_name: str,
    values: Tensor,
    order: int,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    checks.check_shape(op, gates_name, gates, (*values.shape, gates.shape[-1]), f"as {values_name}, and its slots")
    if order < 1 or values.shape[-1] == 0:
        raise ValueError(f"{op}: {gates_name} must hold an order m >= 1 for N >= 1 channels, got {tuple(gates.shape)}")
    tensors = {gates_name: gates, values_name: values}
    result = values.dtype
    backend, (gates, values), h0 = prepare(
        op, __package__, tensors, values_name, "S N m", (values.shape[-1], order), initial_state, cu_seqlens, backend
    )
    if backend == "reference":
        h, final = over_sequences(op, getattr(reference, op), (gates, values), h0, cu_seqlens)
    else:
        h, final = _higher_order_scan(gates, values, h0, cu_seqlens, op == "gated_higher_order_scan", backend)
    return h.to(result), final


# Weights or logits `a`, with input or values `x`: torch need not know which.
_higher_order_scan = recurrent_op_of_kernels(
    "higher_order_scan",
    __package__,
    owner="higher_order_scan and gated_higher_order_scan",
    inputs="a x initial_state",
    outputs="h final",
    fakes=same("x", "initial_state"),
    kept="a x h initial_state",
    gradients="a x initial_state",
    options="bool gated",
)
