"""The noise of GIDD and its bound against plain loops, and against what a tiny alphabet gives exactly."""

import itertools
import math

import pytest
import torch

from seqmix.models import GIDD
from seqmix.models.diffusion import times

LEVELS = [0.0, 0.1, 0.5]


def q(process: GIDD, x: int, t: float) -> list[float]:
    """q_t(. | x) over the symbols and the mask, by the paper's words."""
    n, b = process.n_symbols, 2 * process.p_u / (1 - process.p_u)
    c = b * math.sqrt(t * (1 - t))
    stays, evenly, masked = (1 - t) / (1 + c), c / (1 + c), t / (1 + c)
    return [evenly / n + (stays if y == x else 0) for y in range(n)] + [masked]


def mixed(process: GIDD, said: list[float], t: float) -> list[float]:
    """q_t(. | x^)."""
    rows = [q(process, x, t) for x in range(process.n_symbols)]
    return [sum(p * row[y] for p, row in zip(said, rows, strict=True)) for y in range(process.n_symbols + 1)]


def rate(process: GIDD, z: int, t: float) -> float:
    """b_t(z), at which any other token jumps to z, by differences: the transition from t to t + h over h."""
    n, h = process.n_symbols, 1e-6
    other = next(x for x in range(n) if x != z)

    def stays(at: float) -> float:
        return q(process, other, at)[other] - q(process, z if z < n else 1, at)[other]  # alpha

    return (q(process, other, t + h)[z] - stays(t + h) / stays(t) * q(process, other, t)[z]) / h


@pytest.mark.parametrize("p_u", LEVELS)
def test_marginals_are_those_of_the_jumps(p_u: float) -> None:
    """dq/dt = q R, R the matrix whose entries are b_t(z), integrated from t = 0.2 to 0.7."""
    process, steps = GIDD(3, p_u), 4000
    found = torch.tensor(q(process, 1, 0.2), dtype=torch.float64)
    for step in range(steps):
        t = 0.2 + 0.5 * (step + 0.5) / steps
        into = torch.tensor([rate(process, z, t) for z in range(4)], dtype=torch.float64)
        assert (into >= -1e-9).all()
        found = found + 0.5 / steps * (into * found.sum() - found * into.sum())
    assert torch.allclose(found, torch.tensor(q(process, 1, 0.7), dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("p_u", LEVELS)
def test_levels_and_marginals(p_u: float) -> None:
    process, t = GIDD(3, p_u), torch.tensor(0.37)
    alpha, mask, symbol = process.levels(t)
    assert [alpha + symbol, symbol, symbol, mask] == pytest.approx(q(process, 0, float(t.double())))
    said = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    expected = torch.tensor(mixed(process, said.tolist(), float(t.double())), dtype=torch.float64)
    torch.testing.assert_close(process.log_marginal(said.log(), t).exp(), expected)
    half = process.levels(torch.tensor(0.5))
    assert float(3 * half.symbol) == pytest.approx(p_u)  # what p_u is


@pytest.mark.parametrize("p_u", LEVELS)
@pytest.mark.parametrize("t", [0.03, 0.5, 0.9])
def test_the_bound_is_the_sum_over_jumps(p_u: float, t: float) -> None:
    """What a token adds is sum over y != z of the rates back, of the model and of the data, in the form of a path's
    likelihood: R^ - R - R log(R^ / R) with R^(z -> y) = b(z) q(y | x^) / q(z | x^)."""
    process, said = GIDD(3, p_u), [0.1, 0.6, 0.3]
    logits, at = torch.tensor(said, dtype=torch.float64).log(), torch.tensor(t, dtype=torch.float64)
    model = mixed(process, said, t)
    for x, z in itertools.product(range(3), range(4)):
        data = q(process, x, t)
        if data[z] == 0:
            continue
        expected = 0.0
        for y in range(4):
            back, back_said = (rate(process, z, t) * each[y] / each[z] for each in (data, model))
            expected += 0.0 if y == z else back_said - back - (back * math.log(back_said / back) if back > 1e-12 else 0)
        found = process.bound(logits, torch.tensor(z), torch.tensor(x), at)
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5), (x, z)
        weight = float(process.weights(torch.tensor(z), torch.tensor(x), at)) / (2 * t * (1 - t))
        assert weight == pytest.approx(rate(process, z, t) / data[z], rel=1e-4, abs=1e-5)
        divergence = sum(a * math.log(a / b) for a, b in zip(data, model, strict=True) if a > 0)
        divergence += data[z] / model[z] - math.log(data[z] / model[z]) - 1
        if weight:
            again = process.divergence(logits, torch.tensor(z), torch.tensor(x), at)
            assert float(again) == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize("p_u", LEVELS)
def test_single_precision_is_enough_at_both_ends(p_u: float) -> None:
    process, generator = GIDD(257, p_u), torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 257, generator=generator)
    t = times(400, torch.tensor(0.3))[0]
    x = torch.randint(257, (400,), generator=generator)
    z = process.corrupt(x, t, torch.rand(400, generator=generator))
    exact = process.bound(logits.double(), z, x, t)
    assert torch.isfinite(exact).all() and (exact >= -1e-9).all()
    jacobian = math.pi * (t * (1 - t)).sqrt()
    error = (process.bound(logits, z, x, t) - exact) * jacobian
    assert error.abs().max() < 1e-3 * (exact * jacobian).mean()


@pytest.mark.parametrize("p_u", LEVELS)
def test_tokens_are_drawn_from_the_marginals(p_u: float) -> None:
    process, count = GIDD(4, p_u), 40_000
    x, t = torch.full((count,), 2), torch.tensor(0.6)
    z = process.corrupt(x, t, (torch.arange(count) + 0.5) / count)
    shares = torch.bincount(z, minlength=5) / count
    assert shares.tolist() == pytest.approx(q(process, 2, 0.6), abs=2 / count)


def test_the_mean_over_times_is_an_integral() -> None:
    t, weights = times(2000, torch.tensor(0.123))
    assert float((weights * t**2).mean()) == pytest.approx(1 / 3, rel=1e-3)
    assert float((weights / t.sqrt()).mean()) == pytest.approx(2, rel=1e-3)  # what is infinite at 0


class Pairs:
    """Two tokens over three symbols with a joint distribution, and every noisy pair there can be."""

    def __init__(self, p_u: float) -> None:
        self.process = GIDD(3, p_u)
        self.joint = torch.rand(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
        self.joint /= self.joint.sum()
        self.noisy = torch.tensor(list(itertools.product(range(4), repeat=2)))
        self.pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))

    def marginals(self, t: float) -> torch.Tensor:
        return torch.tensor([q(self.process, x, t) for x in range(3)], dtype=torch.float64)

    def posterior(self, t: float, own: bool = False) -> torch.Tensor:
        """x^ (16, 2, 3): of each symbol given the other token, or both."""
        m = self.marginals(t)
        found = torch.empty(16, 2, 3, dtype=torch.float64)
        for row, (a, b) in enumerate(self.noisy.tolist()):
            first, second = self.joint @ m[:, b], m[:, a] @ self.joint
            found[row, 0], found[row, 1] = (first * m[:, a], second * m[:, b]) if own else (first, second)
        return found / found.sum(-1, keepdim=True)

    def bounds(self, said, steps: int = 500) -> torch.Tensor:
        """The bound of each pair (9,), every noisy pair weighted by its probability; `said` is x^ by t."""
        found = torch.zeros(9, dtype=torch.float64)
        for t, weight in zip(*times(steps, torch.tensor(0.5 / steps)), strict=True):
            m, logits = self.marginals(float(t)), said(float(t)).log().expand(9, 16, 2, 3)
            z, x = self.noisy.expand(9, 16, 2), self.pairs[:, None].expand(9, 16, 2)
            terms = self.process.bound(logits, z, x, t).sum(-1).nan_to_num()
            found += weight / steps * (m[x, z].prod(-1) * terms).sum(1)
        return found

    def modelled(self, said, steps: int) -> torch.Tensor:
        """What the reverse chain ends with, from masks alone: probabilities of the nine pairs."""
        chain = torch.zeros(16, dtype=torch.float64)
        chain[15] = 1
        for step in range(steps):
            t, s = ((1 - at / steps) for at in (step, step + 1))
            logits = said(t).log()
            t, s = (torch.tensor(each, dtype=torch.float64) for each in (t, s))
            moves = self.process.reverse(logits, self.noisy, t, s).nan_to_num()  # (16, 2, 4)
            chain = (chain[:, None, None] * moves[:, 0, :, None] * moves[:, 1, None, :]).sum(0).flatten()
        return chain.view(4, 4)[:3, :3].flatten()


@pytest.mark.parametrize("p_u", [0.0, 0.3])
def test_the_bound_of_the_true_posterior_is_the_entropy(p_u: float) -> None:
    """And that of the posterior which also looks at the token itself is not, where that token may be wrong."""
    pairs = Pairs(p_u)
    probabilities = pairs.joint.flatten()
    entropy = float(torch.special.entr(probabilities).sum())
    assert float((probabilities * pairs.bounds(pairs.posterior)).sum()) == pytest.approx(entropy, rel=2e-3)
    if p_u:
        own = float((probabilities * pairs.bounds(lambda t: pairs.posterior(t, own=True) + 1e-12, 300)).sum())
        assert own > entropy + 0.2


@pytest.mark.parametrize("p_u", [0.0, 0.3])
def test_it_bounds_what_the_reverse_chain_gives(p_u: float) -> None:
    """For a model that says anything: the negative log-likelihood of each pair, of a chain of many steps."""
    pairs = Pairs(p_u)
    wrong = (2 * torch.randn(16, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).softmax(-1)
    bounds, exact = pairs.bounds(lambda t: wrong, 400), -pairs.modelled(lambda t: wrong, 800).log()
    assert (bounds > exact - 0.01).all() and (bounds - exact).max() > 0.05


@pytest.mark.parametrize("p_u", [0.0, 0.3])
def test_the_reverse_chain_of_the_true_posterior_draws_the_data(p_u: float) -> None:
    pairs = Pairs(p_u)
    errors = [(pairs.modelled(pairs.posterior, n) - pairs.joint.flatten()).abs().sum().item() for n in (20, 80)]
    assert errors[1] < 0.5 * errors[0] and errors[1] < 0.03


@pytest.mark.parametrize("p_u", LEVELS)
def test_steps_back_are_bayes(p_u: float) -> None:
    """q(z_s | z_t, x^) from the chance of every way from s to t, which together lead to q_t."""
    process, said, t, s = GIDD(3, p_u), [0.1, 0.6, 0.3], 0.7, 0.4
    now, then = mixed(process, said, t), mixed(process, said, s)
    alphas = [q(process, 0, at)[0] - q(process, 1, at)[0] for at in (t, s)]
    kept = alphas[0] / alphas[1]
    noise = [q(process, (z + 1) % 3, t)[z] - kept * q(process, (z + 1) % 3, s)[z] for z in range(4)]
    forward = [[noise[z] + (kept if y == z else 0) for z in range(4)] for y in range(4)]
    for z in range(4):
        assert sum(then[y] * forward[y][z] for y in range(4)) == pytest.approx(now[z])
        if now[z] == 0:
            continue
        found = process.reverse(torch.tensor(said).double().log(), torch.tensor(z), torch.tensor(t), torch.tensor(s))
        assert found.tolist() == pytest.approx([forward[y][z] * then[y] / now[z] for y in range(4)], abs=1e-6)


@pytest.mark.parametrize(("n", "p_u"), [(0, 0.0), (3, 1.0), (3, -0.1)])
def test_what_is_out_of_range(n: int, p_u: float) -> None:
    with pytest.raises(ValueError, match="GIDD: "):
        GIDD(n, p_u)
