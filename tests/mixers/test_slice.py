"""SLiCE: the first token starts the state, the others act on it as matrices, and words of a group compose."""

import pytest
import torch
from torch.nn.functional import layer_norm, one_hot

from seqmix import SLiCE


def test_is_the_recurrence_of_the_paper():
    torch.manual_seed(0)
    layer, x = SLiCE(6, 8, 2, dtype=torch.float64), torch.randn(2, 7, 6, dtype=torch.float64)
    h, rows = layer.init_proj(x[:, 0]), []
    for t in range(7):
        if t > 0:
            A = layer.field_proj(x[:, t]).view(2, 4, 2, 2)
            h = h + (A @ h.view(2, 4, 2, 1)).flatten(1) / 40
        rows.append(layer.out_proj(layer_norm(h, (8,), layer.norm_weight, layer.norm_bias)))
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(rows, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.h.flatten(1), h)
    assert state.length.tolist() == [7, 7]


def test_every_sequence_starts_by_itself():
    torch.manual_seed(0)
    layer, x = SLiCE(8, dtype=torch.float64), torch.randn(1, 9, 8, dtype=torch.float64)
    _, begun = layer(x[:, :3])
    both = SLiCE.State(*(torch.cat(pair) for pair in zip(begun, layer.init_state(1), strict=True)))
    mixed, _ = layer(x[:, 3:].expand(2, -1, -1), both)
    torch.testing.assert_close(mixed[:1], layer(x)[0][:, 3:], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(mixed[1:], layer(x[:, 3:])[0], rtol=1e-9, atol=1e-11)


def test_blocks_of_three_compose_the_permutations_of_three():
    layer, letters = SLiCE(8, 3, 3, dtype=torch.float64), torch.randint(1, 7, (200,))
    orders = torch.tensor([[0, 1, 2], [1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]])
    with torch.no_grad():
        layer.field_proj.bias.zero_()
        layer.field_proj.weight.zero_()
        layer.field_proj.weight[:, 1:7] = (40 * (one_hot(orders, 3) - torch.eye(3))).flatten(1).mT.double()
        layer.init_proj.weight.zero_()
        layer.init_proj.bias.copy_(torch.arange(3))
    expected = torch.arange(3)
    for letter in letters.tolist():
        expected = expected[orders[letter - 1]]
    words = one_hot(torch.cat((torch.zeros(1, dtype=torch.int64), letters)), 8).double()
    torch.testing.assert_close(layer(words[None])[1].h[0, 0], expected.double(), rtol=0, atol=1e-9)


def test_bad_arguments():
    with pytest.raises(ValueError, match="block_size must divide d_state = 10, got 4"):
        SLiCE(10)
