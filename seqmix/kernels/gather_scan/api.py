"""`gather_scan`: the recurrence under PD-SSM, whose tokens send every state somewhere."""

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.gather_scan import reference

OP = "gather_scan"
# A Triton program compares every state with every other in registers.
MOST_STATES = 256


def gather_scan(
    index: Tensor,
    d: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t[i] = sum over j with index_t[j] = i of d_t[j] h_{t-1}[j], + x_t[i].

    In matrices h_t = P_t diag(d_t) h_{t-1} + x_t, where column j of P_t is one at row index_t[j] and zero elsewhere: a
    token sends every state somewhere, and states that meet are summed. Words compose as functions do, so that N numbers
    are any automaton of N states. Costs N a step as `diagonal_scan` does, which is the case index_t[j] = j.

    Args:
        index: where each state goes (B, T, N), integers in [0, N); they have no gradient.
        d: factors (B, T, N); real or complex.
        x: input (B, T, N); real or complex. A real tensor beside a complex one receives the real part of its gradient.
        initial_state: h_0 (S, N), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`, which takes up to 256 states.

    Returns:
        h (B, T, N) in the type of x (complex if d is), and the final state (S, N) in float32 or complex64, double for
        double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, offsets that are not valid, or, on a CPU, an index out
            of range; on a GPU, where it is not looked at, such an index sends its state nowhere.

    Source: Terzic et al. 2025 (2509.22284), section 3.

    Example:
        >>> import torch
        >>> from seqmix.kernels import gather_scan
        >>> swap, one = torch.tensor([1, 0]).expand(1, 3, 2), torch.ones(1, 3, 2)
        >>> h, _ = gather_scan(swap, one, 0 * one, initial_state=torch.tensor([[1.0, 2.0]]))
        >>> h[0].tolist()
        [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]
    """
    for name, tensor in (("d", d), ("x", x)):
        checks.check_tensor(OP, name, tensor, "B T N", complex_ok=True)
    states = x.shape[-1]
    if states == 0:
        raise ValueError(f"{OP}: x must hold at least one state, got shape {tuple(x.shape)}")
    checks.check_shape(OP, "d", d, x.shape, "as x")
    if not isinstance(index, Tensor) or index.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{OP}: index must be an int32 or int64 tensor (B, T, N), got {checks.describe(index)}")
    checks.check_shape(OP, "index", index, x.shape, "as x")
    if index.device != x.device:
        raise ValueError(f"{OP}: index must be on {x.device} like x, got {index.device}")
    values_dtype = x.dtype
    backend, (d, x), h0 = prepare(
        OP, __package__, {"d": d, "x": x}, "x", "S N", (states,), initial_state, cu_seqlens, backend, complex_ok=True
    )
    if backend == "triton" and states > MOST_STATES:
        raise ValueError(f"{OP}: x must hold at most {MOST_STATES} states for backend 'triton', got {states}")
    if h0.is_complex():  # a real tensor beside a complex one
        x, d = x.to(h0.dtype), d.to(h0.dtype)
    if backend == "reference":
        if checks.has_values(index):
            check_index(index)
        h, final = over_sequences(OP, reference.gather_scan, (index, d, x), h0, cu_seqlens)
    else:
        h, final = _gather_scan(index.to(torch.int32), d, x, h0, cu_seqlens, backend)
    return (h if h.is_complex() else h.to(values_dtype)), final


def check_index(index: Tensor) -> None:
    """Raise unless every number is that of a state; reads them."""
    if index.numel():
        least, most = (int(bound) for bound in index.aminmax())
        if least < 0 or most >= index.shape[-1]:
            wrong = least if least < 0 else most
            raise ValueError(f"{OP}: index must be in [0, N = {index.shape[-1]}), got {wrong}")


_gather_scan = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="index d x initial_state",
    fixed="index",
    values="x",
    outputs="h final",
    fakes=same("x", "initial_state"),
    kept="index d h initial_state",
    gradients="d h initial_state",
)
