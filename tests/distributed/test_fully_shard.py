"""Kernels leave the memory of parameters as they found it: sharded ones are freed after every use."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from seqmix import SequenceModel, list_mixers
from seqmix.benchmarks.processes import group
from seqmix.kernels._sequences import array


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with group(0, 1, f"{tmp_path_factory.mktemp('alone')}/store"):
        yield


def test_arrays_of_parameters_are_their_memory() -> None:
    for dtype in (torch.float32, torch.float64, torch.complex64):
        weight = torch.nn.Parameter(torch.randn(3, 4, dtype=dtype))
        found = array(weight)
        with torch.no_grad():
            weight[1, 2] = 7
        assert found.dtype == weight.detach().numpy().dtype and found[1, 2] == 7 and found.flags.c_contiguous
        assert array(weight.mT).tolist() == weight.detach().mT.tolist()
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    array(frozen)
    frozen.untyped_storage().resize_(0)
    assert array(torch.nn.Parameter(torch.empty(0))).shape == (0,)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # states are views, which nobody changes in place
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", list_mixers())
def test_every_mixer(name: str, alone: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = SequenceModel(name, 7, 16, dtype=torch.float64)
    model, tokens = copy.deepcopy(plain), torch.randint(7, (2, 9))
    mesh = init_device_mesh("cpu", (1,))
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh)
    for _ in range(2):  # what was freed is there again
        outputs = []
        for each in (plain, model):
            each.zero_grad()
            logits, _ = each(tokens)
            logits.square().sum().backward()
            outputs.append(logits.detach())
        assert torch.equal(*outputs)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, rtol=1e-12, atol=1e-12)
