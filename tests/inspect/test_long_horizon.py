"""Safe lengths of networks that keep a value for a very long time, while their gates round up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqmix.inspect import certify, verify
from seqmix.inspect.certificates.bounds import Rounding
from seqmix.inspect.certificates.network import Network
from seqmix.inspect.certificates.soft import Drift
from seqmix.kernels import gated_higher_order_scan
from tests.inspect.long_horizon import Case, cases, check, keeping, kept, network, right_after


@pytest.mark.parametrize("steps", [0, 1, 2, 50, 3000])
def test_errors_are_at_least_those_of_the_recurrence(steps: int) -> None:
    """E' = (1 + gamma) E + d, and R' = (1 + gamma) R + r, step by step."""
    gamma, first, later, rounded = 1e-3, np.array([0.3, 0.0, 0.2]), np.array([0.1, 0.0, 0.0]), np.full(3, 1e-2)
    low, high = np.full(3, -1e9), np.full(3, 1e9)
    drift = Drift(first, later, rounded, low, high, gap=0.0, gamma=gamma, most=1e30)
    error, room = first, rounded
    for _ in range(steps):
        error, room = (1 + gamma) * error + later, (1 + gamma) * room + rounded
    zero = np.zeros((1, 3))
    found = drift.after(steps)(zero, zero)[0]
    assert (found >= error * (1 - 1e-15)).all() and (found <= error * (1 + 1e-8)).all() and found[1] == 0
    inside = drift._replace(low=np.zeros(3), high=np.zeros(3))
    assert np.allclose(inside.after(steps)(zero, zero)[0], np.minimum(found, room), rtol=1e-8)


def test_without_end_nothing_but_exact_copies_is_safe() -> None:
    first = np.array([0.0, 1e-30])
    drift = Drift(first, first, np.full(2, 1e-7), np.zeros(2), np.ones(2), gap=0.0, gamma=1e-6, most=1e30)
    found = drift.after(2.0**62)(np.zeros((1, 2)), np.zeros((1, 2)))[0]
    assert found[0] == 0 and found[1] == np.inf, "as large as it may overflow"


@pytest.mark.parametrize("case", [Case("h-lru", 16, 30.0, 0), Case("bd-lru", 3, 10.0, 1, signed=True)])
def test_safe_lengths_hold_to_their_ends(case: Case) -> None:
    assert check(case, 10**6) > 50_000


def test_what_rounding_adds_is_not_taken_for_linear() -> None:
    """1,500 times what was written is n gamma after 131 million letters, but (1 + gamma)^n after 640,000."""
    model, task = network(Case("h-lru", 16, 1500.0, 0)), keeping()
    found = certify(model, task)
    verify(found, model, task)
    gamma = Network.of(model).rounding.gamma(32)
    assert 600_000 < found.safe_length <= np.log1p(1500) / np.log1p(gamma)
    with pytest.raises(ValueError, match="soft gates are not proved up to 125698847"):
        verify(replace(found, safe_length=125_698_847), model, task)


@pytest.mark.slow
def test_an_order_8_model_is_not_safe_for_what_is_linear() -> None:
    """Where rounding is n gamma, 196,291,036 letters are safe.

    With products that are fused into sums this model errs after some forty million; where a processor rounds them it
    goes on being right, so that its error is no test. Within its safe length it must be right anywhere.
    """
    case = Case("h-lru", 8, 1500.0, 0, decided=2.0, silent=3, letters=4)
    model, task = network(case), keeping(case.letters)
    found = certify(model, task)
    verify(found, model, task)
    linear = found.margin / Network.of(model).rounding.gamma(16)
    assert linear > 196_291_036 > found.safe_length > 900_000
    with pytest.raises(ValueError, match="soft gates are not proved up to 196291036"):
        verify(replace(found, safe_length=196_291_036), model, task)
    assert right_after(model, kept(model, found.safe_length - 1))


@pytest.mark.slow
def test_a_state_outgrows_what_is_linear() -> None:
    """Two letters in turn, neither of which writes: where digits round down under one they do not under the other."""
    first = [1.5, *15 * [-1.9831188917160034], -300.0]
    second = [1.5, *8 * [-1.761195421218872], *7 * [-1.8755292892456055], -300.0]
    chunk, chunks, gamma = 1 << 20, 36, Rounding.of(torch.float32).gamma(32)
    logits = torch.tensor([first, second])[None, :, None].repeat(1, chunk // 2, 1, 1)
    state, n = torch.ones(1, 1, 16), chunk * chunks
    for _ in range(chunks):
        _, state = gated_higher_order_scan(logits, torch.zeros(1, chunk, 1), initial_state=state)
    one, none = np.ones(1), np.zeros(1)
    drift = Drift(one * gamma, one * gamma, one * gamma, none, one, gap=0.0, gamma=gamma, most=1e300)
    assert 1 + n * gamma < float(state.max()) < 1 + drift.after(n - 1)(one[None], none[None]).item()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_many_safe_lengths_hold(seed: int) -> None:
    assert sum(check(case, 10**7) > 0 for case in cases(20, 20 * seed)) >= 10
