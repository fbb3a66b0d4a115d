"""Processes that compute together on one machine, and how much memory each has taken."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch.distributed as dist

__all__ = ["join", "peak_since", "watch"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def join(rank: int, ranks: int, file: str) -> None:
    """Make a gloo group of processes that meet in a file, over the loopback, whatever the machine is called."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)


def watch() -> int | None:
    """Bytes that are resident now, from where `peak_since` counts; None where no system says so.

    What was freed goes back to the system before, so that it is not found again for nothing.
    """
    gc.collect()
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    try:
        _RESET.write_text("5")  # the most that was resident is what is resident now (Linux, proc(5))
    except OSError:
        return None
    return _status("VmRSS")


def peak_since(before: int | None) -> int | None:
    """The most bytes beyond `before` that were resident since `watch`."""
    return None if before is None else max(0, _status("VmHWM") - before)


def _status(field: str) -> int:
    return next(1024 * int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field))
