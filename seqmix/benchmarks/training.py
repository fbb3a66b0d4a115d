"""`seqmix bench training`: a deep `SequenceModel` of each mixer, trained for some steps on random bytes."""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seqmix.benchmarks import memory
from seqmix.benchmarks.layer_setup import ARGUMENTS
from seqmix.benchmarks.layers import profiled_shares
from seqmix.benchmarks.products import products_of, replay
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.timing import Plan, Progress, synchronize, take_turns
from seqmix.benchmarks.training_peers import PEERS
from seqmix.benchmarks.workload import Workload
from seqmix.models import SequenceModel

Row = dict[str, Any]

_WARM_UP = 0.1  # share of the steps whose time does not count
_LONG = 30.0  # seconds: no further step after as many, and what takes as long a step is not taken apart
_SQUARE = {"cpu": 1024, "cuda": 8192}


def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a large square matrix product here: what utilisation is a share of."""
    size = _SQUARE.get(device.type, 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    times = []
    for _ in range(5):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / median(times)


def model_flops(model: SequenceModel, mixer: str, workload: Workload) -> float:
    """Floating-point operations of a training step by the usual count: 6 for each weight outside the embedding and
    token, and for attention 12 T d for each layer and token, half of it for the causal mask. Scans count nothing."""
    tokens = workload.batch * workload.length
    weights = 6 * model.num_parameters(non_embedding=True)
    scores = 6 * workload.n_layers * workload.length * workload.d_model if mixer == "attention" else 0
    return float(tokens * (weights + scores))


def run_training(
    name: str, workload: Workload, dtype: torch.dtype, device: torch.device, plan: Plan, progress: Progress
) -> Row:
    """The row of one mixer or peer: weights and AdamW in float32, the forward pass in `dtype`, new tokens each step.

    On a CPU its step is taken apart afterwards, in turns with its own matrix products alone.
    """
    base: Row = {
        "mixer": name,
        "peer": name in PEERS,
        "arguments": ARGUMENTS.get(name, {}),
        "sizes": {"layers": workload.n_layers, "d_model": workload.d_model, "B": workload.batch, "T": workload.length},
        "steps": workload.steps,
        "dtype": str(dtype).removeprefix("torch."),
    }
    try:
        return base | _train(name, workload, dtype, device, plan, progress) | {"status": "ok", "reason": ""}
    except Exception as error:  # a mixer that does not fit or run here is a row, not the end
        return base | {"status": "error", "reason": reason_of(error)}


def _model(name: str, workload: Workload) -> nn.Module:
    torch.manual_seed(0)
    if name in PEERS:
        return PEERS[name][1](workload)
    spec = {"name": name, **ARGUMENTS.get(name, {})}
    return SequenceModel(spec, workload.vocab_size, workload.d_model, workload.n_layers)


def _step(model: nn.Module, workload: Workload, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    """A call that takes one training step on new tokens and returns its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)  # as `seqmix fit` has it
    generator = torch.Generator(device).manual_seed(1)
    shape = (workload.batch, workload.length + 1)

    def step() -> Tensor:
        tokens = torch.randint(workload.vocab_size, shape, generator=generator, device=device)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            logits = model(tokens[:, :-1])
        logits = logits[0] if isinstance(logits, tuple) else logits
        loss = cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def _train(
    name: str, workload: Workload, dtype: torch.dtype, device: torch.device, plan: Plan, progress: Progress
) -> Row:
    model = _model(name, workload).to(device)
    step = _step(model, workload, dtype, device)
    losses, times, before = [], [], memory.watch(device)
    for index in range(workload.steps):
        synchronize(device)
        began = time.perf_counter()
        losses.append(step().item())  # waits for the device
        times.append(time.perf_counter() - began)
        progress(f"step {index + 1} of {workload.steps}, loss {losses[-1]:.3f}")
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"loss {losses[-1]} at step {index + 1}")
        if device.type == "cpu" and sum(times) > _LONG:
            break
    seconds = median(times[math.ceil(_WARM_UP * len(times)) :] or times)
    row: Row = {"steps": len(times), "peak_bytes": memory.peak_since(before, device)}
    if device.type == "cpu" and seconds < _LONG:
        row |= {"peak_bytes": memory.most_at_once(step)} | _apart(step, plan, device, progress)
        seconds = row["median_ms"] / 1e3
    if isinstance(model, SequenceModel):
        row["model_flops_per_second"] = model_flops(model, name, workload) / seconds
    return row | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_ms": 1e3 * seconds,
        "first_ms": 1e3 * times[0],
        "tokens_per_second": workload.batch * workload.length / seconds,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def _apart(step: Callable[[], object], plan: Plan, device: torch.device, progress: Progress) -> Row:
    """Times of a step in turns with its products alone, and the shares of the mixing op and of the rest."""
    products = replay(products_of(step))
    times = take_turns({"step": step, "products": products}, device, plan, progress)
    shares = profiled_shares(step, times["step"].median_ms)
    alone = times["products"].median_ms / times["step"].median_ms
    mixing = shares["share_mixing"]
    return times["step"].record() | {
        "products_ms": times["products"].median_ms,
        "share_products": alone,
        "share_mixing": mixing,
        "share_rest": 1 - alone - mixing,
    }
