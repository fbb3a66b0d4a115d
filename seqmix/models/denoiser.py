"""A bidirectional `SequenceModel` behind the noise of `GIDD`: what it says, samples of it, and its corrections.

Tokens of the model: symbols 0 .. N - 1, the mask N, and one for each of `time_bins` parts of time, which stands before
each sequence. So any mixer denoises: nothing in a layer knows of time.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.models._modes import evaluating
from seqmix.models._spans import places
from seqmix.models.diffusion import GIDD

__all__ = ["Denoiser"]


class Model(Protocol):
    """What a denoiser asks of a `SequenceModel`."""

    vocab_size: int
    head_name: str
    bidirectional: bool

    def __call__(self, tokens: Tensor, *, cu_seqlens: Tensor | None = None) -> tuple[Tensor, object]: ...


class Denoiser(nn.Module):
    """Noisy tokens z and their time to logits of what stood there.

    Args:
        model: with a language head, bidirectional layers, and a vocabulary of N + 1 + `time_bins` tokens.
        process: the noise.
        time_bins: parts of time that the model tells apart.

    Shapes: z int64 (B, T) with t (B,), or packed (1, T) with `cu_seqlens` (S + 1,) and t (S,); logits (B, T, N).

    Raises:
        ValueError: a causal model, another head, or a vocabulary of another size.

    Example:
        >>> import torch
        >>> from seqmix.models import GIDD, Denoiser, SequenceModel
        >>> model = SequenceModel("bd-lru", vocab_size=5 + 1 + 4, d_model=8, bidirectional=True)
        >>> denoiser = Denoiser(model, GIDD(5, p_u=0.1), time_bins=4)
        >>> denoiser(torch.tensor([[5, 2, 5]]), torch.tensor([0.5])).shape
        torch.Size([1, 3, 5])
        >>> denoiser.sample(torch.tensor([[2]]), 7, steps=4).shape
        torch.Size([1, 8])
    """

    def __init__(self, model: Model, process: GIDD, time_bins: int = 16) -> None:
        super().__init__()
        self.time_bins = positive("Denoiser", "time_bins", time_bins)
        if not model.bidirectional or model.head_name != "language":
            what = f"head {model.head_name!r}" if model.bidirectional else "causal layers"
            raise ValueError(f"Denoiser: model must have bidirectional layers and a language head, got {what}")
        expected = process.n_symbols + 1 + time_bins
        if model.vocab_size != expected:
            raise ValueError(
                f"Denoiser: model must have a vocabulary of {process.n_symbols} symbols, a mask and {time_bins} "
                f"times, {expected} tokens, got {model.vocab_size}"
            )
        self.model, self.process = model, process

    def forward(self, z: Tensor, t: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        n = self.process.n_symbols
        time = n + 1 + (t * self.time_bins).long().clamp(0, self.time_bins - 1)
        if cu_seqlens is None:
            return self.model(torch.cat([time[:, None], z], 1))[0][:, 1:, :n]
        sequence, _ = places(z, cu_seqlens)
        index = torch.arange(z.shape[1], device=z.device) + sequence + 1
        starts = torch.arange(len(cu_seqlens), device=z.device, dtype=cu_seqlens.dtype)
        tokens = z.new_empty(1, z.shape[1] + len(cu_seqlens) - 1)
        tokens[0, (cu_seqlens + starts)[:-1].long()] = time
        tokens[0, index] = z[0]
        return self.model(tokens, cu_seqlens=cu_seqlens + starts)[0][:, index, :n]

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        max_new_tokens: int,
        *,
        steps: int = 128,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Prompts (B, P) with `max_new_tokens` symbols behind each, (B, P + n), all drawn at once in `steps` steps.

        Each step goes from z_t to z_s by `GIDD.reverse`, from masks alone at t = 1 to symbols alone at 0.

        Args:
            tokens: int64 prompts, P >= 1, that stay as they are.
            max_new_tokens: how many symbols to add.
            steps: more are better and slower, one pass through the model each.
            temperature: divides the logits.
            generator: source of randomness, on the device of the tokens.

        Raises:
            ValueError: a number out of its range.
        """
        positive("sample", "max_new_tokens", max_new_tokens)
        _check_drawing("sample", steps, temperature)
        kept = tokens.shape[1]
        z = nn.functional.pad(tokens, (0, max_new_tokens), value=self.process.mask)
        with evaluating(self):
            for step in range(steps):
                t, s = (z.new_tensor(1 - at / steps, dtype=torch.float64) for at in (step, step + 1))
                logits = self(z, t.expand(len(z)))[:, kept:] / temperature
                found = self.process.reverse(logits, z[:, kept:], t, s)
                z = torch.cat([tokens, _draw(found, generator)], 1)
        return z

    @torch.no_grad()
    def correct(
        self,
        tokens: Tensor,
        steps: int,
        *,
        fixed: int = 0,
        time: float = 0.05,
        temperature: float = 0.3,
        patience: int = 16,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Self-correction of symbols (B, T), one a step and row.

        In each step the model, told that it is early, proposes a symbol for every place; of those that differ from what
        stands there, the one that it is surest of is put in. A row ends when its agreement with the model's likeliest
        symbols has not grown for `patience` steps, or nothing differs; it is the one with the largest agreement.

        Args:
            tokens: what `sample` has drawn.
            steps: at most so many symbols of a row are changed.
            fixed: so many at the beginning stay as they are.
            time: that the model is told, in (0, 1); small, since little is wrong.
            temperature: of the proposals.
            patience: see above.
            generator: source of randomness, on the device of the tokens.

        Raises:
            ValueError: a number out of its range.
        """
        _check_drawing("correct", steps, temperature)
        positive("correct", "patience", patience)
        if not 0 < time < 1:
            raise ValueError(f"correct: time must be in (0, 1), got {time!r}")
        free = torch.arange(tokens.shape[1], device=tokens.device) >= fixed
        best, most = tokens, tokens.new_full((len(tokens),), -1)
        waited = torch.zeros_like(most)
        rows, t = torch.arange(len(tokens), device=tokens.device), torch.full((len(tokens),), time)
        with evaluating(self):
            for step in range(steps + 1):
                logits = self(tokens, t.to(tokens.device))
                agreement = ((logits.argmax(-1) == tokens) & free).sum(1)
                better = agreement > most
                best = torch.where(better[:, None], tokens, best)
                most, waited = torch.where(better, agreement, most), torch.where(better, 0, waited + 1)
                if step == steps or bool((waited >= patience).all()):
                    break
                said = (logits.double() / temperature).softmax(-1)
                drawn = _draw(said, generator)
                sure = said.gather(-1, drawn.unsqueeze(-1)).squeeze(-1) * ((drawn != tokens) & free)
                at = sure.argmax(1)
                changes = (sure[rows, at] > 0) & (waited < patience)
                tokens = tokens.clone()
                tokens[rows, at] = torch.where(changes, drawn[rows, at], tokens[rows, at])
        return best


def _draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    # (B, T, V) to tokens (B, T)
    return torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(probabilities.shape[:2])


def _check_drawing(owner: str, steps: int, temperature: float) -> None:
    positive(owner, "steps", steps)
    if not temperature > 0 or math.isinf(temperature):
        raise ValueError(f"{owner}: temperature must be a positive finite number, got {temperature!r}")
