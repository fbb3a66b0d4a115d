"""Discrete diffusion of bytes (GIDD, 2503.04482) beside a next-byte model of equal size, on the text of `_text`.

Rows of 65 bytes whose first is given. `noise` is `masks` (p_u = 0), `symbols` (p_u = 0.2, masks too), or `none`, the
next-byte model, which is also the judge of samples. Equal size: what bidirectional layers have more goes into its MLP.
"""

import math
from functools import cache, partial

import torch
from torch import Tensor

from seqmix.models import GIDD, Denoiser, SequenceModel
from seqmix.models.diffusion import times
from seqmix.studies.computations._descent import descend
from seqmix.studies.computations._text import LENGTH, loss_of, pieces, validation_batch

__all__ = ["run"]

_P_U = {"masks": 0.0, "symbols": 0.2}
_BINS = 16


def run(
    seed: int, noise: str, d_model: int = 64, steps: int = 1500, batch: int = 16, rows: int = 512, samples: int = 64
) -> dict[str, float]:
    """`bits` a byte of held-out text, of diffusion a bound and `bits_error` its standard error; of samples `judged`
    bits and `entropy` of single bytes, and both after self-correction, which `changed` a share; of text with a
    twentieth of its bytes wrong at t = 0.05, the shares of wrong ones `mended` and right ones `kept`."""
    judge = _next_byte(seed, d_model, steps, batch)
    text, generator = validation_batch(rows), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if noise == "none":
            drawn = judge.generate(text[:samples, :1], LENGTH, generator=generator)
            return {"bits": float(loss_of(judge, text)) / math.log(2), **_judged(judge, drawn)}
        process = GIDD(256, _P_U[noise])
    torch.manual_seed(seed)
    model = SequenceModel(_MIXER, 256 + 1 + _BINS, d_model, 2, mlp_ratio=2, bidirectional=True)
    denoiser = Denoiser(model, process, _BINS)

    def terms(x: Tensor, t: Tensor, weighted: bool) -> Tensor:  # by the bound's weights or the dynamic ones
        z = torch.where(_FREE, process.corrupt(x, t[:, None], torch.rand(x.shape, generator=generator)), x)
        logits, at = denoiser(z, t), t[:, None].expand_as(x)
        found = process.bound(logits, z, x, at) * (1 if weighted else 2 * at * (1 - at))
        return (found * _FREE).sum(1) / LENGTH

    def loss_at(step: int) -> Tensor:
        t = (torch.arange(batch) / batch + torch.rand(1, generator=generator)) % 1
        return terms(pieces(batch, generator), 1e-4 + (1 - 2e-4) * t.double(), False).mean()

    descend(model, _adam(model.parameters()), loss_at, steps=steps, schedule="cosine", warmup=steps // 20)
    with torch.no_grad():
        bounds = []
        for _ in range(8):
            t, weights = times(rows, torch.rand(1, generator=generator))
            order = torch.randperm(rows, generator=generator)
            bounds.append(float((weights[order] * terms(text, t[order], True)).mean()) / math.log(2))
        drawn = denoiser.sample(text[:samples, :1], LENGTH, steps=LENGTH, generator=generator)
        corrected = denoiser.correct(drawn, LENGTH // 2, fixed=1, generator=generator)
        wrong = (torch.rand(text.shape, generator=generator) < 0.05) & _FREE
        z = torch.where(wrong, torch.randint(256, text.shape, generator=generator), text)
        right, wrong = denoiser(z, torch.full((rows,), 0.05)).argmax(-1) == text, z != text
    after = {f"{name}_corrected": value for name, value in _judged(judge, corrected).items()}
    return {
        "bits": sum(bounds) / len(bounds),
        "bits_error": torch.tensor(bounds).std().item() / math.sqrt(len(bounds)),
        **_judged(judge, drawn), **after,
        "changed": float((corrected != drawn).float().mean()),
        "mended": float(right[wrong].float().mean()),
        "kept": float(right[~wrong & _FREE].float().mean()),
    }  # fmt: skip


_MIXER = {"name": "attention", "n_heads": 4, "position": "rope"}
_FREE = torch.arange(LENGTH + 1) > 0

_adam = partial(torch.optim.AdamW, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)


@cache
def _next_byte(seed: int, d_model: int, steps: int, batch: int) -> SequenceModel:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = SequenceModel(_MIXER, 256, d_model, 2, mlp_ratio=2 + 4 / 3)  # 3 d h of MLP for 4 d^2 of attention

    def loss_at(step: int) -> Tensor:
        return loss_of(model, pieces(batch, generator))

    descend(model, _adam(model.parameters()), loss_at, steps=steps, schedule="cosine", warmup=steps // 20)
    return model.eval()


def _judged(judge: SequenceModel, rows: Tensor) -> dict[str, float]:
    shares = torch.bincount(rows[:, 1:].flatten(), minlength=256) / rows[:, 1:].numel()
    return {
        "judged": loss_of(judge, rows).item() / math.log(2),
        "entropy": float(torch.special.entr(shares).sum()) / math.log(2),
    }
