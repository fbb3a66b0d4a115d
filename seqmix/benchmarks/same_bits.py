"""`seqmix bench same-bits`: what `seqmix.kernels.batch_invariant` costs a model, beside the same model without it.

Prefill, a training step, and tokens at batch 1 and 16, both forms in turns. Times are the processor's, of one thread,
in which other programs of a busy machine do not count.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from seqmix.benchmarks.layer_setup import ARGUMENTS
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.tables import Table, number
from seqmix.benchmarks.timing import NO_TIMES, Call, Plan, processor_clock, take_turns, threads
from seqmix.benchmarks.views import mixer_text, times_text
from seqmix.kernels import batch_invariant
from seqmix.models import SequenceModel

__all__ = ["run_same_bits", "same_bits_goals", "same_bits_table"]

Row = dict[str, Any]

PASSES = ("forward", "training step", "token, batch 1", "token, batch 16")
_GOAL = 1.3  # times the time without


def run_same_bits(names: Sequence[str], quick: bool, plan: Plan, progress: Callable[[str], None] = print) -> list[Row]:
    """Rows of every mixer and pass; a mixer that refuses has a row that says why."""
    sizes = (
        {"layers": 2, "d_model": 256, "B": 4, "T": 512} if not quick else {"layers": 1, "d_model": 16, "B": 2, "T": 8}
    )
    rows: list[Row] = []
    for name in names:
        progress(name)
        for kind, call in _calls(name, sizes).items():
            row = {"mixer": name, "arguments": ARGUMENTS.get(name, {}), "sizes": sizes, "pass": kind, "threads": 1}
            row |= {"status": "ok", "reason": "", "plain_ms": None, "ratio": None, **NO_TIMES}
            try:
                with threads(1):
                    times = take_turns(
                        {"plain": _inside(call, False), "same bits": _inside(call, True)},
                        torch.device("cpu"),
                        plan,
                        lambda text: None,
                        processor_clock,
                    )
                plain, same = times["plain"].median_ms, times["same bits"].median_ms
                row |= times["same bits"].record() | {"plain_ms": plain, "ratio": same / plain}
            except NotImplementedError as error:
                row["reason"] = reason_of(error)
            rows.append(row)
    return rows


def _inside(call: Call, invariant: bool) -> Call:
    def run() -> None:
        with batch_invariant() if invariant else nullcontext():
            call()

    return run


def _calls(name: str, sizes: dict[str, int]) -> dict[str, Call]:
    torch.manual_seed(0)
    model = SequenceModel({"name": name, **ARGUMENTS.get(name, {})}, 256, sizes["d_model"], sizes["layers"])
    tokens = torch.randint(256, (max(sizes["B"], 16), sizes["T"]))
    inputs, optimizer = tokens[: sizes["B"]], torch.optim.AdamW(model.parameters())

    @torch.no_grad()
    def forward() -> None:
        model(inputs)

    def train() -> None:
        optimizer.zero_grad()
        logits, _ = model(inputs)
        cross_entropy(logits.flatten(0, 1), inputs.flatten()).backward()
        optimizer.step()

    def decode(batch: int) -> Call:
        with torch.no_grad():
            _, state = model(tokens[:batch])

        @torch.no_grad()
        def call() -> None:
            model(tokens[:batch, :1], state)

        return call

    return dict(zip(PASSES, (forward, train, decode(1), decode(16)), strict=True))


def same_bits_table(rows: list[Row]) -> Table:
    """A line for every mixer and pass."""
    sizes = rows[0]["sizes"]
    title = f"{sizes['layers']} layers of width {sizes['d_model']}, B {sizes['B']}, T {sizes['T']}, float32, one thread"
    table = Table(title, ["mixer", "pass", "plain ms", "same bits ms [20 %, 80 %]", "ratio"], left=2)
    for row in rows:
        cells = [mixer_text(row), row["pass"], number(row["plain_ms"]), times_text(row), number(row["ratio"], 3)]
        table.rows.append(cells)
    table.note = "\n".join(dict.fromkeys(row["reason"] for row in rows if row["reason"]))
    return table


def same_bits_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met): at most 1.3 times the time without, for every pass."""
    return [
        (
            f"{kind}: at most {_GOAL} times, of {len(found)} mixers",
            f"{min(found):.2f} to {max(found):.2f}",
            max(found) <= _GOAL,
        )
        for kind in PASSES
        if (found := [row["ratio"] for row in rows if row["pass"] == kind and row["ratio"] is not None])
    ]
