"""Runs a compiled CPU kernel over a range of work items on as many threads as torch uses.

The kernels release the GIL and are plain serial loops over `[first, last)`. That leaves Numba's own threading
layer out: it may not be entered from two threads at once, dies in forked children, and takes seconds to compile.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# Below this many scalar operations a second thread costs more (about 30 us) than it saves.
_WORTH_A_THREAD = 65_536

_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    # Threads do not survive a fork: the child starts its own.
    global _pool, _pool_size
    _pool, _pool_size = None, 0


# Windows has no fork, and no way to be told of one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _pool_of(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size < size:
        _pool = ThreadPoolExecutor(size, thread_name_prefix="seqmix")
        _pool_size = size
    return _pool


def run(kernel: Callable[..., None], items: int, work: int, *args: Any) -> None:
    """Call `kernel(first, last, *args)` so that `[0, items)` is covered; `work` is the cost of all, in scalar steps."""
    threads = min(torch.get_num_threads(), items, max(1, work // _WORTH_A_THREAD))
    if threads <= 1:
        kernel(0, items, *args)
        return
    bounds = [items * i // threads for i in range(threads + 1)]
    pool = _pool_of(threads - 1)
    others = [pool.submit(kernel, bounds[i], bounds[i + 1], *args) for i in range(1, threads)]
    try:
        kernel(bounds[0], bounds[1], *args)
    finally:
        # Every part is waited for, so no thread still writes into a buffer when an error travels up.
        failures = [other.exception() for other in others]
    for failure in failures:
        if failure is not None:
            raise failure


def channel_chunks(sequences: int, channels: int, multiple: int = 16) -> tuple[int, int]:
    """(chunks, width) to cut `channels` into, so that sequences times chunks keeps every thread busy.

    Whole rows are best for the memory system; they are cut only when there are fewer sequences than threads.
    """
    threads = torch.get_num_threads()
    wanted = 1 if sequences >= threads else -(-threads // max(1, sequences))
    width = -(-channels // wanted)
    width = min(channels, -(-width // multiple) * multiple)
    return -(-channels // width), width
