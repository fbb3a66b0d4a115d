"""Tokens that grow alike over depth (Noci et al. 2022, 2206.03126): mixers stacked without training.

x <- skip x + scale mixer(norm(x)) over `depth` layers of their own start, tokens from N(0, 1); scale is 1, or
1 / sqrt(depth). `cosine` is the mean over pairs of tokens at the end, `rank` the stable rank |X|_F^2 / |X|_2^2, `size`
the decades by which the tokens have grown. Without a skip they are brought back to size 1 after each layer, or die out.
"""

import math

import torch
from torch.nn import functional as F

from seqmix.mixers.registry import create_mixer

__all__ = ["run"]


def run(seed: int, mixer: str, residual: str, depth: int = 24, d_model: int = 64, length: int = 64) -> dict[str, float]:
    """Of `residual` none, none with norm, skip with norm, skip 1/sqrt(depth) with norm."""
    skip, norm = residual.startswith("skip"), residual != "none"
    scale = 1 / math.sqrt(depth) if "sqrt" in residual else 1.0
    torch.manual_seed(seed)
    x, grown = torch.randn(1, length, d_model, dtype=torch.float64), 0.0
    with torch.no_grad():
        for _ in range(depth):
            layer = create_mixer(mixer, d_model, dtype=torch.float64)
            if mixer == "attention":  # the small start of its projections would hide what is measured
                for weight in layer.parameters():
                    if weight.ndim == 2:
                        torch.nn.init.xavier_uniform_(weight)
            y, _ = layer(F.layer_norm(x, (d_model,)) if norm else x)
            x = skip * x + scale * y
            size = float(x.square().mean().sqrt())
            if not skip and size > 0:
                x, grown = x / size, grown + math.log10(size)
    x = x[0]
    if not x.any():
        return {"cosine": math.nan, "rank": math.nan, "size": -math.inf}
    unit = F.normalize(x, dim=-1)
    cosine = (unit @ unit.T).sum() - length
    return {
        "cosine": float(cosine) / (length * (length - 1)),
        "rank": float(x.square().sum() / torch.linalg.matrix_norm(x, 2).square()),
        "size": grown + math.log10(float(x.square().mean().sqrt())),
    }
