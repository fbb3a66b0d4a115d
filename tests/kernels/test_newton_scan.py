"""`newton_scan` against a loop: cells of one channel, of pairs and of all channels, packed, chaotic ones."""

from itertools import pairwise

import pytest
import torch

from seqmix.kernels import backend, newton_scan

D = 6


class ParaGRU(torch.nn.Module):
    """A GRU whose channels see themselves only (ParaRNN, 2510.21450); `scale` is the size of what the state does."""

    def __init__(self, scale):
        super().__init__()
        self.a = torch.nn.Parameter(scale * (2 * torch.rand(3, D, dtype=torch.float64) - 1))
        self.b = torch.nn.Parameter(torch.randn(3, D, D, dtype=torch.float64) / D**0.5)

    def forward(self, h, x):
        z, r, n = (x.unsqueeze(-2).unsqueeze(-2) @ self.b.mT).squeeze(-2).unbind(-2)
        z, r = (z + self.a[0] * h).sigmoid(), (r + self.a[1] * h).sigmoid()
        return (1 - z) * h + z * (n + self.a[2] * (h * r)).tanh()


class SelfSeeing(ParaGRU):
    """minGRU with a gate that sees the state."""

    def forward(self, h, x):
        z, _, n = (x.unsqueeze(-2).unsqueeze(-2) @ self.b.mT).squeeze(-2).unbind(-2)
        z = (z + self.a[0] * h).sigmoid()
        return (1 - z) * h + z * n


class Pairs(ParaGRU):
    """Channels that turn in pairs before a tanh."""

    def forward(self, h, x):
        turned = torch.stack((h[..., 0::2] - h[..., 1::2], h[..., 0::2] + h[..., 1::2]), -1).flatten(-2)
        return (self.a[0] * turned + x @ self.b[0]).tanh()


class Dense(ParaGRU):
    def forward(self, h, x):
        return (h @ (self.b[1] * self.a[0]) + x @ self.b[0]).tanh()


CELLS = {
    "one channel": (ParaGRU, {}),
    "one channel, bounded": (ParaGRU, {"bound": 1.0}),
    "a gate that sees": (SelfSeeing, {}),
    "pairs": (Pairs, {"block_size": 2}),
    "all": (Dense, {"block_size": D}),
    "all, by their diagonal": (Dense, {"block_size": D, "quasi": True, "max_iterations": 60}),
}


def loop(cell, x, h0, bounds=None):
    if bounds is None:
        rows, h = [], h0
        for x_t in x.unbind(1):
            h = cell(h, x_t)
            rows.append(h)
        return torch.stack(rows, 1), h
    parts = [loop(cell, x[:, a:b], h0[s : s + 1]) if b > a else (x[:, :0, :D], h0[s : s + 1])
             for s, (a, b) in enumerate(pairwise(bounds))]  # fmt: skip
    return torch.cat([h for h, _ in parts], 1), torch.cat([final for _, final in parts])


@pytest.mark.parametrize("bounds", [None, [0, 9, 9, 40]], ids=["batch", "packed"])
@pytest.mark.parametrize("case", CELLS)
def test_values_and_gradients_are_those_of_the_loop(case, bounds):
    torch.manual_seed(0)
    make, options = CELLS[case]
    cell, sequences = make(0.7), 3 if bounds else 2
    x = torch.randn(1 if bounds else 2, 40, D, dtype=torch.float64, requires_grad=True)
    h0 = torch.rand(sequences, D, dtype=torch.float64, requires_grad=True)
    found = newton_scan(cell, x, h0, cu_seqlens=torch.tensor(bounds).int() if bounds else None, **options)
    assert not found.looped and found.iterations > 0 and found.residual <= 1e-11
    expected = loop(cell, x, h0, bounds)
    torch.testing.assert_close(found[:2], expected, rtol=1e-9, atol=1e-10)
    gradients = [
        torch.autograd.grad(h.sin().sum() + (final * final).sum(), (x, h0, *cell.parameters()), allow_unused=True)
        for h, final in (found[:2], expected)
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_a_cell_that_does_not_converge_is_looped_and_its_gradient_is_right():
    torch.manual_seed(0)
    cell, x = ParaGRU(4.0), torch.randn(1, 300, D, dtype=torch.float64, requires_grad=True)
    h0 = torch.zeros(1, D, dtype=torch.float64)
    found = newton_scan(cell, x, h0, max_iterations=2)
    assert found.looped and found.iterations <= 2 and not found.residual < 1e-12
    h, final = loop(cell, x, h0)
    torch.testing.assert_close(found[:2], (h, final), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(rows[:, -1].sum(), x)[0] for rows in (found.h, h)))


def test_a_cell_that_forgets_needs_as_many_iterations_for_any_length():
    torch.manual_seed(0)
    cell, h0, taken = ParaGRU(0.5), torch.zeros(1, D, dtype=torch.float64), []
    for length in (64, 4096):
        with torch.no_grad():
            found = newton_scan(cell, torch.randn(1, length, D, dtype=torch.float64), h0)
        assert not found.looped and not found.h.requires_grad
        taken.append(found.iterations)
    assert taken[1] <= taken[0] + 2 < 12


@pytest.mark.parametrize(("size", "keeps", "length"), [(1e-6, 0.9, 200), (1e-3, 0.9999, 4000), (1e-3, 0.99, 4000)])
def test_small_states_are_as_exact_as_large_ones(size, keeps, length):
    """Residuals are measured by the states, and what a long memory makes of them goes with one step more."""
    torch.manual_seed(0)
    x, h0 = size * torch.randn(2, length, 1), torch.zeros(2, 1)
    x[1] *= 1e-3  # beside which the first row is large
    cell = lambda h, x: torch.tanh(keeps * h + x)  # noqa: E731
    found, expected = newton_scan(cell, x, h0), loop(cell, x.double(), h0.double())[0]
    assert not found.looped and found.iterations > 0
    error = (found.h - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))
    assert (error < (1e-4 if keeps > 0.999 else 1e-5)).all()  # of 4,000 steps rounding alone leaves as much


def test_states_of_zero():
    x, h0 = torch.zeros(1, 9, 2), torch.zeros(1, 2)
    found = newton_scan(lambda h, x: torch.tanh(0.5 * h + x), x, h0)
    assert not found.looped and not found.h.any()


def test_in_single_precision():
    torch.manual_seed(0)
    cell, x = ParaGRU(0.5).float(), torch.randn(2, 200, D)
    found = newton_scan(cell, x, torch.zeros(2, D))
    assert not found.looped
    torch.testing.assert_close(found.h, loop(cell, x, torch.zeros(2, D))[0], rtol=1e-4, atol=1e-4)


def test_derivatives_of_other_kinds():
    cell, x = ParaGRU(0.5), torch.randn(1, 5, D, dtype=torch.float64, requires_grad=True)
    h0 = torch.zeros(1, D, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(newton_scan(cell, x, h0).h.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="newton_scan: second derivatives need backend='reference'"):
        torch.autograd.grad(gradient.sum(), x)
    with pytest.raises(NotImplementedError, match="newton_scan: forward-mode AD needs"):
        torch.func.jvp(lambda x: newton_scan(cell, x, h0).h, (x.detach(),), (torch.ones_like(x),))
    with backend("reference"):
        assert newton_scan(cell, x, h0).iterations == 0
        assert torch.autograd.gradgradcheck(lambda x: newton_scan(cell, x, h0).h, x, fast_mode=True)


def test_bad_arguments():
    x, h0 = torch.randn(2, 5, D), torch.zeros(2, D)
    for changed, match in (
        ({"x": x[0]}, r"x must be a tensor of shape \(B, T, E\)"),
        ({"x": x.bfloat16()}, "x must be float32 or float64, got torch.bfloat16"),
        ({"x": x[:, :0]}, "T = 0"),
        ({"initial_state": h0.double()}, "initial_state must be torch.float32 on cpu like x"),
        ({"initial_state": h0[:1]}, r"initial_state must have shape \(2, 6\)"),
        ({"block_size": 4}, "block_size must divide D = 6, got 4"),
        ({"max_iterations": 0}, "max_iterations must be a positive integer"),
        ({"bound": -1.0}, "bound must be positive or None, got -1.0"),
        ({"tolerance": 0.0}, "tolerance must be positive or None, got 0.0"),
        ({"cu_seqlens": torch.tensor([0, 5]).int()}, "B = 1, got B = 2"),
    ):
        with pytest.raises(ValueError, match=match):
            newton_scan(lambda h, x: h, **({"x": x, "initial_state": h0} | changed))
