"""`higher_order_scan` and its gated form: linear difference equations of order m, one per channel (H-LRU)."""

from collections.abc import Callable

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._gated_scan import gated_op, gated_scan
from seqmix.kernels._handing import handed_on
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
    tensors = {"a": a, "x": x}
    return _scan("higher_order_scan", reference.higher_order_scan, tensors, 0, initial_state, cu_seqlens, backend)


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
    tensors = {"logits": logits, "v": v}
    op = "gated_higher_order_scan"
    return _scan(op, reference.gated_higher_order_scan, tensors, 1, initial_state, cu_seqlens, backend)


def _scan(
    op: str, reference: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor], gates: int,
    initial_state: Tensor | None, cu_seqlens: Tensor | None, backend: str | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (name, slots), (values_name, values) = tensors.items()
    order = slots.shape[-1] - gates
    checks.check_shape(op, name, slots, (*values.shape, slots.shape[-1]), f"as {values_name}, and its slots")
    if order < 1 or values.shape[-1] == 0:
        raise ValueError(f"{op}: {name} must hold an order m >= 1 for N >= 1 channels, got {tuple(slots.shape)}")
    shape = (values.shape[-1], order)
    return gated_scan(
        op, __package__, reference, _higher_order_scan, tensors, "S N m", shape, initial_state, cu_seqlens, backend
    )


_higher_order_scan = gated_op("higher_order_scan", __package__)
