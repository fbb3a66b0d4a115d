"""`diagonal_scan`: the recurrence under LRU, S4D, RG-LRU and every gated linear RNN with a diagonal transition."""

import torch
from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels import _chunked
from seqmix.kernels._backend import in_chunks, load_kernels
from seqmix.kernels._operator import operator
from seqmix.kernels._prepare import prepare
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.diagonal_scan import reference

OP = "diagonal_scan"


def diagonal_scan(
    a: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + x_t, for every channel on its own.

    Args:
        a: decay (B, T, D), or (D,) for a time-invariant one; real or complex.
        x: input (B, T, D); real or complex. A real tensor beside a complex one receives the real part of its gradient.
        initial_state: h_0 (S, D), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        h (B, T, D) in the type of x (complex if a is), and the final state (S, D) in float32 or complex64,
        double for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Orvieto et al. 2023 (2303.06349), eq. 1; the backward pass is the same scan run in reverse.

    Example:
        >>> import torch
        >>> from seqmix.kernels import diagonal_scan
        >>> h, final = diagonal_scan(torch.tensor([0.5]), torch.ones(1, 3, 1))
        >>> h.flatten().tolist()
        [1.0, 1.5, 1.75]
    """
    checks.check_tensor(OP, "x", x, "B T D", complex_ok=True)
    values_dtype = x.dtype
    checks.check_tensor(OP, "a", a, "D" if isinstance(a, Tensor) and a.ndim == 1 else "B T D", complex_ok=True)
    channels = x.shape[-1]
    if channels == 0:
        raise ValueError(f"{OP}: x must hold at least one channel, got shape {tuple(x.shape)}")
    checks.check_shape(OP, "a", a, (channels,) if a.ndim == 1 else x.shape, "as x")
    backend, (x, a), h0 = prepare(
        OP, __package__, {"x": x, "a": a}, "S D", (channels,), initial_state, cu_seqlens, backend, complex_ok=True
    )
    if backend == "reference":
        inputs = (x,) if a.ndim == 1 else (a, x)
        scan = _chunked.diagonal_scan if in_chunks(__package__, x.device) else reference.diagonal_scan
        step = scan if a.ndim == 3 else (lambda x, h: scan(a, x, h))
        h, final = over_sequences(OP, step, inputs, h0, cu_seqlens)
    else:
        if h0.is_complex():  # a real tensor beside a complex one
            x, a = x.to(h0.dtype), a.to(h0.dtype)
        h, final = _diagonal_scan(a, x, h0, cu_seqlens, backend)
    return (h if h.is_complex() else h.to(values_dtype)), final


@operator("diagonal_scan", OP, values=1)
def _diagonal_scan(
    a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    return load_kernels(__package__, backend).forward(a, x, initial_state, cu_seqlens)


@operator("diagonal_scan_backward", OP)
def _diagonal_scan_backward(
    dh: Tensor,
    dfinal: Tensor,
    a: Tensor,
    h: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return load_kernels(__package__, backend).backward(dh, dfinal, a, h, initial_state, cu_seqlens)


@_diagonal_scan.register_fake
def _(a, x, initial_state, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(initial_state, memory_format=torch.contiguous_format),
    )


@_diagonal_scan_backward.register_fake
def _(dh, dfinal, a, h, initial_state, cu_seqlens, backend):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, h, initial_state))


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    a, _, initial_state, cu_seqlens, ctx.backend = inputs
    ctx.save_for_backward(a, output[0], initial_state, cu_seqlens)


def _backward(ctx, dh, dfinal):  # type: ignore[no-untyped-def]
    a, h, initial_state, cu_seqlens = ctx.saved_tensors
    da, dx, dinitial = _diagonal_scan_backward(dh, dfinal, a, h, initial_state, cu_seqlens, ctx.backend)
    return da, dx, dinitial, None, None


_diagonal_scan.register_autograd(_backward, setup_context=_setup_context)
_diagonal_scan_backward.once()
