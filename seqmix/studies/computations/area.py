"""The area of two channels, which selectivity alone does not give (Muca Cirone et al. 2024, 2402.19047).

Steps dx are whole numbers in {-3..3}^2, rounded from N(0, 1); the target at every position is A_t = sum_{s<t} dx1_s
dx2_t + dx1_t dx2_t / 2. One read-in, mixers with skips and nothing else, one read-out: without norms and MLPs a stack
of linear recurrences that do not see their input is linear. `mlp` puts an MLP behind each.
"""

import torch
from torch import Tensor, nn

from seqmix.mixers.registry import create_mixer

__all__ = ["run"]


class _Stack(nn.Module):
    def __init__(self, mixer: dict[str, object], layers: int, width: int, mlp: bool) -> None:
        super().__init__()
        arguments = {key: value for key, value in mixer.items() if key != "name"}
        self.read_in = nn.Linear(2, width)
        self.mixers = nn.ModuleList(create_mixer(str(mixer["name"]), width, **arguments) for _ in range(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) if mlp else nn.Identity()
            for _ in range(layers)
        )
        self.read_out = nn.Linear(width, 1)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = self.read_in(x)
        for mixer, mlp in zip(self.mixers, self.mlps, strict=True):
            x = x + mixer(x)[0]
            x = x + mlp(x) if self.mlp else x
        return self.read_out(x)[..., 0]


def run(
    seed: int, mixer: str, layers: int, lr: float, mlp: bool = False, block_size: int = 0,
    steps: int = 1000, length: int = 32, batch: int = 64, width: int = 32,
) -> dict[str, float]:  # fmt: skip
    """`error`: root mean square at the last position over the target's, on new paths."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    model = _Stack({"name": mixer, **({"block_size": block_size} if block_size else {})}, layers, width, mlp)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        dx, target = _paths(batch, length, generator)
        optimizer.zero_grad()
        (model(dx) - target).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    dx, target = _paths(2048, length, generator)
    with torch.no_grad():
        wrong = (model(dx) - target)[:, -1]
    return {"error": float(wrong.square().mean().sqrt() / target[:, -1].square().mean().sqrt())}


def _paths(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Steps (B, T, 2), and areas (B, T) over their standard deviation at the end."""
    dx = torch.randn(batch, length, 2, generator=generator).round().clamp(-3, 3)
    before = dx[..., 0].cumsum(1) - dx[..., 0]
    area = ((before + dx[..., 0] / 2) * dx[..., 1]).cumsum(1)
    return dx, area / length
