"""Gradients taken under autocast are those taken outside of it."""

import pytest
import torch

from seqmix import create_mixer, list_mixers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list_mixers())
def test_backward_under_autocast(name: str, dtype: torch.dtype) -> None:
    mixer = create_mixer(name, 16)
    x = torch.randn(2, 20, 16)
    with torch.autocast("cpu", dtype):
        loss = mixer(x)[0].float().square().mean()
        inside = torch.autograd.grad(loss, list(mixer.parameters()), retain_graph=True)
    outside = torch.autograd.grad(loss, list(mixer.parameters()))
    for one, other in zip(inside, outside, strict=True):
        # Matrix products of float32 gradients round to half precision inside.
        assert (one - other).norm() <= 2e-2 * other.norm() + 1e-6
