"""A whole model of every mixer compiles as one graph, under autocast too, and not anew for another length.

On a GPU (`-m gpu`) the same models run on the Triton kernels, on a CPU (`-m slow`) on those of the CPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

from seqmix.mixers import list_mixers
from seqmix.models import SequenceModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu if DEVICE == "cuda" else pytest.mark.slow]


def build(mixer: str) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(mixer, 11, 16, 2, device=DEVICE)


def tokens(length: int) -> Tensor:
    return torch.randint(11, (2, length), generator=torch.Generator().manual_seed(length)).to(DEVICE)


def gradients(logits: Tensor, model: SequenceModel) -> list[Tensor]:
    return list(torch.autograd.grad(logits.float().square().mean(), list(model.parameters())))


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("mixer", list_mixers())
def test_one_graph(mixer: str, autocast: bool) -> None:
    model, graphs = build(mixer), []

    def counting(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, example_inputs)

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counting, fullgraph=True)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
        # Under autocast one length: what depends on it does not depend on types.
        for length in (65,) if autocast else (1, 64, 65):
            t = tokens(length)
            logits, state = compiled(t)
            expected, _ = model(t)
            assert torch.isfinite(logits).all()
            torch.testing.assert_close(logits, expected, **tolerance)
            compiled(t, state.detach())
            if length == 65:
                found = gradients(logits, model)
                for one, other in zip(found, gradients(expected, model), strict=True):
                    torch.testing.assert_close(one, other, **tolerance)
        assert len(graphs) <= 4, f"{len(graphs)} graphs"
        count = len(graphs)
        for length in () if autocast else (17, 100):
            _, state = compiled(tokens(length))
            compiled(tokens(length), state.detach())
        assert len(graphs) == count, "compiled anew for another length"
    torch._dynamo.reset()


# Complex numbers are left to eager kernels, which inductor says once.
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
@pytest.mark.parametrize("mixer", ["bd-lru", "h-lru", "lru"])
def test_inductor(mixer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What another processor, or a run that was killed, left in inductor's cache gives NaN, or ends the process.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, t = build(mixer), tokens(33)
    torch._dynamo.reset()
    logits, _ = torch.compile(model, fullgraph=True)(t)
    torch.testing.assert_close(logits, model(t)[0], rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
