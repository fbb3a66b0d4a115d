"""What all ops share: forward-mode AD is refused under torch.compile too, and empty batches pass."""

import pytest
import torch
from torch.autograd import forward_ad

from seqmix.kernels import block_scan, diagonal_scan, gated_block_scan, gated_higher_order_scan, higher_order_scan


def test_compiled_forward_mode_is_refused() -> None:
    a, x = torch.rand(1, 4, 2), torch.randn(1, 4, 2)
    compiled = torch.compile(lambda a: diagonal_scan(a, x)[0], backend="aot_eager", fullgraph=True)
    compiled(a)
    with forward_ad.dual_level(), pytest.raises(Exception, match="forward-mode AD needs backend='reference'"):
        compiled(forward_ad.make_dual(a, torch.ones_like(a)))
    # A level without tangents is no reason to refuse an ordinary call.
    with forward_ad.dual_level():
        diagonal_scan(a, x)


@pytest.mark.parametrize(
    ("op", "gates", "values"),
    [
        (diagonal_scan, (0, 3, 2), (0, 3, 2)),
        (block_scan, (0, 3, 2, 2, 2), (0, 3, 2, 2)),
        (gated_block_scan, (0, 3, 2, 2, 3), (0, 3, 2, 2)),
        (higher_order_scan, (0, 3, 2, 2), (0, 3, 2)),
        (gated_higher_order_scan, (0, 3, 2, 3), (0, 3, 2)),
    ],
)
def test_empty_batch(op, gates: tuple[int, ...], values: tuple[int, ...]) -> None:
    output, final = op(torch.zeros(gates), torch.zeros(values, requires_grad=True))
    assert output.shape == values and final.shape[0] == 0
    output.sum().backward()
