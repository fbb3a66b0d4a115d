"""Parameters split over two processes (DTensor) are stepped as one process steps the whole ones."""

import pytest
import torch
from torch import nn

from seqmix.benchmarks.processes import spawn
from tests.optim.ours import OURS

CASES = [(o, {"method": "svd"} if o.matrices else {}) for o in OURS if not o.wraps]


def steps(ours, kwargs, place):
    torch.manual_seed(0)
    start = torch.randn(6, 5, dtype=torch.float64)
    start[3] = 0
    p = nn.Parameter(place(start))
    optimizer = ours([p], weight_decay=0.1, **kwargs)
    for _ in range(5):
        p.grad = place(torch.randn(6, 5, dtype=torch.float64))
        ours.step(optimizer, 0.7)
    return p.detach()


def errors_of(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    errors = {}
    for ours, kwargs in CASES:
        whole = steps(ours, kwargs, torch.clone)
        split = steps(ours, kwargs, lambda t: distribute_tensor(t, mesh, [Shard(0)]))
        errors[ours.name] = (split.full_tensor() - whole).abs().max().item()
    return errors


@pytest.mark.slow
def test_two_processes_step_as_one():
    found = spawn(errors_of, 2)
    assert len(found) == len(CASES) and all(error < 1e-11 for error in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("ours", [o for o in OURS if not o.wraps], ids=lambda o: o.name)
def test_a_compiled_step(ours):
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(6, 5, dtype=torch.float64))
        optimizer = ours([p], weight_decay=0.1, **({"method": "svd"} if ours.matrices else {}))
        step = torch.compile(lambda ours=ours, optimizer=optimizer: ours.step(optimizer, 0.7), backend="aot_eager")
        for _ in range(3):
            p.grad = torch.randn(6, 5, dtype=torch.float64)
            step() if compiled else ours.step(optimizer, 0.7)
        found.append(p.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
