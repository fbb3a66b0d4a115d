"""How time is taken: contestants in turns in one process, in samples long enough for the clock, on n threads."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import torch

Call = Callable[[], object]
Progress = Callable[[str], None]
Clock = Callable[[Call, int], float]  # seconds that so many calls take

_FLUSHED = 2**28  # bytes, more than the second-level cache of any GPU


@dataclass(frozen=True)
class Plan:
    """How much is measured: `repeats` samples of at least `sample_s` each; one that has had `budget_s` sits out."""

    repeats: int = 9
    sample_s: float = 0.05
    budget_s: float = 6.0


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call over all samples."""

    min_ms: float
    median_ms: float
    q20_ms: float
    q80_ms: float
    samples: int
    calls_per_sample: int

    def record(self) -> dict[str, Any]:
        """The fields of a result's row."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """What a run of the benchmark was asked for."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    threads: tuple[int, ...] = (1, 2)
    quick: bool = False
    compiled: bool = False
    sweep: str | None = None
    plan: Plan = field(default_factory=Plan)


NO_TIMES = dict.fromkeys(Times.__dataclass_fields__)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with `count` torch threads, which the CPU kernels follow."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prefixed(progress: Progress, prefix: str) -> Progress:
    """`progress`, every text with this in front of it."""
    return lambda text: progress(prefix + text)


def synchronize(device: torch.device) -> None:
    """Wait until everything started on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall_clock(device: torch.device) -> Clock:
    """From the first call to the end of the last, what the host does in between included."""
    return _clock_of(time.perf_counter, device)


def processor_clock(device: torch.device) -> Clock:
    """Seconds of the processor that calls take, of all threads: what other programs take does not count."""
    return _clock_of(time.process_time, device)


def _clock_of(now: Callable[[], float], device: torch.device) -> Clock:
    def sample(call: Call, count: int) -> float:
        synchronize(device)
        start = now()
        for _ in range(count):
            call()
        synchronize(device)
        return now() - start

    return sample


def kernel_clock(device: torch.device) -> Clock:
    """What the device itself takes: on a GPU between events around each call, its inputs out of the cache before."""
    if device.type != "cuda":
        return wall_clock(device)
    cache = torch.empty(_FLUSHED, dtype=torch.int8, device=device)

    def sample(call: Call, count: int) -> float:
        spans = []
        for _ in range(count):
            cache.zero_()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            spans.append((begin, end))
        synchronize(device)
        return 1e-3 * sum(begin.elapsed_time(end) for begin, end in spans)

    return sample


def take_turns(
    calls: dict[str, Call],
    device: torch.device,
    plan: Plan,
    progress: Progress,
    clock: Callable[[torch.device], Clock] = wall_clock,
) -> dict[str, Times]:
    """Time every call `plan.repeats` times, one after the other in rounds that start at another one each.

    What disturbs the machine for a while then disturbs all of them. A warm-up call sets how many calls make a sample.
    """
    sample, counts = clock(device), {}
    for name, call in calls.items():
        progress(f"warm-up of {name}")
        once = sample(call, 1)
        if once < 10 * plan.sample_s:  # a first call may be slow for reasons of its own
            once = sample(call, 1)
        counts[name] = max(1, min(10_000, ceil(plan.sample_s / max(once, 1e-7))))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    order = list(calls)
    gc.collect()
    gc.disable()
    try:
        for turn in range(plan.repeats):
            progress(f"round {turn + 1} of {plan.repeats}")
            start = turn % len(order)
            for name in order[start:] + order[:start]:
                if spent[name] > plan.budget_s and len(taken[name]) >= min(3, plan.repeats):
                    continue
                elapsed = sample(calls[name], counts[name])
                spent[name] += elapsed
                taken[name].append(1e3 * elapsed / counts[name])
    finally:
        gc.enable()
    return {name: summary(values, counts[name]) for name, values in taken.items()}


def summary(milliseconds: list[float], calls: int = 1) -> Times:
    """Minimum, median and the 20 % and 80 % quantiles."""
    if len(milliseconds) == 1:
        low = high = milliseconds[0]
    else:
        low, *_, high = statistics.quantiles(milliseconds, n=5, method="inclusive")
    middle = statistics.median(milliseconds)
    return Times(min(milliseconds), middle, low, high, len(milliseconds), calls)
