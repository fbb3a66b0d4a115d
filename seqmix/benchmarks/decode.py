"""`seqmix bench decode`: milliseconds a token takes with `step()`, by mixer and batch size."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from seqmix.benchmarks.layer_setup import Shape, WrongNumbers, build, one_token, row_of
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, Times, take_turns, threads

Row = dict[str, Any]


def run_decode(name: str, shape: Shape, batches: tuple[int, ...], settings: Settings, progress: Progress) -> list[Row]:
    """Rows of one mixer: one token after a prefix of `shape.length`, from the same state in every call."""
    dtype, device, counts = settings.dtype, settings.device, settings.threads
    rows = []
    for batch in batches:
        base = row_of(name, replace(shape, batch=batch), dtype)
        try:
            call = one_token(build(name, shape, dtype, device), shape.length, batch, dtype, device)
            call()
        except WrongNumbers as error:
            rows += [base | _row(count, "wrong", str(error)) for count in counts]
            continue
        except Exception as error:  # a mixer that cannot run at this type or device is a row, not the end
            rows += [base | _row(count, "error", reason_of(error)) for count in counts]
            continue
        ways: dict[bool, Callable[[], object]] = {False: call}
        if device.type == "cuda":
            try:
                ways[True] = graphed(call, device)
            except Exception as error:  # what cannot be captured is a row, and says why
                rows.append(base | _row(1, "error", f"graph: {reason_of(error)}"[:300]) | {"graph": True})
        for count in counts:
            for graph, way in ways.items():
                with threads(count):
                    progress(f"batch {batch}, {count} threads")
                    times = take_turns({"step": way}, device, settings.plan, progress)["step"]
                speed = {"tokens_per_second": 1e3 * batch / times.median_ms, "graph": graph}
                rows.append(base | _row(count, "ok", "", times) | speed)
    return rows


def graphed(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The same work recorded once as a CUDA graph and replayed: what it takes without the host."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # whatever a first call allocates or compiles must not be captured
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _row(count: int, status: str, reason: str, times: Times | None = None) -> Row:
    measured = times.record() if times else NO_TIMES
    return {"threads": count, "status": status, "reason": reason, **measured, "tokens_per_second": None}
