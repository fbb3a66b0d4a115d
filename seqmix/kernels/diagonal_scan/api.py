"""`diagonal_scan`: the recurrence under LRU, S4D, RG-LRU and every gated linear RNN with a diagonal transition."""

from torch import Tensor

from seqmix.kernels import _chunked, checks
from seqmix.kernels._backend import in_chunks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.diagonal_scan import reference

OP = "diagonal_scan"


@handed_on
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
    backend, (a, x), h0 = prepare(
        OP, __package__, {"a": a, "x": x}, "x", "S D", (channels,), initial_state, cu_seqlens, backend, complex_ok=True
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


_diagonal_scan = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="a x initial_state",
    values="x",
    outputs="h final",
    fakes=same("x", "initial_state"),
    kept="a h initial_state",
    gradients="a h initial_state",
)
