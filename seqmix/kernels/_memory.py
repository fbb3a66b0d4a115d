"""Fresh memory for the outputs of CPU kernels.

A large tensor is mapped anew at every call, and touching it for the first time costs a page fault for every 4 KiB:
as long as the scan itself. Where the kernel allows it, huge pages (2 MiB) are asked for, which halves the time of
large scans. It is a hint: nothing depends on it.
"""

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LARGE = 8 << 20  # bytes; smaller tensors come from memory that the allocator already has


@cache
def _madvise() -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


def empty_like(tensor: Tensor) -> Tensor:
    """Contiguous uninitialised memory of `tensor`'s shape and type, in huge pages where that pays."""
    fresh = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    advise = _madvise() if fresh.nbytes >= _LARGE else None
    if advise is not None:
        start = -(-fresh.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        advise(start, fresh.data_ptr() + fresh.nbytes - start, mmap.MADV_HUGEPAGE)
    return fresh
