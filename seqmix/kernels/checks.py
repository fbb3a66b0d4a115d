"""Argument checks shared by ops and layers: one sentence that names the argument, the expectation and what came."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

from seqmix.kernels.transforms import is_transformed

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
DOUBLE = (torch.float64, torch.complex128)


def describe(tensor: object) -> str:
    """What came, in words, for an error message."""
    if isinstance(tensor, Tensor):
        return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)} on {tensor.device}"
    return f"{type(tensor).__name__}: {tensor!r}"


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers can be read without waiting: not on a GPU, in a graph, under `vmap` or on fake tensors."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    return not (is_fake(tensor) or is_transformed(tensor))


def check_tensor(op: str, name: str, value: object, dims: str, *, complex_ok: bool = False) -> None:
    """Raise `ValueError` unless `value` is a floating tensor with one axis for each letter of `dims`."""
    rank = len(dims.split())
    shape = f"({dims.replace(' ', ', ')})"
    if not isinstance(value, Tensor) or value.ndim != rank:
        raise ValueError(f"{op}: {name} must be a tensor of shape {shape}, got {describe(value)}")
    allowed = FLOATING + COMPLEX if complex_ok else FLOATING
    if value.dtype not in allowed:
        kind = "floating or complex" if complex_ok else "real floating"
        raise ValueError(f"{op}: {name} must be {kind}, got {describe(value)}")


def check_shape(op: str, name: str, value: Tensor, expected: Sequence[int], why: str) -> None:
    """Raise `ValueError` unless `value` has exactly the `expected` shape; `why` says what fixed it."""
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{op}: {name} must have shape {tuple(expected)} ({why}), got {tuple(value.shape)}")


def check_together(op: str, first: str, **tensors: Tensor | None) -> None:
    """Raise unless all tensors share a device and either all or none of the floating ones are double."""
    anchor = tensors[first]
    assert anchor is not None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device != anchor.device:
            raise ValueError(f"{op}: {name} must be on {anchor.device} like {first}, got {tensor.device}")
        if (tensor.dtype in DOUBLE) != (anchor.dtype in DOUBLE):
            raise ValueError(
                f"{op}: {name} cannot be mixed with {first}: double precision goes with double precision only, "
                f"got {name} {tensor.dtype} and {first} {anchor.dtype}"
            )


def check_time(op: str, length: int) -> None:
    """Raise unless there is at least one time step."""
    if length == 0:
        raise ValueError(f"{op}: needs at least one time step, got T = 0")


def check_cu_seqlens(op: str, cu_seqlens: Tensor | None, batch: int, device: torch.device) -> None:
    """Raise unless `cu_seqlens` is None or a 1-D int32 tensor on `device`, with a batch of one.

    Values are checked inside the op, on the CPU only: reading them on a GPU would synchronise.
    """
    if cu_seqlens is None:
        return
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.ndim != 1 or cu_seqlens.dtype != torch.int32:
        raise ValueError(f"{op}: cu_seqlens must be an int32 tensor of shape (S + 1,), got {describe(cu_seqlens)}")
    if cu_seqlens.numel() < 2:
        raise ValueError(f"{op}: cu_seqlens must hold S + 1 >= 2 offsets, got {cu_seqlens.numel()}")
    if cu_seqlens.device != device:
        raise ValueError(f"{op}: cu_seqlens must be on {device} like the inputs, got {cu_seqlens.device}")
    if is_transformed(cu_seqlens):
        raise NotImplementedError(f"{op}: cu_seqlens cannot differ within vmap, which has no numbers to read")
    if batch != 1:
        raise ValueError(f"{op}: packed sequences (cu_seqlens) need batch size B = 1, got B = {batch}")


def check_offsets(op: str, cu_seqlens: Tensor, length: int) -> None:
    """Raise unless the offsets start at 0, never decrease and end at `length`."""
    values = cu_seqlens.tolist()
    if values[0] != 0:
        raise ValueError(f"{op}: cu_seqlens must start at 0, got {values[0]}")
    if values[-1] != length:
        raise ValueError(f"{op}: cu_seqlens must end at T = {length}, got {values[-1]}")
    for before, after in pairwise(values):
        if after < before:
            raise ValueError(f"{op}: cu_seqlens must not decrease, got {before} followed by {after}")


def state_dtype(*tensors: Tensor) -> torch.dtype:
    """The type of the recurrent state: float32 or complex64, double for double input."""
    double = any(t.dtype in DOUBLE for t in tensors)
    if any(t.is_complex() for t in tensors):
        return torch.complex128 if double else torch.complex64
    return torch.float64 if double else torch.float32


def n_sequences(batch: int, cu_seqlens: Tensor | None) -> int:
    """How many sequences a call holds: the leading size of every state."""
    return batch if cu_seqlens is None else cu_seqlens.numel() - 1
