"""`seqmix bench layers`: every registered mixer, forward and backward, and where its time goes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from seqmix.benchmarks.layer_setup import Shape, WrongNumbers, build, one_token, row_of
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.timing import NO_TIMES, Progress, Settings, Times, prefixed, take_turns, threads
from seqmix.mixers import TokenMixer

Row = dict[str, Any]

_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
_MIXING = ("seqmix::", "aten::_scaled_dot_product", "aten::mkldnn_rnn_layer")
_STEP = "seqmix.benchmarks step"
_PROFILED = 3  # steps


def run_layer(name: str, shape: Shape, settings: Settings, progress: Progress) -> list[Row]:
    """Rows of one mixer, one for each thread count."""
    dtype, device, counts = settings.dtype, settings.device, settings.threads
    base = row_of(name, shape, dtype)
    try:
        layer = build(name, shape, dtype, device)
        forward, step = _steps(layer, shape, dtype, device)
        token = one_token(layer, shape.length, 1, dtype, device)
        step()
    except WrongNumbers as error:
        return [base | _row(count, "wrong", str(error)) for count in counts]
    except Exception as error:  # a mixer that cannot run at this type or device is a row, not the end
        return [base | _row(count, "error", reason_of(error)) for count in counts]
    parameters = sum(p.numel() for p in layer.parameters())
    base |= {"parameters": parameters, "state_size": layer.state_size(shape.length)}
    rows = []
    for count in counts:
        with threads(count):
            calls = {"forward": forward, "step": step, "token": token}
            times = take_turns(calls, device, settings.plan, prefixed(progress, f"{count} threads: "))
            shares = profiled_shares(step, times["step"].median_ms)
        row = _row(count, "ok", "", times["step"]) | shares
        row |= {"forward_median_ms": times["forward"].median_ms, "decode_median_ms": times["token"].median_ms}
        row["tokens_per_second"] = 1e3 * shape.batch * shape.length / times["step"].median_ms
        rows.append(base | row)
    return rows


def _steps(
    layer: TokenMixer, shape: Shape, dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[], object], Callable[[], object]]:
    generator = torch.Generator().manual_seed(1)
    size = (shape.batch, shape.length, shape.d_model)
    x, upstream = (torch.randn(size, generator=generator).to(device, dtype) for _ in range(2))
    leaves = [x.requires_grad_(), *(p for p in layer.parameters() if p.requires_grad)]

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x)[0], leaves, upstream, allow_unused=True)

    return torch.no_grad()(partial(layer, x)), step


def profiled_shares(step: Callable[[], object], median_ms: float) -> Row:
    """Shares of a step's time in matrix products, in the mixing op (scan, attention, LSTM loop) and in the rest.

    The rest is everything else: elementwise work, copies, autograd and Python. Own times of all profiled events,
    attributed to the nearest product or mixing op around them, must add up to the time of the step; `accounted` is
    the share that does, and `profiled_ms` shows what the profiler itself adds to the median without it.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(_PROFILED):
            with record_function(_STEP):
                step()
    events = [event for event in profiler.events() or [] if event.device_type == torch.autograd.DeviceType.CPU]
    roots = [event for event in events if event.name == _STEP]
    total = sum(event.cpu_time_total for event in roots)
    spent = {"product": 0.0, "mixing": 0.0, "rest": 0.0}
    for event in events:
        spent[_kind(event)] += event.self_cpu_time_total
    # Whatever no event accounts for is neither a product nor a scan.
    outside = total - spent["product"] - spent["mixing"]
    return {
        "share_products": spent["product"] / total,
        "share_mixing": spent["mixing"] / total,
        "share_rest": outside / total,
        "accounted": sum(spent.values()) / total,
        "profiled_ms": total / _PROFILED / 1e3,
        "profiled_over_median": total / _PROFILED / 1e3 / median_ms,
    }


def _kind(event: Any) -> str:
    while event is not None:
        if event.name in _PRODUCTS:
            return "product"
        if event.name.startswith(_MIXING):
            return "mixing"
        event = event.cpu_parent
    return "rest"


_LATER = (
    "forward_median_ms",
    "decode_median_ms",
    "share_products",
    "share_mixing",
    "share_rest",
    "accounted",
    "profiled_ms",
    "profiled_over_median",
    "tokens_per_second",
)


def _row(count: int, status: str, reason: str, times: Times | None = None) -> Row:
    measured = times.record() if times else NO_TIMES
    return {"threads": count, "status": status, "reason": reason, **measured, **dict.fromkeys(_LATER)}
