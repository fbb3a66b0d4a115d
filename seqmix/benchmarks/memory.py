"""Where results are written: the C library maps fresh pages for every large tensor, unless it is told to keep them.

And how much memory a call takes.
"""

import ctypes
import os
import sys
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or a profile prints two lines

MODES = ("system", "kept")

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def use(mode: str) -> None:
    """`"kept"`: freed memory stays with the process and is reused, for all contestants alike; not undone.

    Mapping and clearing pages takes as long as the arithmetic of an elementwise op, or longer. With `"system"` times
    are what users get by default; with `"kept"` they are those of the code alone.
    """
    if mode not in MODES:
        raise ValueError(f"--memory must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "system":
        return
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        raise ValueError(f"--memory kept needs the GNU C library, got {sys.platform}")
    largest = 2**31 - 1
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, largest), (_TOP_PAD, 2**28)):
        library.mallopt(parameter, value)


def watch(device: torch.device) -> int | None:
    """Bytes of a GPU that are taken now, from where `peak_since` counts; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_since(before: int | None, device: torch.device) -> int | None:
    """The most bytes beyond `before` that were taken since `watch`."""
    return None if before is None else torch.cuda.max_memory_allocated(device) - before


def most_at_once(call: Callable[[], object]) -> int:
    """The most bytes of tensors on the CPU that a call has at a time, beyond those at its beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == "[memory]"]
    taken = largest = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        largest = max(largest, taken)
    return largest
