"""Shift-K: closed forms against brute force, the bound, and that layers have the poles of their families."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seqmix.__main__ import main
from seqmix.mixers import BDLRU, HLRU, LRU
from seqmix.tasks.shift_k import (
    FAMILIES,
    allpass_loss,
    fit_poles,
    lower_bound,
    normalised_gain,
    optimal_loss,
    optimal_weights,
    population_loss,
)


def random_poles(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    radius, angle = torch.rand(2, n, dtype=torch.float64, generator=generator)
    return torch.polar(0.3 + 0.65 * radius, 2 * torch.pi * angle)


def brute_force(features: np.ndarray, shift: int) -> float:
    """Least squares of the shifted impulse on features (T, S)."""
    target = np.zeros(len(features), dtype=features.dtype)
    target[shift] = 1
    weights = np.linalg.lstsq(features, target, rcond=None)[0]
    return float((np.abs(features @ weights - target) ** 2).sum())


@pytest.mark.parametrize("shift", [0, 1, 5, 30])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_closed_forms_are_least_squares(n: int, shift: int) -> None:
    poles = random_poles(n)
    powers = poles.numpy() ** np.arange(1500)[:, None]
    expected = brute_force(powers, shift)
    weights = optimal_weights(poles, shift)
    assert float(optimal_loss(poles, shift)) == pytest.approx(expected, abs=1e-12)
    assert float(population_loss(poles, weights, shift)) == pytest.approx(expected, abs=1e-10)
    # Any weights, not only the best.
    other = weights + torch.randn(n, dtype=torch.complex128)
    filtered = powers @ other.numpy()
    filtered[shift] -= 1
    assert float(population_loss(poles, other, shift)) == pytest.approx((np.abs(filtered) ** 2).sum(), rel=1e-10)


def test_equal_poles_have_a_limit() -> None:
    # Ten equal poles: the span of k^i a^k, where the matrix of the weights has no inverse.
    poles = torch.full((10,), 0.8, dtype=torch.complex128)
    k = np.arange(600, dtype=np.float64)
    features = np.stack([k**i * 0.8**k for i in range(10)], 1)
    features /= np.linalg.norm(features, axis=0)
    assert float(optimal_loss(poles, 25)) == pytest.approx(brute_force(features, 25), abs=1e-7)


def test_bound() -> None:
    for n in (1, 4, 9):
        for shift in (0, 3, 8, 40):
            bound = lower_bound(n, shift)
            for seed in range(20):
                assert float(optimal_loss(random_poles(n, seed), shift)) >= bound - 1e-12
            delay_line = float(optimal_loss(torch.zeros(n, dtype=torch.complex128), shift))
            assert delay_line == pytest.approx(0.0 if shift < n else 1.0, abs=1e-12)
    assert lower_bound(9, 8) == 0 and lower_bound(8, 8) == pytest.approx(1 / 9)
    assert normalised_gain(0.9, 4, 39) == pytest.approx(1.0) and normalised_gain(1.0, 4, 39) == 0


@pytest.mark.parametrize(("n", "shift", "expected"), [(2, 20, 0.9503), (4, 40, 0.9360)])
def test_learned_poles(n: int, shift: int, expected: float) -> None:
    fit = fit_poles("lru", n, shift, starts=2, steps=300)
    assert fit.loss == pytest.approx(expected, abs=2e-4)
    assert float(optimal_loss(fit.poles, shift)) == pytest.approx(fit.loss, abs=1e-9)
    assert fit.losses[0] == fit.loss and fit.bound < fit.loss < 1


def test_gains_of_eight_poles() -> None:
    gains = {name: fit_poles(name, 8, 40, starts=3, steps=200).gain for name in FAMILIES}
    assert gains["lru"] >= 0.75
    # Gates that are not negative and sum to at most one reach half of that.
    assert 0.25 <= gains["bd-lru"] <= 0.45 and 0.3 <= gains["h-lru"] <= 0.45


def layer_of(name: str, parameters: torch.Tensor) -> tuple[torch.nn.Module, int]:
    """A layer of width one with constant gates whose poles are those of the parameters, and its number of states."""
    like = {"dtype": torch.float64}
    if name == "lru":
        n = parameters.shape[-1]
        lru = LRU(1, n, **like)
        with torch.no_grad():
            lru.nu_log.copy_(parameters[0])
            lru.theta_log.copy_(parameters[1])
        return lru, 2 * n
    layer = (
        HLRU(1, len(parameters), parameters.shape[-1] - 1, **like)
        if name == "h-lru"
        else BDLRU(1, parameters.shape[0] * parameters.shape[1], parameters.shape[1], **like)
    )
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
        layer.proj_gates.bias.copy_(parameters.flatten())
        layer.proj_v.weight.normal_()
    return layer, layer.state_size()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_layer_of_the_library_reaches_the_optimum_of_its_poles(name: str) -> None:
    shift, length = 12, 900
    fit = fit_poles(name, 8, shift, steps=30, starts=2)
    layer, n_states = layer_of(name, fit.parameters)
    impulse = torch.zeros(1, length, 1, dtype=torch.float64)
    impulse[0, 0] = 1
    features, state = [], None
    with torch.no_grad():
        for t in range(length):
            _, state = layer(impulse[:, t : t + 1], state)
            values = torch.view_as_real(state[0]) if state[0].is_complex() else state[0]
            features.append(values.flatten().clone())
    states = torch.stack(features).numpy()
    assert states.shape == (length, n_states) == (length, 8)
    # Any linear read-out of the layer's own states, against the closed form.
    assert brute_force(states / np.linalg.norm(states, axis=0), shift) == pytest.approx(fit.loss, abs=1e-6)


def test_blocks_by_their_eigenvalues() -> None:
    logits = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    poles = torch.linalg.eigvals(logits.softmax(-1)[..., :-1]).flatten(1)
    found = allpass_loss(FAMILIES["bd-lru"].denominators(logits), 9)
    torch.testing.assert_close(found, optimal_loss(poles, 9), rtol=1e-9, atol=1e-9)


def test_command_keeps_records_and_writes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, docs, figure = tmp_path / "fits.jsonl", tmp_path / "docs.md", tmp_path / "fits.svg"
    docs.write_text("before\n<!-- seqmix:shift-k -->\n<!-- /seqmix:shift-k -->\nafter\n")
    options = ["shift-k", "--mixer", "lru", "bd-lru", "--states", "4", "--shifts", "8", "16", "--steps", "20"]
    options += ["--store", str(store), "--figure", str(figure), "--write", str(docs), "--section", "shift-k"]
    assert main(options) == 0
    records = [json.loads(line) for line in store.read_text().splitlines()]
    assert [(r["mixer"], r["shift"]) for r in records] == [("lru", 8), ("lru", 16), ("bd-lru", 8), ("bd-lru", 16)]
    for record in records:
        poles = torch.tensor(record["poles"], dtype=torch.float64)
        poles = torch.complex(poles[:, 0], poles[:, 1])
        assert float(optimal_loss(poles, record["shift"])) == pytest.approx(record["loss"], abs=1e-8)
    text = docs.read_text()
    assert f"{records[0]['loss']:.4f} ({records[0]['gain']:.2f})" in text and "Written by `seqmix shift-k" in text
    assert text.startswith("before") and text.endswith("after\n") and "<svg" in figure.read_text()
    before = store.read_text(), figure.read_text(), text
    assert main(options) == 0
    assert (store.read_text(), figure.read_text(), docs.read_text()) == before, "what is known is not made again"
    store.write_text("{}\n")
    assert main(options) == 2 and "fits.jsonl:1: expected the fields " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixer", "hlru"], "unknown mixer with poles of its own: 'hlru'; did you mean 'h-lru'"),
        (["--mixer", "h-lru", "--states", "6"], "n_poles must be a multiple of the 4 poles of a part of h-lru, got 6"),
        (["--mixer", "lru", "--states", "3"], "multiple of the 2 poles"),
        (["--states", "0"], "n_poles must be"),
        (["--shifts", "-1"], "shift must be an integer of at least 0, got -1"),
        (["--starts", "0"], "starts must be a positive integer, got 0"),
        (["--write", "x.md"], "--write and --section: expected both or none"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shift-k", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_unstable_poles() -> None:
    with pytest.raises(ValueError, match="inside the unit circle, got one of 1"):
        optimal_loss(torch.ones(2, dtype=torch.complex128), 3)
