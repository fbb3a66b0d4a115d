"""Self-pretraining of a small transformer on the digits (Coser et al. 2026, 2605.21070; Amos et al., 2310.02980).

Pixels one after the other, attention in both directions, positions learned and absolute, so that nothing says which
pixels are neighbours. Arms, each ended by training on `labels` pictures with their classes: from scratch in 2 K steps,
after K steps of naming masked pixels of the same pictures in K, and in K from a start with the embedding, positions and
query and key maps of that stage alone. `near` is the attention on a pixel itself and the four around it, over that of
the start.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.studies.computations._descent import descend
from seqmix.studies.computations._digits import digits

__all__ = ["NEAR", "run"]


class _Net(nn.Module):
    def __init__(self, d: int, layers: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.mask = nn.Linear(1, d), nn.Parameter(torch.zeros(d))
        self.positions = nn.Parameter(0.5 * torch.randn(64, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2 * layers + 1))
        self.query_key = nn.ModuleList(nn.Linear(d, 2 * d) for _ in range(layers))
        self.value, self.out = (nn.ModuleList(nn.Linear(d, d) for _ in range(layers)) for _ in range(2))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(layers)
        )
        self.classes, self.levels = nn.Linear(d, 10), nn.Linear(d, 17)
        self.weights: list[Tensor] = []  # of attention, at the last pass

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        h = self.embed(x[..., None])
        h = (h if hidden is None else torch.where(hidden[..., None], self.mask, h)) + self.positions
        self.weights = []
        for index, mlp in enumerate(self.mlps):
            u = self.norms[2 * index](h)
            projected = torch.cat((self.query_key[index](u), self.value[index](u)), -1)
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in projected.chunk(3, -1))
            weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            self.weights.append(weights.detach())
            h = h + self.out[index]((weights @ v).transpose(1, 2).flatten(2))
            h = h + mlp(self.norms[2 * index + 1](h))
        return self.norms[-1](h)


def run(
    seed: int, labels: int, lr: float, steps: int = 400, d_model: int = 64, layers: int = 2, batch: int = 32
) -> dict[str, float]:
    """Test accuracy of the three arms by their names, `gain` of the second over the first; `near_` the arms' ends."""
    x, y, x_test, y_test = digits(labels, seed)

    def made() -> _Net:
        torch.manual_seed(seed)
        return _Net(d_model, layers, heads=4)

    def trained(net: _Net, steps: int, masked: bool = False) -> _Net:
        generator = torch.Generator().manual_seed(seed + masked)

        def loss_at(step: int) -> Tensor:
            rows = torch.randint(labels, (batch,), generator=generator)
            if not masked:
                return F.cross_entropy(net.classes(net(x[rows]).mean(1)), y[rows])
            hidden = torch.rand(batch, 64, generator=generator) < 0.5
            levels = net.levels(net(x[rows], hidden))[hidden]
            return F.cross_entropy(levels, (16 * x[rows][hidden]).round().long())

        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
        descend(net, optimizer, loss_at, steps=steps, schedule="cosine", warmup=steps // 10)
        return net

    @torch.no_grad()
    def near(net: _Net) -> float:
        net(x_test)
        return sum(float((weights * NEAR).sum(-1).mean()) for weights in net.weights) / layers

    @torch.no_grad()
    def accuracy(net: _Net) -> float:
        return float((net.classes(net(x_test).mean(1)).argmax(-1) == y_test).float().mean())

    start = near(made())
    scratch, first = trained(made(), 2 * steps), trained(made(), steps, masked=True)
    kept = {name: value for name, value in first.state_dict().items() if name.startswith(_MAPS)}
    found = {"near_masked": near(first) / start, "near_scratch": near(scratch) / start}
    moved = made()
    moved.load_state_dict(kept | {k: v for k, v in moved.state_dict().items() if k not in kept})
    found |= {"scratch": accuracy(scratch), "transplant": accuracy(trained(moved, steps))}
    pretrained = trained(first, steps)
    found |= {"pretrained": accuracy(pretrained), "near_pretrained": near(pretrained) / start}
    return found | {"gain": found["pretrained"] - found["scratch"]}


_MAPS = ("embed", "mask", "positions", "query_key")
_PLACES = torch.stack((torch.arange(64) // 8, torch.arange(64) % 8), -1)
NEAR = ((_PLACES[:, None] - _PLACES).abs().sum(-1) <= 1).float()
