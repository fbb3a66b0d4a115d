"""`slstm`: the loop of the sLSTM, whose gates see the state of their own head."""

from functools import partial

import torch
from torch import Tensor

from seqmix.kernels._backend import choose_backend, preferred
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.slstm import reference

__all__ = ["slstm"]

OP = "sLSTM"
MOST_UNITS = 128  # of a head, in Triton kernels, whose registers hold tiles of units by units


def slstm(p: Tensor, R: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """h (B, T, H, N) and the last state (S, 4, H, N) for p (B, T, H, 4, N), R (H, N, 4, N) and the state, of one type.

    Rows of a state are h, c, n, m; gates are i, f, z, o. `NotImplementedError` for second derivatives and forward-mode
    AD, but under the reference.
    """
    backend = choose_backend(OP, __package__, None, p)
    if backend == "triton" and p.shape[-1] > MOST_UNITS:
        if preferred() == "triton":
            raise NotImplementedError(f"{OP}: Triton kernels take heads of up to {MOST_UNITS} units, got {p.shape[-1]}")
        backend = "reference"
    if backend == "reference":
        return over_sequences(OP, partial(reference.slstm, R=R), (p,), state, cu_seqlens)
    h, final, *_ = _slstm(p, R, state, cu_seqlens, backend)
    return h, final


# What the backward pass needs: c, n and m after every step, and the gates of all steps.
_slstm = recurrent_op_of_kernels(
    "slstm",
    __package__,
    owner=OP,
    inputs="p R state",
    outputs="h final",
    extra="cells gates",
    fakes=lambda given: [
        torch.empty_like(given["p"][..., 0, :], memory_format=torch.contiguous_format),
        *same("state")(given),
        given["p"].new_empty(*given["p"].shape[:3], 3, given["p"].shape[-1]),
        *same("p")(given),
    ],
    kept="R state h cells gates",
    gradients="gates R state",
)
