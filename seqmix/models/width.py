"""Maximal update parametrisation: rates and starts that stay good as a model of any mixer grows wider.

Which weight is what follows from shapes alone, those of the same model at `base_width` and at its own width (Yang et
al. 2022, 2203.03466, table 8, for Adam and its kin):

    both axes grow         hidden       std ~ 1 / sqrt(fan_in), rate x base / width
    only the input grows   read-out     std ~ 1 / fan_in,       rate x base / width
    else                   embeddings, norms, biases, decays, filters: as they are

Starts are scaled from the model's own at the base width, so that there nothing changes. What orthogonalises matrices
(Muon and its kin) takes hidden ones as they are: the size of its steps knows the width already. Scores of attention
grow with the size of a head: let `n_heads` grow with the width.
"""

from typing import Any

import torch
from torch import nn

from seqmix._checks import positive

__all__ = ["PARAMETRIZATIONS", "check_parametrization", "scale_width"]

PARAMETRIZATIONS = ("standard", "mup")


def check_parametrization(name: str, base_width: int, tied: bool) -> None:
    """`ValueError` for an unknown name, a width that is not positive, or an embedding that is a head, too."""
    if name not in PARAMETRIZATIONS:
        raise ValueError(f"SequenceModel: parametrization must be one of {', '.join(PARAMETRIZATIONS)}, got {name!r}")
    positive("SequenceModel", "base_width", base_width)
    if name == "mup" and tied:
        raise ValueError("SequenceModel: parametrization 'mup' needs a head of its own, got tie_embeddings")


def scale_width(model: nn.Module, narrow: nn.Module) -> None:
    """Scale the start of `model` as that of `narrow` would grow, and note the factor of each weight's rate.

    The factors are those of modules, by names of their own weights, in `_width_scale`; `parameter_groups` reads them.
    """
    base = dict(narrow.named_parameters())
    for owner, module in model.named_modules():
        scales: dict[str, float] = {}
        for name, p in module._parameters.items():
            if p is None or p.ndim < 2 or isinstance(module, nn.Embedding):
                continue
            like = base[f"{owner}.{name}" if owner else name]
            out, inner = (a / b for a, b in zip(p.shape[-2:], like.shape[-2:], strict=True))
            if inner == 1:
                continue
            scales[name] = 1 / inner
            _scale_start(p, like, inner if out == 1 else inner**0.5)
        if scales:
            module._width_scale = scales  # type: ignore[assignment]


@torch.no_grad()
def _scale_start(p: nn.Parameter, like: Any, divisor: float) -> None:
    if p.is_meta or like.is_meta or not p.is_floating_point():
        return
    own, wanted = float(p.double().std()), float(like.double().std()) / divisor
    if own > 0 and wanted > 0:
        p.mul_(wanted / own)
