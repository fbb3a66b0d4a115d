"""The CPU kernels of `gated_linear_attention` stay inside of their arrays, whatever the widths and the registers."""

import numpy as np
import pytest
import torch

from seqmix.kernels import _borders, gated_linear_attention
from seqmix.kernels.gated_linear_attention import cpu_kernels
from tests.kernels.checked_lanes import Checked, checked, in_python

LENGTHS = [(1, 0, 2), (33, 0, 130)]  # the second: several blocks and a border, and blocks that are not full
# Around registers and pairs of them of 4, 8 and 16 numbers.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 49, 63, 64, 65]
CASES = [(1, 7, 0), (7, 1, 1), (5, 9, "K"), (17, 3, 1), (3, 17, "K"), (33, 8, "K")]


def hold(register: int, dtype: type, lengths: tuple[int, ...], keys: int, values: int, gates: int | str) -> None:
    """Every number of the outputs is written, and is the compiled kernel's."""
    heads, rows, sequences = 2, sum(lengths), len(lengths)
    random = np.random.default_rng(keys * values)
    normal = lambda *shape: checked(random.standard_normal(shape).astype(dtype))  # noqa: E731
    unset = lambda *shape: checked(np.full(shape, np.nan, dtype))  # noqa: E731
    bounds = np.cumsum((0, *lengths))
    slots = _borders.first_slots(cpu_kernels.CHUNK, bounds)
    common = (0, sequences * heads, heads, checked(bounds), checked(slots))
    q, k, v = (normal(rows, heads, size) for size in (keys, keys, values))
    log_g = -np.abs(normal(rows, heads, keys if gates == "K" else gates))
    initial, dfinal = normal(2, sequences, heads, keys, values)
    inputs, do = (q, k, v, checked(np.exp(log_g)), initial), normal(rows, heads, values)
    # As many borders as are kept, without those that nobody uses.
    o, final = unset(*v.shape), unset(*initial.shape)
    borders = unset(sum((length - 1) // cpu_kernels.CHUNK for length in lengths if length), heads, keys, values)
    gradients = [unset(*x.shape) for x in inputs]
    run = in_python(cpu_kernels, register)
    run("forward")(*common, *inputs, o, final, borders)
    run("backward")(*common, *inputs, borders, do, dfinal, *gradients)
    gradients[3] *= inputs[3]

    leaves = [torch.tensor(x)[None].requires_grad_() for x in (q, k, v, log_g)]
    leaves.append(torch.tensor(initial).requires_grad_())
    given = leaves[:3], (leaves[3][..., 0] if gates == 1 else leaves[3] if gates else None)
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    expected = gated_linear_attention(*given[0], given[1], initial_state=leaves[4], cu_seqlens=cu_seqlens)
    upstream = (torch.tensor(do)[None], torch.tensor(dfinal))
    expected += torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
    tolerance = 1e-4 if dtype is np.float32 else 1e-10
    for found, one in zip((o, final, *gradients), expected, strict=True):
        if one is not None and one.numel():
            bound = tolerance * one.abs().max().item()
            torch.testing.assert_close(torch.tensor(found), one.detach().view(found.shape), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("register", [32, 64])
def test_indices_are_inside(register: int, dtype: type) -> None:
    for i, size in enumerate(WIDTHS):
        other, gates = 1 + i % 6, [0, 1, "K"][i % 3]
        hold(register, dtype, LENGTHS[0], size, other, gates)
        hold(register, dtype, LENGTHS[0], other, size, gates)
    hold(register, dtype, LENGTHS[1], *CASES[(register == 64) + 2 * (dtype is np.float64)])


@pytest.mark.slow
@pytest.mark.parametrize(("register", "dtype"), [(32, np.float64), (32, np.float32), (64, np.float32)])
def test_indices_are_inside_for_every_width(register: int, dtype: type) -> None:
    for size in range(1, 70):  # beyond two pairs of registers it goes on alike
        other, gates = 1 + size % 6, [0, 1, "K"][size % 3]
        hold(register, dtype, (2,), size, other, gates)
        hold(register, dtype, (2,), other, size, gates)
    for case in CASES:
        hold(register, dtype, LENGTHS[1], *case)


def test_an_index_outside_is_seen() -> None:
    """What the tests above would find: the check is not one that never fails."""
    x = checked(np.zeros((4, 8), np.float32))
    assert isinstance(x[1:], Checked)
    names = in_python(cpu_kernels, 32)
    load, store, load4 = names("load"), names("store"), names("load4")
    eight, four = names("registers")(x, 1), names("lanes")(x, 4)
    load4(eight, x, 0, 0)
    store(four, x, 3, 4)
    for wrong in (
        lambda: load(eight, x, 0, 1),
        lambda: load(eight, x, 0, -8),
        lambda: load(eight, x, 4, 0),
        lambda: load4(four, x, 1, 0),
        lambda: store(four, x, 3, 5),
        lambda: x[-1],
    ):
        with pytest.raises(IndexError, match="outside"):
            wrong()
