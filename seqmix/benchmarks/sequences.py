"""`seqmix bench sequences`: a training step of one long sequence, in one process and cut over several.

All ways take turns in the same processes, of which those that have no part in a step sleep. A step is the forward pass,
the loss, the backward pass, and the sum of the gradients over the ranks; each process has one thread, so a rank stands
for a device. Numbers are held against one process on a short sequence before anything is timed. Beside the time of the
clock stands that of the processor, of the rank that takes most, in which neither waiting nor other programs count.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy

from seqmix.benchmarks import processes
from seqmix.benchmarks.layer_setup import ARGUMENTS
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.timing import NO_TIMES, summary
from seqmix.distributed import sequence_parallel, split_sequences
from seqmix.distributed.two_pass import Scanning, ScanTwice
from seqmix.models import SequenceModel

__all__ = ["ONE", "REHEARSAL", "Case", "run_sequences", "schedule", "ways"]

Row = dict[str, Any]

ONE = "one process"
REHEARSAL = "one process, scans of a middle rank"
_SHORT = 64  # tokens a rank of the sequence whose numbers are checked
_ALLOWED = 1e-3  # of the largest gradient and of the loss, in float32 and sums of another order


@dataclass(frozen=True)
class Case:
    """A model of `layers` layers and the one sequence that it is trained on."""

    mixer: str
    length: int
    layers: int = 4
    d_model: int = 32
    vocab_size: int = 256

    def model(self) -> SequenceModel:
        torch.manual_seed(0)
        spec = {"name": self.mixer, **ARGUMENTS.get(self.mixer, {})}
        return SequenceModel(spec, self.vocab_size, self.d_model, self.layers)

    def tokens(self, length: int) -> Tensor:
        return torch.randint(self.vocab_size, (1, length + 1), generator=torch.Generator().manual_seed(1))


class Rehearsal(ScanTwice):
    """What scans take on a rank between others, without these: the second pass, and the product where there are more
    than two."""

    def __init__(self, alone: dist.ProcessGroup, ranks: int) -> None:
        super().__init__(alone)
        self.rank, self.ranks = 1, ranks


def ways(mixer: SequenceModel, counts: Sequence[int]) -> list[tuple[str, int]]:
    """Forms and numbers of ranks that there are for a model: nothing scans twice where no layer is all scans."""
    found = [(ONE, 1)]
    scans = any(each.only_scans for each in mixer.mixers)
    for count in counts:
        found += [("two-pass", count)] * scans + [("pipeline", count)]
    grows = any(each.state_size(9) > each.state_size(8) for each in mixer.mixers)  # keys, of which ranks have no part
    return found + [(REHEARSAL, count) for count in counts if scans and not grows]


def schedule(form: str, ranks: int, layers: int, extra: float | None) -> float | None:
    """How many times as fast as one process a form is when messages cost nothing; see `docs/distributed.md`.

    `extra` is the time of a layer that scans as a middle rank does, over that of one that scans once; 0 stands for keys
    that are gathered, of which the last rank has most to do.
    """
    if form == "pipeline":
        return ranks * layers / (layers + ranks - 1)
    if form != "two-pass" or extra is None:
        return None
    return ranks / extra if extra else ranks**2 / (2 * ranks - 1)


def run_sequences(
    cases: Sequence[Case], counts: Sequence[int], repeats: int, progress: Callable[[str], None] = print
) -> list[Row]:
    """Rows of all cases, each with all its ways; `counts` are numbers of processes beside one.

    Raises:
        RuntimeError: a process ended without an answer.
    """
    most = max(counts)
    rows: list[Row] = []
    for case in cases:  # new processes for each, so that nothing of one stays for the next
        progress(f"{case.mixer}, T = {case.length:,}")
        rows += processes.spawn(_work, most, most, case, tuple(counts), repeats)
    return rows


def _work(rank: int, most: int, case: Case, counts: tuple[int, ...], repeats: int) -> list[Row]:
    torch.set_flush_denormal(True)  # for all alike, as two passes have it
    groups = {count: dist.new_group(range(count)) for count in sorted({1, *counts})}
    plain, calls, wrong = case.model(), {}, {}
    for way in ways(plain, counts):
        if rank < way[1] and (way[0] != REHEARSAL or rank == 0):
            calls[way] = _step(case, plain, *way, groups[1 if way[0] == REHEARSAL else way[1]])
    for way in ways(plain, counts):
        wrong[way] = _wrong(case, calls, way)
        dist.barrier()
    found: dict[tuple[str, int], list[Turn]] = {way: [] for way in calls}
    order = [way for way in ways(plain, counts) if wrong[way] is None]
    for turn in range(repeats):
        for way in order[turn % len(order) :] + order[: turn % len(order)]:
            dist.barrier()
            if way in calls:
                found[way].append(_measured(calls[way], case.length, groups[way[1]], alone=way[0] == REHEARSAL))
    gathered: list[Any] = [None] * most
    dist.all_gather_object(gathered, found)
    return _rows(case, ways(plain, counts), gathered, wrong)


Turn = tuple[float, float, int | None]  # seconds by the clock, of the processor, bytes
Call = Callable[[int], tuple[Tensor, list[Tensor]]]  # for so many tokens the loss, and gradients, summed over the ranks


def _step(case: Case, plain: SequenceModel, form: str, ranks: int, group: dist.ProcessGroup) -> Call:
    model = copy.deepcopy(plain)
    if form == REHEARSAL:
        for mixer in model.mixers:
            mixer.forward = Scanning(mixer, Rehearsal(group, ranks))  # type: ignore[method-assign]
    elif form != ONE:
        sequence_parallel(model, group, form)
    alone = form in (ONE, REHEARSAL)

    def step(length: int) -> tuple[Tensor, list[Tensor]]:
        tokens = case.tokens(length)
        x, targets = tokens[:, :-1], tokens[:, 1:]
        if not alone:
            x, targets = split_sequences(x, group)[0], split_sequences(targets, group)[0]
        logits, _ = model(x)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / length
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        total = loss.detach()
        model.zero_grad(set_to_none=True)
        if not alone:
            for value in (*gradients, total):
                dist.all_reduce(value, group=group)
        return total, gradients

    return step


def _wrong(case: Case, calls: dict[tuple[str, int], Call], way: tuple[str, int]) -> str | None:
    """What is wrong with a way's numbers, by rank 0; all calls are warm afterwards."""
    said: list[str | None] = [None]
    if way in calls:
        length = _SHORT * max(ranks for _, ranks in calls)
        try:
            loss, gradients = calls[way](length)
            if way[0] != REHEARSAL and dist.get_rank() == 0:
                expected, truth = calls[ONE, 1](length)
                said = [_difference([loss, *gradients], [expected, *truth])]
        except Exception as error:  # the others would wait for this rank
            if way[1] > 1 and way[0] != REHEARSAL:
                raise
            said = [reason_of(error)]
    dist.broadcast_object_list(said, src=0)
    return said[0]


def _difference(found: list[Tensor], expected: list[Tensor]) -> str | None:
    scale = max(float(each.abs().max()) for each in expected)
    far = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / scale
    return None if far <= _ALLOWED else f"loss or gradients are {far:.1e} of the largest off one process's"


def _measured(call: Call, length: int, group: dist.ProcessGroup, *, alone: bool) -> Turn:
    before = processes.watch()
    if not alone:
        dist.barrier(group)
    began, worked = time.perf_counter(), time.process_time()
    call(length)
    worked = time.process_time() - worked
    if not alone:
        dist.barrier(group)
    return time.perf_counter() - began, worked, processes.peak_since(before)


def _rows(
    case: Case,
    order: list[tuple[str, int]],
    gathered: list[dict[tuple[str, int], list[Turn]]],
    wrong: dict[tuple[str, int], str | None],
) -> list[Row]:
    """A row for each way; times and memory are of the rank that takes most."""
    rows: dict[tuple[str, int], Row] = {}
    for way in order:
        each = [found[way] for found in gathered if found.get(way)]
        row = {
            "mixer": case.mixer,
            "arguments": ARGUMENTS.get(case.mixer, {}),
            "sizes": {"T": case.length, "layers": case.layers, "d_model": case.d_model, "B": 1},
            "form": way[0],
            "ranks": way[1],
            "status": "wrong" if wrong[way] else "ok",
            "reason": wrong[way] or "",
            **NO_TIMES,
            "processor_ms": None,
            "tokens_per_second": None,
            "peak_bytes": None,
        }
        if each:
            times = summary([1e3 * max(turn[0] for turn in turns) for turns in zip(*each, strict=True)])
            row |= times.record() | {"tokens_per_second": 1e3 * case.length / times.median_ms}
            row["processor_ms"] = max(1e3 * median(turn[1] for turn in turns) for turns in each)
            peaks = [[peak for *_, peak in turns if peak is not None] for turns in each]
            if all(peaks):
                row["peak_bytes"] = max(median(turns) for turns in peaks)
        rows[way] = row
    one = rows[ONE, 1]
    for (form, ranks), row in rows.items():
        again = rows.get((REHEARSAL, ranks), {}).get("processor_ms")
        extra = again / one["processor_ms"] if again and one["processor_ms"] else None
        if (REHEARSAL, ranks) not in rows:
            extra = 0.0
        row["schedule"] = schedule(form, ranks, case.layers, extra)
        for name, of in (("times_one", "median_ms"), ("processor_times_one", "processor_ms")):
            row[name] = one[of] / row[of] if row[of] and one[of] else None
        measured = row["peak_bytes"] is not None and one["peak_bytes"]
        row["memory_share"] = row["peak_bytes"] / one["peak_bytes"] if measured else None
    return list(rows.values())
