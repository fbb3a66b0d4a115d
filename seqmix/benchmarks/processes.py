"""Processes that compute together on one machine, and how much memory each has taken."""

import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["group", "peak_since", "spawn", "watch"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def group(rank: int, ranks: int, file: str) -> Iterator[None]:
    """A gloo group of processes that meet in a file, over the loopback, whatever the machine is called."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
    yield
    dist.destroy_process_group()
    # A group that a cycle of objects still holds keeps its threads, and a thread of gloo that drops a tensor while the
    # interpreter ends aborts the process: one of twenty does.
    gc.collect()


def spawn(work: Callable[..., Any], ranks: int, *args: Any) -> Any:
    """What `work(rank, *args)` returns on rank 0, of `ranks` processes in one group.

    Args:
        work: a function of a module; what it returns on rank 0 is written as JSON.

    Raises:
        torch.multiprocessing.ProcessRaisedException: `work` raised an error on a rank.
        torch.multiprocessing.ProcessExitedException: a process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="seqmix-") as folder:
        torch.multiprocessing.spawn(_process, (ranks, folder, work, args), nprocs=ranks)
        return json.loads(Path(folder, "answer").read_text())


def _process(rank: int, ranks: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    with group(rank, ranks, f"{folder}/store"):
        torch.set_num_threads(1)
        answer = work(rank, *args)
        if rank == 0:
            Path(folder, "answer").write_text(json.dumps(answer))


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
