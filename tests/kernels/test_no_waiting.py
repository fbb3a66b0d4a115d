"""No Triton op waits for the GPU, forward or backward: what a CUDA graph may hold, shown without one."""

import importlib.util

import pytest
import torch

import seqmix.kernels
from seqmix.benchmarks.cases import CASES, Case
from seqmix.kernels.m2rnn.api import m2rnn
from seqmix.kernels.slstm.api import slstm
from tests.kernels.waiting import on_a_gpu

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")


@pytest.mark.parametrize("packed", [False, True], ids=("batch", "packed"))
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_op_waits(case: Case, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case.inputs(case.sizes | {"B": 1, "T": 700}, torch.float32, torch.device("cpu"))
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in made.items()}
    with on_a_gpu(monkeypatch) as launches:
        inputs = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        offsets = torch.empty(5, 2, dtype=torch.int32)[:, 0] if packed else None
        # A stride of 0 along time, which a sum sends back and an expanded parameter has.
        first = next(iter(inputs))
        inputs[first] = inputs[first][:, :1].expand_as(inputs[first]) if inputs[first].ndim > 2 else inputs[first]
        getattr(seqmix.kernels, case.op)(**inputs, **case.options, cu_seqlens=offsets)
        with pytest.raises(Exception, match=r"_local_scalar_dense|waits"):
            torch.empty(1).item()
    assert len(launches) >= 2 and all(programs > 0 for _, programs in launches)


@pytest.mark.parametrize("packed", [False, True], ids=("batch", "packed"))
def test_no_loop_waits(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_a_gpu(monkeypatch) as launches:
        offsets = torch.empty(5, 2, dtype=torch.int32)[:, 0] if packed else None
        S, rows = 4 if packed else 1, (1, 70, 2)
        slstm(torch.empty(*rows, 4, 8), torch.empty(2, 8, 4, 8), torch.empty(S, 4, 2, 8), offsets)
        given = (torch.empty(*rows, 8), torch.empty(*rows, 8), torch.empty(*rows, 16), torch.empty(rows))
        m2rnn(*given, torch.empty(2, 16, 16), torch.empty(S, 2, 8, 16), offsets)
    assert len(launches) == 4 and all(programs == 2 * S for _, programs in launches)
