"""What the library sets out to reach on a CPU, held against measured rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from seqmix.benchmarks.gpu_goals import gpu_goals
from seqmix.benchmarks.kernels import BOTH, FORWARD

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """`seqmix` in at most `bound` times the time of `versus`, or at least `bound` times as fast (`faster`)."""

    case: str
    kind: str
    threads: int
    versus: str
    bound: float
    faster: bool = False

    def __str__(self) -> str:
        what = f"{self.case} {self.kind}, {self.threads} thread{'s' * (self.threads > 1)}"
        if self.faster:
            return f"{what}: at least {self.bound:g} x as fast as {self.versus}"
        return f"{what}: at most {self.bound:g} x the time of {self.versus}"

    def measured(self, rows: Iterable[Row]) -> float | None:
        """The ratio, from medians; None if either was not timed."""
        medians = {
            row["contestant"]: row["median_ms"]
            for row in rows
            if (row["case"], row["pass"], row["threads"]) == (self.case, self.kind, self.threads)
        }
        own, other = medians.get("seqmix"), medians.get(self.versus)
        if own is None or other is None:
            return None
        return other / own if self.faster else own / other

    def met(self, ratio: float) -> bool:
        """Whether a measured ratio is good enough."""
        return ratio >= self.bound if self.faster else ratio <= self.bound


GOALS = (
    Goal("diagonal_scan", FORWARD, 1, "product", 1.5),
    Goal("diagonal_scan", FORWARD, 2, "product", 3),
    *(Goal("diagonal_scan", BOTH, n, "plain loop", 5, faster=True) for n in (1, 2)),
    *(Goal("gated_block_scan", BOTH, n, "plain loop", 4, faster=True) for n in (1, 2)),
    *(Goal("selective_scan", kind, n, "mambapy", 5, faster=True) for kind in (FORWARD, BOTH) for n in (1, 2)),
    *(
        Goal(op, kind, n, "diagonal_scan", 3)
        for op in ("higher_order_scan", "gather_scan")
        for kind in (FORWARD, BOTH)
        for n in (1, 2)
    ),
    *(
        Goal(op, kind, n, "plain loop", 5, faster=True)
        for op in ("gated_linear_attention", "delta_rule", "dplr_delta_rule")
        for kind in (FORWARD, BOTH)
        for n in (1, 2)
    ),
    *(Goal("selective_rotary", FORWARD, n, "copy", 3) for n in (1, 2)),
)

TASK_GOALS = {"word-problem": 20_000, "mqar": 20_000, "listops": 500}  # sequences a second
PRODUCT_GOALS = {1: 0.6, 2: 0.5}  # by threads
NOT_LINEAR = ("attention", "path", "fp-rnn", "fp-mamba", "lstm", "gru", "slstm", "m2rnn", "mesa")  # in time
LAYER_GOAL = ("bd-lru", 0.5)


def goals_of(entry: Row) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for a record of `seqmix bench kernels`, by the device that it was made on."""
    return gpu_goals(entry["rows"]) if entry["device"] == "cuda" else kernel_goals(entry["rows"])


def kernel_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for every goal whose contestants were timed at standard sizes."""
    rows = [row for row in rows if row["dtype"] in ("float32", "complex64") and row.get("sweep") is None]
    results = []
    for goal in GOALS:
        ratio = goal.measured(rows)
        if ratio is not None:
            results.append((str(goal), f"{ratio:.2f} x", goal.met(ratio)))
    for row in rows:
        if row["case"] == "selective_scan" and row["role"] == "seqmix" and row["kept_beyond_inputs_bytes"] is not None:
            sizes = row["sizes"]
            states = 4 * sizes["B"] * sizes["T"] * sizes["D"] * sizes["N"]
            share = row["kept_beyond_inputs_bytes"] / states
            text = "selective_scan keeps no (B, T, D, N) tensor for backward: less than half of one beyond its inputs"
            results.append((text, f"{100 * share:.1f} %", share < 0.5))
            break
    return results


def fixed_point_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met): a solve by sweeps beside as many scans and mixings."""
    return [
        (
            f"{row['case']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: {row['sweeps']:.0f} sweeps in no "
            "more time than as many diagonal scans and mixings",
            f"{row['solve_ms'] / row['median_ms']:.2f} x",
            row["solve_ms"] <= row["median_ms"],
        )
        for row in rows
        if row["solve_ms"] is not None
    ]


def layer_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for the share of a BD-LRU step outside matrix products and the scan."""
    name, bound = LAYER_GOAL
    return [
        (
            f"{name} layer, forward and backward, {row['threads']} thread{'s' * (row['threads'] > 1)}: less than "
            f"{100 * bound:.0f} % outside matrix products and the scan",
            f"{100 * row['share_rest']:.0f} %",
            row["share_rest"] < bound,
        )
        for row in rows
        if row["mixer"] == name and row["status"] == "ok"
    ]


def training_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met) for the share of a step on a CPU that its own products take alone."""
    found = [
        row
        for row in rows
        if row["status"] == "ok"
        and not row.get("peer")
        and row.get("share_products")
        and row["mixer"] not in NOT_LINEAR
    ]
    return [
        (
            f"{row['mixer']}, {row['threads']} thread{'s' * (row['threads'] > 1)}: products alone at least "
            f"{100 * (bound := PRODUCT_GOALS[row['threads']]):.0f} % of a training step",
            f"{100 * row['share_products']:.0f} %",
            row["share_products"] >= bound,
        )
        for row in found
        if row["threads"] in PRODUCT_GOALS and row["sizes"] == {"layers": 2, "d_model": 256, "B": 4, "T": 512}
    ]


def sweep_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met): what a sweep of long enough runs takes beyond them."""
    return [
        (
            f"{s['runs']} runs of {s['seconds']} s on {s['jobs']} cores: within 10 % of the runs' own time",
            f"{row['overhead']:.1%}",
            row["overhead"] <= 0.1,
        )
        for row in rows
        if (s := row["settings"])["runs"] >= 100 and s["seconds"] >= 10
    ]


def task_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met): how fast data is made."""
    return [
        (
            f"{row['task']}, length {row['sizes']['T']}: at least {bound:,} sequences a second on one core",
            f"{row['sequences_per_second']:,.0f}",
            row["sequences_per_second"] >= bound,
        )
        for row in rows
        if (bound := TASK_GOALS.get(row["task"])) is not None and row["status"] == "ok"
    ]
