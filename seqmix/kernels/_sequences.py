"""Batches and packed sequences in one form: rows of a flat (L, ...) tensor with a start and an end each."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from seqmix.kernels.checks import check_offsets


def offsets(op: str, x: Tensor, cu_seqlens: Tensor | None) -> np.ndarray:
    """Row offsets (S + 1,) int64 of the sequences in `x` (B, T, ...) once its first two axes are flattened."""
    batch, length = x.shape[:2]
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * length
    check_offsets(op, cu_seqlens, length)
    return cu_seqlens.numpy().astype(np.int64)


def rows(x: Tensor) -> np.ndarray:
    """`x` (B, T, ...) as a contiguous array of rows (B * T, ...), without a copy where it already is one."""
    return x.detach().contiguous().flatten(0, 1).numpy()


class _Memory:
    """What NumPy asks of an object whose memory it is to look at, and that it keeps."""

    def __init__(self, x: Tensor) -> None:
        self.tensor = x
        kind = np.dtype(str(x.dtype).removeprefix("torch.")).str
        self.__array_interface__ = {
            "data": (x.data_ptr(), False),
            "shape": tuple(x.shape),
            "typestr": kind,
            "version": 3,
        }


def array(x: Tensor) -> np.ndarray:
    """`x` as a contiguous array, without a copy where it already is one.

    What torch has once handed to NumPy can never be resized, which sharded parameters are after every use.
    """
    found = x.detach().contiguous()
    if (x.requires_grad or isinstance(x, nn.Parameter)) and found.numel():
        return np.asarray(_Memory(found))
    return found.numpy()


def over_sequences(
    op: str,
    recurrence: Callable[..., tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, ...],
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run a reference `recurrence(*inputs, initial_state)` on a batch, or on each packed sequence in turn.

    `inputs` are (B, T, ...), `initial_state` is (S, ...). An empty sequence returns its initial state. Runs outside
    autocast, which would take products of float32 states and gates to half precision.
    """
    with torch.autocast(initial_state.device.type, enabled=False):
        return _over_sequences(op, recurrence, inputs, initial_state, cu_seqlens)


def _over_sequences(
    op: str,
    recurrence: Callable[..., tuple[Tensor, Tensor]],
    inputs: tuple[Tensor, ...],
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if cu_seqlens is None:
        return recurrence(*inputs, initial_state)
    check_offsets(op, cu_seqlens, inputs[0].shape[1])
    bounds = cu_seqlens.tolist()
    outputs, finals = [], []
    for s, (first, last) in enumerate(pairwise(bounds)):
        state = initial_state[s : s + 1]
        if last > first:
            output, state = recurrence(*(x[:, first:last] for x in inputs), state)
            outputs.append(output)
        finals.append(state)
    return torch.cat(outputs, dim=1), torch.cat(finals)
