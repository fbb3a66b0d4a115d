"""`seqmix bench optimizers`: what a step costs, ours beside torch's, on a model's worth of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn

from seqmix._suggest import unknown_name
from seqmix.benchmarks.tables import Table, number
from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, take_turns, threads
from seqmix.optim import LMO, NGN, NGND, NGNM, AngularMuown, Muown, NGNMDv1, Signum, TiedAdam

Row = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """An optimizer timed against `versus`, in at most `bound` times whose step it is set out to be."""

    name: str
    make: Callable[[list[nn.Parameter]], Any]
    versus: str = ""
    bound: float | None = None
    loss: bool = False
    matrices: bool = False


ADAMW, MUON = "torch AdamW (foreach)", "torch Muon"
CONTESTANTS = (
    Contestant(ADAMW, lambda p: torch.optim.AdamW(p, foreach=True)),
    Contestant("torch AdamW (fused)", lambda p: torch.optim.AdamW(p, fused=True), ADAMW),
    Contestant("ngn", NGN, ADAMW, loss=True),
    Contestant("ngn-m", NGNM, ADAMW, loss=True),
    Contestant("ngn-d", NGND, ADAMW, loss=True),
    Contestant("ngn-md", lambda p: NGNMDv1(p, weight_decay=0.01), ADAMW, 2.0, loss=True),
    Contestant("ngn-md, decay in the model", lambda p: NGNMDv1(p, weight_decay=0.01, decay="model"), ADAMW, loss=True),
    Contestant("tied-adam", lambda p: TiedAdam(p, weight_decay=0.01), ADAMW, 1.2),
    Contestant("signum", lambda p: Signum(p, weight_decay=0.01), ADAMW),
    Contestant("lmo, l2", LMO, ADAMW),
    Contestant(MUON, lambda p: torch.optim.Muon(p), matrices=True),
    Contestant("muown", lambda p: Muown(p, weight_decay=0.1), MUON, 1.2, matrices=True),
    Contestant("angular-muown", AngularMuown, MUON, matrices=True),
    Contestant("lmo, spectral", lambda p: LMO(p, norm="spectral"), MUON, matrices=True),
)


def select(only: str | None) -> list[Contestant]:
    """Contestants whose name matches one of the patterns, with those that they are held against."""
    if only is None:
        return list(CONTESTANTS)
    patterns = [pattern.strip() for pattern in only.split(",")]
    for pattern in patterns:
        if not any(fnmatch(c.name, pattern) for c in CONTESTANTS):
            raise unknown_name("optimizer", pattern, [c.name for c in CONTESTANTS])
    chosen = {c.name for c in CONTESTANTS if any(fnmatch(c.name, pattern) for pattern in patterns)}
    needed = chosen | {c.versus for c in CONTESTANTS if c.name in chosen}
    return [c for c in CONTESTANTS if c.name in needed]


def shapes(quick: bool) -> list[tuple[int, ...]]:
    """A Transformer of width 512 with a SwiGLU, three blocks: 10 million parameters."""
    width, hidden, layers = (16, 32, 1) if quick else (512, 1408, 3)
    block: list[tuple[int, ...]] = [(3 * width, width), (width, width), (2 * hidden, width), (width, hidden)]
    return ([*block, (width,), (width,)]) * layers + [(width,)]


def run_optimizers(contestants: list[Contestant], settings: Settings, progress: Progress) -> list[Row]:
    """Rows of all; those of matrices take turns apart from the others, which have the vectors too."""
    dtype, device = settings.dtype, settings.device
    rows: list[Row] = []
    for count in settings.threads:
        for matrices in (False, True):
            chosen = [c for c in contestants if c.matrices is matrices]
            sizes = [shape for shape in shapes(settings.quick) if len(shape) == 2 or not matrices]
            fit = {c.name: _call(c, sizes, dtype, device) for c in chosen}
            calls = {name: call for name, (call, _) in fit.items() if call is not None}
            with threads(count):
                times = take_turns(calls, device, settings.plan, progress) if calls else {}
            for c in chosen:
                timed = times.get(c.name)
                rows.append(
                    {
                        "optimizer": c.name,
                        "versus": c.versus,
                        "bound": c.bound,
                        "sizes": {"parameters": sum(torch.Size(shape).numel() for shape in sizes)},
                        "dtype": str(dtype).removeprefix("torch."),
                        "threads": count,
                        "status": "ok" if timed else "wrong",
                        "reason": fit[c.name][1],
                        **(timed.record() if timed else NO_TIMES),
                        "ratio": timed.median_ms / times[c.versus].median_ms if timed and c.versus in times else None,
                    }
                )
    return rows


def _call(
    contestant: Contestant, sizes: list[tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[], object] | None, str]:
    stream = torch.Generator().manual_seed(0)
    params = []
    for shape in sizes:
        p = nn.Parameter((0.02 * torch.randn(shape, generator=stream)).to(device, dtype))
        p.grad = torch.randn(shape, generator=stream).to(device, dtype)
        params.append(p)
    before = [p.detach().clone() for p in params]
    optimizer = contestant.make(params)
    loss = torch.ones((), device=device)
    call = (lambda: optimizer.step(loss=loss)) if contestant.loss else optimizer.step
    call()
    if not all(bool(torch.isfinite(p).all()) for p in params):
        return None, "a step made weights that are not finite"
    if any(torch.equal(p, old) for p, old in zip(params, before, strict=True)):
        return None, "a step left a parameter as it was"
    return call, ""


def optimizer_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) of those with a bound."""
    return [
        (
            f"{row['optimizer']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: a step in at most "
            f"{row['bound']:g} x the time of {row['versus']}",
            f"{row['ratio']:.2f} x",
            row["ratio"] <= row["bound"],
        )
        for row in rows
        if row["bound"] is not None and row["ratio"] is not None
    ]


def optimizers_table(rows: list[Row]) -> Table:
    """A line for every optimizer and thread count."""
    table = Table(
        f"optimizers, {rows[0]['dtype']}",
        ["optimizer", "threads", "parameters", "ms a step [20 %, 80 %]", "min", "x", "time of"],
    )
    for row in rows:
        span = f"{number(row['median_ms'])} [{number(row['q20_ms'])}, {number(row['q80_ms'])}]"
        cells = [row["optimizer"], str(row["threads"]), f"{row['sizes']['parameters'] / 1e6:.1f} M"]
        timed = [span if row["status"] == "ok" else "WRONG", number(row["min_ms"]), number(row["ratio"], 2)]
        table.rows.append([*cells, *timed, row["versus"] or "-"])
    table.note = "\n".join(f"{row['optimizer']}: {row['reason']}" for row in rows if row["reason"])
    return table
