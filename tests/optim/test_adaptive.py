"""TiedAdam and Signum: Adam's identities, the bounds of their steps, the sign."""

import pytest
import torch
from torch import nn

from seqmix.optim import Signum, TiedAdam, adamw

F64 = torch.float64


def gradients(count, size=5):
    torch.manual_seed(0)
    return [torch.randn(size, dtype=F64) for _ in range(count)]


def run(make, grads, rates=None, size=5, **kwargs):
    p = nn.Parameter(torch.linspace(-1, 1, size, dtype=F64))
    optimizer = make([p] if make is not adamw else [{"params": [p]}], **kwargs)
    for k, g in enumerate(grads):
        if rates:
            optimizer.param_groups[0]["lr"] = rates[k]
        p.grad = g.clone()
        optimizer.step()
    return p.detach(), optimizer.state[p]


def test_tied_adam_is_twenty_steps_of_its_equations():
    x, m, variance = torch.linspace(-1, 1, 5, dtype=F64), 0.0, 0.0
    for g in gradients(20):
        variance = 0.9 * (variance + 0.1 * (m - g) ** 2)
        m = 0.9 * m + 0.1 * g
        x = (1 - 0.02 * 0.3) * x - 0.02 * m / ((m**2 + variance).sqrt() + 1e-8)
    found, _ = run(TiedAdam, gradients(20), lr=0.02, beta=0.9, weight_decay=0.3)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-14)


def test_tied_adam_is_adam_with_equal_betas():
    kwargs = {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-6}
    expected, state = run(adamw, gradients(20), betas=(0.9, 0.9), fused=False, **kwargs)
    found, own = run(TiedAdam, gradients(20), beta=0.9, bias_correction=True, **kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(own["mean"], state["exp_avg"], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(own["mean"] ** 2 + own["variance"], state["exp_avg_sq"], rtol=1e-12, atol=1e-14)


def test_bias_correction_is_a_learning_rate():
    beta = 0.95
    rates = [0.01 * (1 - beta**k) ** 0.5 / (1 - beta**k) for k in range(1, 31)]
    expected, _ = run(TiedAdam, gradients(30), beta=beta, lr=0.01, eps=0.0, bias_correction=True)
    found, _ = run(TiedAdam, gradients(30), rates, beta=beta, eps=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
@pytest.mark.parametrize("corrected", [False, True])
def test_scale_invariance_without_eps(scale, corrected):
    kwargs = {"lr": 0.01, "eps": 0.0, "bias_correction": corrected}
    expected, _ = run(TiedAdam, gradients(20), **kwargs)
    found, _ = run(TiedAdam, [scale * g for g in gradients(20)], **kwargs)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)
    still, _ = run(TiedAdam, [torch.zeros(5, dtype=F64)], **kwargs)
    assert torch.equal(still, torch.linspace(-1, 1, 5, dtype=F64))


@pytest.mark.parametrize("beta", [0.8, 0.95, 0.99])
def test_steps_are_at_most_lr_and_a_constant_gradient_attains_it(beta):
    p = nn.Parameter(torch.zeros(4, dtype=F64))
    optimizer = TiedAdam([p], lr=0.01, beta=beta, eps=0.0)
    largest = 0.0
    for g in [*(10.0 ** torch.randint(-3, 3, (4,)) * torch.randn(4, dtype=F64) for _ in range(200))]:
        before, p.grad = p.detach().clone(), g
        optimizer.step()
        largest = max(largest, (p.detach() - before).abs().max().item())
    assert largest <= 0.01 * (1 + 1e-12)
    for _ in range(4000):
        before, p.grad = p.detach().clone(), torch.full((4,), 3.0, dtype=F64)
        optimizer.step()
    torch.testing.assert_close(before - p.detach(), torch.full((4,), 0.01, dtype=F64), rtol=1e-6, atol=0)


def test_variance_keeps_what_cancels_in_the_second_moment():
    # float32: m^2 and v agree to 1e-8, their difference is lost; the sum of squares is not
    noise = 1e-4 * torch.tensor([1.0, -1.0]).repeat(200)
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=F64))
    low, high = TiedAdam([p], lr=1e-3), TiedAdam([q], lr=1e-3)
    for n in noise:
        p.grad, q.grad = 1 + n.view(1), 1 + n.double().view(1)
        low.step()
        high.step()
    kept, true = low.state[p]["variance"].double(), high.state[q]["variance"]
    torch.testing.assert_close(kept, true, rtol=1e-2, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_signum_moves_every_coordinate_by_lr(momentum):
    grads = gradients(20)
    x, m = torch.linspace(-1, 1, 5, dtype=F64), torch.zeros(5, dtype=F64)
    for g in grads:
        m = momentum * m + (1 - momentum) * g
        x = x - 0.03 * m.sign()
    found, state = run(Signum, grads, lr=0.03, momentum=momentum)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-14)
    assert bool(state) is bool(momentum)
    scales = torch.tensor([1e-8, 1.0, 1e5, 3.0, 1e-3], dtype=F64)
    scaled, _ = run(Signum, [scales * g for g in grads], lr=0.03, momentum=momentum)
    assert torch.equal(scaled, found)


def test_the_sign_of_nothing_is_nothing():
    found, _ = run(Signum, [torch.tensor([1.0, 0, -2, 0, 0], dtype=F64)], lr=0.5)
    torch.testing.assert_close(
        found, torch.linspace(-1, 1, 5, dtype=F64) - 0.5 * torch.tensor([1.0, 0, -1, 0, 0], dtype=F64)
    )


@pytest.mark.parametrize(
    ("make", "kwargs", "numbers"),
    [(TiedAdam, {}, 2), (Signum, {}, 1), (Signum, {"momentum": 0.0}, 0)],
)
def test_memory(make, kwargs, numbers):
    p = nn.Parameter(torch.zeros(100))
    p.grad = torch.ones(100)
    optimizer = make([p], **kwargs)
    optimizer.step()
    assert sum(t.numel() for t in optimizer.state[p].values() if t.dim()) == 100 * numbers
