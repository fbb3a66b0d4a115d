"""`OneMore`: sequences that grow by a token, alone, in a batch, packed, and empty ones."""

from itertools import pairwise

import torch

from seqmix.mixers._one_more import OneMore, token_before


def test_packed_sequences_grow_as_each_alone():
    lengths = (3, 0, 1, 4, 0)
    cu = torch.tensor((0, *torch.tensor(lengths).cumsum(0)), dtype=torch.int32)
    x, ends = torch.randn(1, 8, 2, requires_grad=True), torch.randn(5, 1, 2, requires_grad=True)
    row = OneMore(8, cu)
    parts = [x[:, a:b] for a, b in pairwise(cu)]
    before = [torch.cat((end[None], part), 1) for end, part in zip(ends, parts, strict=True)]
    after = [torch.cat((part, end[None]), 1) for end, part in zip(ends, parts, strict=True)]
    assert row.cu_seqlens.dtype == torch.int32
    assert row.cu_seqlens.tolist() == [0, *(torch.tensor(lengths) + 1).cumsum(0)]
    assert torch.equal(row.before(x, ends), torch.cat(before, 1))
    assert torch.equal(row.after(x, ends), torch.cat(after, 1))
    assert torch.equal(row.without_last(row.after(x, ends)), x)
    newest = torch.cat([part[:, -1:] for part in before])
    assert torch.equal(token_before(x, initial_state=ends, cu_seqlens=cu)[2], newest)
    weights = torch.arange(26.0).reshape(1, 13, 2)
    found = torch.autograd.grad((row.before(x, ends) * weights).sum(), (x, ends))
    wanted = torch.autograd.grad((torch.cat(before, 1) * weights).sum(), (x, ends))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_batch_grows_row_by_row():
    x, end, row = torch.randn(2, 3, 4), torch.randn(2, 1, 4), OneMore(3, None)
    assert row.cu_seqlens is None
    assert torch.equal(row.before(x, end)[:, 1:], x) and torch.equal(row.before(x, end)[:, :1], end)
    assert torch.equal(row.without_last(row.after(x, end)), x)
    assert torch.equal(token_before(x, initial_state=end, cu_seqlens=None)[2], x[:, 2:])
