"""CPU kernels with tiles of a state in registers stay inside of their arrays, whatever the widths and the registers."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from seqmix.kernels import _borders, delta_rule, dplr_delta_rule, gated_linear_attention
from seqmix.kernels.delta_rule import cpu_kernels as delta_kernels
from seqmix.kernels.dplr_delta_rule import cpu_kernels as dplr_kernels
from seqmix.kernels.gated_linear_attention import cpu_kernels
from tests.kernels.checked_lanes import Checked, checked, in_python

LENGTHS = [(1, 0, 2), (33, 0, 130)]  # the second: several blocks and a border, and blocks that are not full
# Around registers and pairs of them of 4, 8 and 16 numbers.
WIDTHS = [1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]
CASES = [(1, 7, 0), (7, 1, 1), (5, 9, "K"), (17, 3, 1), (3, 17, "K"), (33, 8, "K")]
# What each op takes beside q, k and v: "K" for each key, "1" for each head, "log" for decays, which kernels take as e^.
OPS: dict[str, tuple[Callable, ModuleType, list[str]]] = {
    "gated_linear_attention": (gated_linear_attention, cpu_kernels, ["log"]),
    "delta_rule": (delta_rule, delta_kernels, ["1", "log"]),
    "dplr_delta_rule": (dplr_delta_rule, dplr_kernels, ["K", "K", "log"]),
}


def hold(
    op: str,
    register: int,
    dtype: type,
    lengths: tuple[int, ...],
    keys: int,
    values: int,
    gates: int | str,
    shared: bool = False,
) -> None:
    """Every number of the outputs is written, and is the compiled kernel's; `shared`: all with one head's q, k."""
    function, kernels, others = OPS[op]
    gates = {"delta_rule": int(gates != 0), "dplr_delta_rule": "K"}.get(op, gates)
    chunk = getattr(kernels, "CHUNK", kernels.BLOCK)  # steps between borders
    heads, rows, sequences = 2, sum(lengths), len(lengths)
    random = np.random.default_rng(keys * values)
    normal = lambda *shape: checked(random.standard_normal(shape).astype(dtype))  # noqa: E731
    unset = lambda *shape: checked(np.full(shape, np.nan, dtype))  # noqa: E731
    bounds = np.cumsum((0, *lengths))
    slots = _borders.first_slots(chunk, bounds)
    common = (0, sequences * heads, heads, checked(bounds), checked(slots))
    shapes = {"K": (keys,), "1": (), "log": (keys if gates == "K" else gates,)}
    # Small, so that a state is not multiplied by more than about one.
    given = [normal(rows, heads, size) for size in (keys, keys, values)]
    given += [checked(normal(rows, heads, *shapes[other]) / (4 + keys)) for other in others]
    given[1] /= keys**0.5
    given[-1] = checked(-np.abs(given[-1]))
    initial, dfinal = normal(2, sequences, heads, keys, values)
    if shared:
        given[0][:], given[1][:] = given[0][:, :1], given[1][:, :1]
    inputs, do = (*given[:-1], checked(np.exp(given[-1])), initial), normal(rows, heads, values)
    # As many borders as are kept, without those that nobody uses.
    o, final = unset(*given[2].shape), unset(*initial.shape)
    borders = unset(sum((length - 1) // chunk for length in lengths if length), heads, keys, values)
    gradients = [unset(*x.shape) for x in inputs]
    run = in_python(kernels, register)
    read = (*(checked(x[:, :1]) for x in inputs[:2]), *inputs[2:]) if shared else inputs
    run("forward")(*common, *read, o, final, borders)
    run("backward")(*common, *read, borders, do, dfinal, *gradients)
    if op != "delta_rule":  # which multiplies by the decay itself
        gradients[-2] *= inputs[-2]

    leaves = [torch.tensor(x)[None].requires_grad_() for x in given]
    leaves.append(torch.tensor(initial).requires_grad_())
    decay = (leaves[-2][..., 0] if gates == 1 else leaves[-2]) if gates else None
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    expected = function(*leaves[:-2], decay, initial_state=leaves[-1], cu_seqlens=cu_seqlens)
    upstream = (torch.tensor(do)[None], torch.tensor(dfinal))
    expected += torch.autograd.grad(expected, leaves, upstream, allow_unused=True)
    tolerance = 1e-4 if dtype is np.float32 else 1e-10
    for found, one in zip((o, final, *gradients), expected, strict=True):
        if one is not None and one.numel():
            bound = tolerance * one.abs().max().item()
            torch.testing.assert_close(torch.tensor(found), one.detach().view(found.shape), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("register", [32, 64])
@pytest.mark.parametrize("op", OPS)
def test_indices_are_inside(op: str, register: int, dtype: type) -> None:
    for i, size in enumerate(WIDTHS):
        other, gates = 1 + i % 6, [0, 1, "K"][i % 3]
        hold(op, register, dtype, LENGTHS[0], size, other, gates)
        hold(op, register, dtype, LENGTHS[0], other, size, gates)
    hold(op, register, dtype, LENGTHS[1], *CASES[(register == 64) + 2 * (dtype is np.float64)])


@pytest.mark.parametrize("gates", [0, 1, "K"])
def test_indices_are_inside_where_heads_share_keys(gates: int | str) -> None:
    hold("gated_linear_attention", 32, np.float64, LENGTHS[0], 5, 9, gates, shared=True)


@pytest.mark.slow
@pytest.mark.parametrize(("register", "dtype"), [(32, np.float64), (32, np.float32), (64, np.float32)])
@pytest.mark.parametrize("op", OPS)
def test_indices_are_inside_for_every_width(op: str, register: int, dtype: type) -> None:
    for size in range(1, 70):  # beyond two pairs of registers it goes on alike
        other, gates = 1 + size % 6, [0, 1, "K"][size % 3]
        hold(op, register, dtype, (2,), size, other, gates)
        hold(op, register, dtype, (2,), other, size, gates)
    for case in CASES:
        hold(op, register, dtype, LENGTHS[1], *case)


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
