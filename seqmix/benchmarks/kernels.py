"""`seqmix bench kernels`: every contestant of every case, checked, then timed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import seqmix.kernels
from seqmix.benchmarks.cases import Case, Inputs, Sizes
from seqmix.benchmarks.contestants import Contestant, contestants_for
from seqmix.benchmarks.gate import Gate, Verdict, enter, leaves_of, upstreams
from seqmix.benchmarks.sweeps import standard_sizes
from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, Times, kernel_clock, prefixed, take_turns, threads

FORWARD, BOTH = "forward", "forward+backward"
Row = dict[str, Any]


def run_case(case: Case, settings: Settings, progress: Progress, sizes: Sizes | None = None) -> list[Row]:
    """Rows for every contestant, pass and thread count of one case at `sizes`, its standard ones if None."""
    sizes = standard_sizes(case, settings.device, settings.quick) if sizes is None else sizes
    base: Row = {
        "case": case.name,
        "sizes": sizes,
        "sweep": settings.sweep,
        "dtype": str(torch.complex64 if case.is_complex else settings.dtype).removeprefix("torch."),
    }
    if not hasattr(seqmix.kernels, case.op):
        return [base | _row("seqmix", "seqmix", "missing", f"seqmix.kernels has no {case.op}")]
    if case.is_complex and settings.dtype in (torch.float16, torch.bfloat16):
        return [base | _row("seqmix", "seqmix", "skipped", "complex numbers have no low-precision type")]
    if case.is_complex and settings.dtype == torch.float64:
        base["dtype"] = "complex128"
    contestants = contestants_for(case, settings.device, compiled=settings.compiled)
    progress("truth in float64")
    inputs = case.inputs(sizes, settings.dtype, settings.device)
    gate = Gate(case, sizes, inputs, settings.dtype)
    base["checked_shape"] = list(gate.checked_shape)
    rows = []
    for count in settings.threads:
        with threads(count):
            told = prefixed(progress, f"{count} thread{'s' * (count > 1)}: ")
            for row in _run(case, inputs, contestants, gate, settings, told):
                rows.append(base | row | {"threads": count})
    return rows


def _run(
    case: Case, inputs: Inputs, contestants: list[Contestant], gate: Gate, settings: Settings, progress: Progress
) -> list[Row]:
    verdicts: dict[str, Verdict | Exception] = {}
    for contestant in contestants:
        if contestant.role == "yardstick":
            continue
        progress(f"checking {contestant.name}")
        try:
            verdicts[contestant.name] = gate.check(contestant)
        except Exception as error:  # whatever another library raises is its row's reason
            verdicts[contestant.name] = error
    rows = []
    for kind in (FORWARD, BOTH):
        calls, refused = {}, []
        for contestant in contestants:
            if kind == BOTH and contestant.forward_only:
                continue
            verdict = verdicts.get(contestant.name)
            if verdict is None or (isinstance(verdict, Verdict) and verdict.passed):
                calls[contestant.name] = _call(case, contestant, inputs, kind)
            else:
                status = "wrong" if isinstance(verdict, Verdict) else "error"
                reason = str(verdict) if status == "wrong" else f"{type(verdict).__name__}: {verdict}"
                refused.append(_row(contestant.name, contestant.role, status, reason[:300], kind, verdict=verdict))
        moved = case.moved_bytes(inputs, gate.upstream, backward=kind == BOTH)
        calls |= _copies(moved, settings.device)
        told = prefixed(progress, f"{kind}, ")
        times = take_turns(calls, settings.device, settings.plan, told, kernel_clock)
        roles = {contestant.name: contestant.role for contestant in contestants}
        for name, taken in times.items():
            row = _row(name, roles.get(name, "yardstick"), "ok", "", kind, taken, verdicts.get(name))
            row |= {"moved_bytes": moved, "copy_fraction": times["copy"].median_ms / taken.median_ms}
            row["times_seqmix"] = taken.median_ms / times["seqmix"].median_ms if "seqmix" in times else None
            rows.append(row)
        rows += refused
    return rows


def _call(case: Case, contestant: Contestant, inputs: Inputs, kind: str) -> Callable[[], object]:
    own = enter(case, contestant, inputs)
    if kind == FORWARD:

        @torch.no_grad()
        def forward() -> object:
            return contestant.call(**own)

        return forward
    leaves = list(leaves_of(own).values())
    upstream: Tensor | None = None

    def both() -> object:
        # Gradients are returned and dropped: none is added to an old one.
        nonlocal upstream
        output = contestant.call(**own)
        output = output[0] if isinstance(output, tuple) else output
        if upstream is None:  # the warm-up call
            one = output[0] if isinstance(output, tuple) else output
            upstream = torch.randn(one.shape, dtype=one.dtype, device=one.device)
        return torch.autograd.grad(output, leaves, upstreams(output, upstream), allow_unused=True)  # of a yardstick

    return both


def _copies(moved: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """A copy that reads and writes `moved` bytes in all, into memory that it holds and into fresh memory.

    Results are written to fresh memory, whose pages the system has to map and clear first: on a CPU that can take
    longer than the copy, and no op can avoid it.
    """
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.zeros_like(source).fill_(1)
    return {"copy": lambda: target.copy_(source), "copy to fresh memory": source.clone}


def _row(
    contestant: str,
    role: str,
    status: str,
    reason: str,
    kind: str | None = None,
    times: Times | None = None,
    verdict: Verdict | Exception | None = None,
) -> Row:
    """One result. `status` is ok, wrong, error, missing or skipped; only ok has times."""
    checked = verdict if isinstance(verdict, Verdict) else None
    return {
        "threads": None,
        "contestant": contestant,
        "role": role,
        "pass": kind,
        "status": status,
        "reason": reason,
        **(times.record() if times else NO_TIMES),
        "moved_bytes": None,
        "copy_fraction": None,
        "times_seqmix": None,
        "error_over_allowed": checked.worst if checked else None,
        "kept_bytes": checked.kept_bytes if checked else None,
        "kept_beyond_inputs_bytes": checked.kept_beyond_inputs if checked else None,
        "first_ms": checked.first_ms if checked else None,
        "peak_bytes": checked.peak_bytes if checked else None,
    }


def is_failure(row: Row) -> bool:
    """Whether a row must fail the run: wrong numbers by anybody, or an op of ours that does not run at all."""
    return row["status"] == "wrong" or (row["role"] == "seqmix" and row["status"] in ("error", "missing"))
