"""What the kernels set out to reach on one H200, held against measured rows; on another GPU the shares still tell."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from seqmix.benchmarks.kernels import BOTH, FORWARD

Row = dict[str, Any]


@dataclass(frozen=True)
class GpuGoal:
    """At every size that fits `at_least` and `equal`: a share of a copy's speed of `bound` or more, or, beside a peer,
    at most `bound` times its time."""

    case: str
    kind: str
    bound: float
    versus: str | None = None
    dtype: str | None = None
    at_least: dict[str, int] = field(default_factory=dict)
    equal: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        where = [f"{name} >= {size:,}" for name, size in self.at_least.items()]
        where += [f"{name} = {size}" for name, size in self.equal.items()]
        text = f"{self.case} {self.kind}{''.join(f', {part}' for part in (*where, self.dtype) if part)}"
        if self.versus is None:
            return f"{text}: at least {100 * self.bound:.0f} % of the speed of a copy"
        return f"{text}: at most {self.bound:g} x the time of {self.versus}"

    def measured(self, rows: Iterable[Row]) -> float | None:
        """The worst share or ratio over the sizes that were timed; None if none was."""
        values = []
        mine = [row for row in rows if row["status"] == "ok" and self._fits(row)]
        for own in (row for row in mine if row["role"] == "seqmix"):
            if self.versus is None:
                values.append(own["copy_fraction"])
            values += [
                own["median_ms"] / row["median_ms"]
                for row in mine
                if row["contestant"] == self.versus and row["sizes"] == own["sizes"]
            ]
        return (min if self.versus is None else max)(values, default=None)

    def result(self, worst: float) -> tuple[str, str, bool]:
        """(goal, measured, met)."""
        if self.versus is None:
            return str(self), f"{100 * worst:.0f} %", worst >= self.bound
        return str(self), f"{worst:.2f} x", worst <= self.bound

    def _fits(self, row: Row) -> bool:
        sizes = row["sizes"]
        return (
            (row["case"], row["pass"]) == (self.case, self.kind)
            and self.dtype in (None, row["dtype"])
            and all(sizes.get(name, 0) >= size for name, size in self.at_least.items())
            and all(sizes.get(name) == size for name, size in self.equal.items())
        )


GOALS = (
    GpuGoal("diagonal_scan", FORWARD, 0.85, dtype="float32", at_least={"T": 4096}, equal={"B": 8}),
    GpuGoal("diagonal_scan", BOTH, 0.75, dtype="float32", at_least={"T": 4096}, equal={"B": 8}),
    *(
        GpuGoal("diagonal_scan", kind, 1.0, "accelerated-scan", "float32", {"T": 1024}, {"B": 8})
        for kind in (FORWARD, BOTH)
    ),
    GpuGoal("gated_block_scan", FORWARD, 0.75, dtype="bfloat16", equal={"m": 2}),
    GpuGoal("gated_block_scan", FORWARD, 0.60, dtype="bfloat16", equal={"m": 4}),
    *(GpuGoal("gated_block_scan", FORWARD, 1 / 3, "loop by rows", "bfloat16", equal={"m": m}) for m in (8, 16)),
    *(
        GpuGoal(op, kind, 1.3, "fla", "bfloat16")
        for op in ("gated_linear_attention", "delta_rule")
        for kind in (FORWARD, BOTH)
    ),
    *(GpuGoal("selective_scan", kind, 1.2, "mamba-ssm") for kind in (FORWARD, BOTH)),
)


def gpu_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for every goal that rows of a GPU say something about."""
    found = [(goal, goal.measured(rows)) for goal in GOALS]
    return [goal.result(worst) for goal, worst in found if worst is not None]
