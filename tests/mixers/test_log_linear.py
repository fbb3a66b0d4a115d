"""Log-linear Mamba-2: the merging of levels token by token, its mask, and levels that run out."""

import pytest
import torch

from seqmix import LogLinear
from seqmix.mixers.log_linear import scan


def by_merging(q, k, v, log_g, level):
    """o and the levels of one head, by the recurrence."""
    levels = level.shape[-1]
    S, rows = torch.zeros(levels, q.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(len(q)):
        if t > 0:
            j = (t & -t).bit_length() - 1
            merged = S[: j + 1].sum(0)
            S[: j + 1] = 0
            S[min(j + 1, levels - 1)] += merged
        S = S * log_g[t].exp()
        S[0] += torch.outer(k[t], v[t])
        rows.append(torch.einsum("l,lkv,k->v", level[t], S, q[t]))
    return torch.stack(rows), S


@pytest.mark.parametrize("levels", [7, 3])
def test_is_the_recurrence_of_the_paper(levels):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 37, 1, width, dtype=torch.float64) for width in (3, 3, 2))
    log_g, level = -torch.rand(1, 37, 1, dtype=torch.float64), torch.rand(1, 37, 1, levels, dtype=torch.float64)
    S, start = torch.zeros(1, levels, 1, 3, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    o, final = scan(q, k, v, log_g, level, S, start)
    expected = by_merging(q[0, :, 0], k[0, :, 0], v[0, :, 0], log_g[0, :, 0], level[0, :, 0])
    torch.testing.assert_close((o[0, :, 0], final[0, :, 0]), expected, rtol=1e-9, atol=1e-11)


def test_levels_are_the_published_mask():
    layer, x = LogLinear(4, 2, 6, dtype=torch.float64), torch.randn(1, 17, 4, dtype=torch.float64)
    parts, *_ = layer._parts(x, None, None)
    matrix, level = layer.linear_form(x).matrix()[0, 0, :, :, 0, 0], parts[4][0, :, 0]
    scores = (parts[0][0, :, 0] @ parts[1][0, :, 0].mT) * (
        parts[3][0, :, 0].cumsum(0)[:, None] - parts[3][0, :, 0].cumsum(0)
    ).exp()
    for t in range(17):
        # Level l > 0 is there where t mod 2^l >= 2^(l-1), and then holds 2^(l-1) tokens, the nearest first.
        place, rest = [0], 1
        for number in range(1, 6):
            if t % 2**number >= 2 ** (number - 1):
                place += [number] * 2 ** (number - 1)
        assert len(place) == t + rest
        for age, number in enumerate(place):
            expected = scores[t, t - age] * level[t, number]
            assert matrix[t, t - age].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_equal_weights_of_levels_are_mamba_2():
    torch.manual_seed(0)
    layer, x = LogLinear(8, 4, 5, dtype=torch.float64), torch.randn(2, 40, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.level_proj.weight.zero_()
    parts, u, z, _ = layer._parts(x, None, None)
    from seqmix.kernels import gated_linear_attention

    o, _ = gated_linear_attention(*parts[:4])
    torch.testing.assert_close(
        layer(x)[0], layer._output(o * torch.tensor(2.0).double().log(), u, z), rtol=1e-9, atol=1e-11
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_levels must be at least 2, got 1"):
        LogLinear(8, n_levels=1)
