"""`seqmix bench decode`: milliseconds a token takes with `step()`, by mixer and batch size."""

from collections.abc import Callable
from typing import Any

import torch

from seqmix.benchmarks.layer_setup import ARGUMENTS, Shape, WrongNumbers, build, one_token
from seqmix.benchmarks.timing import NO_TIMES, Plan, Times, take_turns, threads

Row = dict[str, Any]


def run_decode(
    name: str,
    shape: Shape,
    batches: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    plan: Plan,
    counts: tuple[int, ...],
    progress: Callable[[str], None],
) -> list[Row]:
    """Rows of one mixer: one token after a prefix of `shape.length`, from the same state in every call."""
    rows = []
    for batch in batches:
        base: Row = {
            "mixer": name,
            "arguments": ARGUMENTS.get(name, {}),
            "sizes": {"B": batch, "T": shape.length, "d_model": shape.d_model},
            "dtype": str(dtype).removeprefix("torch."),
        }
        try:
            call = one_token(build(name, shape, dtype, device), shape.length, batch, dtype, device)
            call()
        except WrongNumbers as error:
            rows += [base | _row(count, "wrong", str(error)) for count in counts]
            continue
        except Exception as error:  # a mixer that cannot run at this type or device is a row, not the end
            reason = f"{type(error).__name__}: {error}"[:300]
            rows += [base | _row(count, "error", reason) for count in counts]
            continue
        for count in counts:
            with threads(count):
                progress(f"batch {batch}, {count} threads")
                times = take_turns({"step": call}, device, plan, progress)["step"]
            rows.append(base | _row(count, "ok", "", times) | {"tokens_per_second": 1e3 * batch / times.median_ms})
    return rows


def _row(count: int, status: str, reason: str, times: Times | None = None) -> Row:
    measured = times.record() if times else NO_TIMES
    return {"threads": count, "status": status, "reason": reason, **measured, "tokens_per_second": None}
