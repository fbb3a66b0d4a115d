"""Barriers between nets that were trained apart, before and after their units are matched (Theus et al. 2025,
2506.22712).

Two ReLU nets of two hidden layers on the digits from two seeds; `barrier` is the largest loss on the line between them
above the line between their losses, `matched` the same after the hidden units of the second are permuted to agree with
the first in their activations (Hungarian method, layer by layer), `average` and `average_matched` the accuracy of the
mean.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix._extras import require
from seqmix.studies.computations._descent import descend
from seqmix.studies.computations._digits import digits

__all__ = ["run"]


def run(seed: int, width: int, lr: float = 3e-3, steps: int = 600) -> dict[str, float]:
    """Nets of the seeds 2 seed and 2 seed + 1, Adam, batches of 64."""
    x, y, x_test, y_test = digits(1077, 0)
    first, second = (_trained(2 * seed + index, width, lr, steps, x, y) for index in (0, 1))
    matched = _matched(first, second, x)
    return {
        "barrier": _barrier(first, second, x, y),
        "matched": _barrier(first, matched, x, y),
        "average": _accuracy(_between(first, second, 0.5), x_test, y_test),
        "average_matched": _accuracy(_between(first, matched, 0.5), x_test, y_test),
        "accuracy": min(_accuracy(net, x_test, y_test) for net in (first, second)),
    }


def _trained(seed: int, width: int, lr: float, steps: int, x: Tensor, y: Tensor) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(x), (64,))
        return F.cross_entropy(net(x[rows]), y[rows])

    descend(net, torch.optim.Adam(net.parameters(), lr=lr), loss_at, steps=steps, clip=0)
    return net


def _matched(first: nn.Sequential, second: nn.Sequential, x: Tensor) -> nn.Sequential:
    assign = require("scipy.optimize", extra="images", owner="merging").linear_sum_assignment
    copy = deepcopy(second)
    with torch.no_grad():
        for index in (0, 2):
            ours, theirs = first[: index + 2](x), copy[: index + 2](x)
            normal = [F.normalize(h - h.mean(0), dim=0) for h in (ours, theirs)]
            order = torch.from_numpy(assign((normal[0].T @ normal[1]).numpy(), maximize=True)[1])
            here, after = copy[index], copy[index + 2]
            assert isinstance(here, nn.Linear) and isinstance(after, nn.Linear)
            here.weight.copy_(here.weight[order])
            here.bias.copy_(here.bias[order])
            after.weight.copy_(after.weight[:, order])
    return copy


def _between(first: nn.Sequential, second: nn.Sequential, share: float) -> nn.Sequential:
    net = deepcopy(first)
    mine, other = first.state_dict(), second.state_dict()
    net.load_state_dict({name: torch.lerp(mine[name], other[name], share) for name in mine})
    return net


@torch.no_grad()
def _barrier(first: nn.Sequential, second: nn.Sequential, x: Tensor, y: Tensor) -> float:
    shares = np.linspace(0, 1, 11)
    losses = [float(F.cross_entropy(_between(first, second, share)(x), y)) for share in shares]
    line = losses[0] + (losses[-1] - losses[0]) * shares
    return float((np.asarray(losses) - line).max())


@torch.no_grad()
def _accuracy(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    return float((net(x).argmax(-1) == y).float().mean())
