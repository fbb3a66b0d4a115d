"""Maximal update parametrisation: rates and starts that stay good as a model of any mixer grows wider.

Which weight is what follows from shapes, those of the same model at `base_width` and at its own width (Yang et al.
2022, 2203.03466, for Adam and its kin):

    several axes grow, the last of them the input's    hidden      std ~ 1 / sqrt(fan_in), rate x base / width
    only the input of a linear map grows               read-out    std ~ 1 / fan_in,       rate x base / width
    else                                               embeddings, norms, biases, decays, mixes, filters: as they are

What must not decay is no matrix. Starts are scaled from the model's own at the base width, so that there nothing
changes. Scores of attention and sums over keys grow with the size of a head: let `n_heads` grow with the width.
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


def scale_width(model: nn.Module, config: dict[str, Any], like: dict[str, Any]) -> None:
    """Scale the start of `model` as that of the same model at its base width would grow, and note factors of rates.

    The factors are those of modules, by names of their own weights, in `_width_scale`; `parameter_groups` reads them.
    """
    width = config["base_width"]
    try:
        with torch.random.fork_rng(devices=[]):
            narrow = type(model)(**{**config, **like, "d_model": width, "parametrization": "standard"})
    except ValueError as error:
        raise ValueError(f"SequenceModel: base_width {width}: {error}") from None
    base = dict(narrow.named_parameters())
    for owner, module in model.named_modules():
        fixed = getattr(module, "_no_weight_decay", ())
        scales: dict[str, float] = {}
        for name, p in module._parameters.items():
            if p is None or p.ndim < 2 or name in fixed or isinstance(module, nn.Embedding):
                continue
            narrow_p = base[f"{owner}.{name}" if owner else name]
            grown = [(axis, a / b) for axis, (a, b) in enumerate(zip(p.shape, narrow_p.shape, strict=True)) if a != b]
            read_out = isinstance(module, nn.Linear) and [axis for axis, _ in grown] == [1]
            if len(grown) > 1 or read_out:
                factor = grown[-1][1]
                scales[name] = 1 / factor
                _scale_start(p, narrow_p, factor if read_out else factor**0.5)
        if scales:
            module._width_scale = scales


@torch.no_grad()
def _scale_start(p: nn.Parameter, like: nn.Parameter, divisor: float) -> None:
    if p.is_meta or like.is_meta:
        return
    own, wanted = float(p.double().std()), float(like.double().std()) / divisor
    if own > 0 and wanted > 0:
        p.mul_(wanted / own)
