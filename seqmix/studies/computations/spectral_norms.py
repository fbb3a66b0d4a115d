"""What Muon and Muown do to spectral norms (Lion et al. 2026, 2605.10797), on the text of `_text`.

Means over the matrices of the blocks: spectral norm, longest row, and coherence |diag(1 / row) W|_2; each at the end
over its start. `loss` is the validation loss.
"""

import math

import torch
from torch import nn

from seqmix.optim import create_optimizer
from seqmix.studies.computations._text import evaluate, small_model, train

__all__ = ["run"]


def run(seed: int, optimizer: str, lr: float, weight_decay: float = 0.0, steps: int = 300) -> dict[str, float]:
    """Embeddings, head and vectors go to AdamW with the same rate."""
    model = small_model(seed)
    before = _sizes(model)
    made = create_optimizer(optimizer, model, lr=lr, weight_decay=weight_decay)
    train(model, made, steps=steps, seed=seed, schedule="wsd", warmup=30, cooldown=0.2)
    after = _sizes(model)
    norm, row, coherence = (after[key] / before[key] for key in ("norm", "row", "coherence"))
    loss = evaluate(model)
    return {"loss": loss, "norm": norm, "row": row, "coherence": coherence, "by_rows": _share(row, norm)}


def _share(row: float, norm: float) -> float:
    # of the growth of the norm, that of its rows; 0 where nothing grew
    return math.log(row) / math.log(norm) if norm > 1.01 else 0.0


def _sizes(model: nn.Module) -> dict[str, float]:
    """Means over the matrices of the blocks, but for a common factor."""
    sums = dict.fromkeys(("norm", "row", "coherence"), 0.0)
    for name, p in model.named_parameters():
        if p.ndim == 2 and name.startswith("blocks"):
            matrix = p.detach().double()
            rows = matrix.norm(dim=1, keepdim=True)
            sums["norm"] += float(torch.linalg.matrix_norm(matrix, 2))
            sums["row"] += float(rows.max())
            sums["coherence"] += float(torch.linalg.matrix_norm(matrix / rows.clamp_min(1e-12), 2))
    return sums
