"""Noise and the flatness of minima of small nets (2202.02831; layer by layer: Orvieto et al. 2023, 2206.04613).

A tanh net of two hidden layers on 300 of the digits, full batch, mean squared error. `anti` adds anti-correlated noise
to all weights, `layers` to one layer at a time, in turn, which does not grow with the width as the other does.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.optim import AntiPGD, FractionalPGD
from seqmix.optim.layer_noise import LayerNoise
from seqmix.studies.computations._digits import digits
from seqmix.studies.computations._hessian import hessian_trace

__all__ = ["run"]


def run(seed: int, noise: str, width: int, sigma: float = 0.1, steps: int = 1500, lr: float = 0.1) -> dict[str, float]:
    """`trace` of the Hessian by Hutchinson's estimate, `test` loss, `train` loss."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = digits(300, seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh(),
        torch.nn.Linear(width, 10),
    )  # fmt: skip
    optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr=lr, foreach=False)
    if noise == "anti":
        optimizer = AntiPGD(optimizer, sigma=sigma, seed=seed)
    elif noise == "layers":
        optimizer = LayerNoise(optimizer, sigma=sigma, seed=seed)
    elif noise == "independent":
        optimizer = FractionalPGD(optimizer, hurst=0.5, sigma=sigma, seed=seed)
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(net, x, y).backward()
        optimizer.step()
    with torch.no_grad():
        for p in net.parameters():  # of what the noise goes around
            p.sub_(optimizer.state[p].get("noise", torch.zeros(())))
    train = _loss(net, x, y)
    parameters = list(net.parameters())
    gradients = torch.autograd.grad(train, parameters, create_graph=True)
    return {
        "trace": hessian_trace(gradients, parameters, seed),
        "test": _loss(net, x_test, y_test).item(),
        "train": train.item(),
    }


def _loss(net: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(net(x), F.one_hot(y, 10).float())
