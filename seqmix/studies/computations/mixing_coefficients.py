"""Coefficients of mixers over training (Sieber et al. 2024, 2405.15731; 2025, 2510.09389), on the text of `_text`.

Given its gates a mixer is y_t = output(sum_s alpha_ts v_s), and every alpha the impulse response of a linear system.
Means over layers, heads and channels, and over the tokens t of the second half: `lag` is that of t - s under |alpha|,
`tokens` the exponential of the entropy of |alpha| over s, `negative` the weight of those below 0 (of real numbers),
`sums` the distance of the sum of a row to 1, `decay` the change of log |alpha_t0| a token, `error` what the sum over
values, put through `output`, differs from the layer by, relative. Coefficients that are blocks count by their norm.
"""

import torch
from torch import Tensor

from seqmix.inspect import linear_form
from seqmix.mixers import TokenMixer
from seqmix.models import SequenceModel
from seqmix.studies.computations._text import LENGTH, evaluate, small_model, train, validation_batch

__all__ = ["measured", "run"]


def run(seed: int, mixer: str, steps: int, lr: float = 3e-3) -> dict[str, float]:
    """After `steps` of AdamW at a constant rate, so that fewer are the beginning of more; `loss` in nats."""
    model = small_model(seed, mixer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    train(model, optimizer, steps=steps, seed=seed, warmup=20)
    found = _of(model)
    return {"loss": evaluate(model), **{name: sum(each[name] for each in found) / len(found) for name in found[0]}}


@torch.no_grad()
def _of(model: SequenceModel) -> list[dict[str, float]]:
    inputs: list[Tensor] = []
    mixers = [module for module in model.modules() if isinstance(module, TokenMixer)]
    hooks = [mixer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for mixer in mixers]
    model(validation_batch(4)[:, :-1])
    for hook in hooks:
        hook.remove()
    return [measured(mixer, x) for mixer, x in zip(mixers, inputs, strict=True)]


def measured(layer: TokenMixer, x: Tensor) -> dict[str, float]:
    """The measures of a layer on x (B, LENGTH, d_model)."""
    form = linear_form(layer, x)
    matrix, y = form.matrix(), layer(x)[0]
    error = (form.output(torch.einsum("bhtsoi,bshic->bthoc", matrix, form.values)) - y).norm() / y.norm()
    late = matrix[:, :, LENGTH // 2 :]  # (B, H, t, s, O, I)
    size = late.abs().square().sum((-2, -1)).sqrt()
    share = size / size.sum(-1, keepdim=True).clamp_min(1e-30)
    places = torch.arange(LENGTH)
    lags = (places[LENGTH // 2 :, None] - places).clamp_min(0)
    first = matrix[:, :, 1:, 0].abs().square().sum((-2, -1)).clamp_min(1e-30).log() / 2  # of the first value, by t
    found = {
        "lag": (share * lags).sum(-1).mean(),
        "tokens": torch.special.entr(share).sum(-1).exp().mean(),
        "decay": ((first[..., -1] - first[..., 0]) / (LENGTH - 2)).median(),
        "error": error,
    }
    if late.shape[-2:] == (1, 1) and not late.is_complex():
        real = late[..., 0, 0]
        found["negative"] = (share * (real < 0)).sum(-1).mean()
        found["sums"] = (real.sum(-1) - 1).abs().mean()
    return {name: float(value) for name, value in found.items()}
