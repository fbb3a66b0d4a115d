"""Generalised interpolating discrete diffusion (von Ruette et al. 2025, 2503.04482): noise, bound, and the way back.

    q_t(z | x) = alpha_t [z = x] + nu_t(z),   alpha_t = (1 - t) / C_t,   nu_t = (t m + c_t u) / C_t,   C_t = 1 + c_t
    c_t = B sqrt(t (1 - t)),   B = 2 p_u / (1 - p_u)

with m at the mask and u even over the N symbols: a token stays, is masked, or is any symbol. The latter has most weight
half way, p_u; with p_u = 0 it is masked diffusion. The process jumps from anything to z at the rate b_t(z) = nu_t'(z) -
nu_t(z) alpha_t' / alpha_t. With x^ what a model says stood there (of every symbol its probability), the negative
log-likelihood of a token is at most the integral over t of the mean over z ~ q_t(. | x) of

    w (KL(q_t(. | x) || q_t(. | x^)) + r - log r - 1),   w = b_t(z) / q_t(z | x),   r = q_t(z | x) / q_t(z | x^)

    2 t (1 - t) w = 2 at the mask, 1 at a symbol that is not x, c_t / (N (1 - t) + c_t) at x

which vanishes for x^ = x, and is least for the posterior given the *other* tokens. Leaving out 1 / (2 t (1 - t)) is the
paper's dynamic weighting.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seqmix._checks import positive

__all__ = ["GIDD"]


class Levels(NamedTuple):
    """Of q_t, float64 of the shape of t: alpha, and what noise puts on the mask and on each symbol."""

    alpha: Tensor
    mask: Tensor
    symbol: Tensor


class GIDD:
    """The process on N symbols, numbered from 0, and a mask, number N.

    Args:
        n_symbols: N.
        p_u: weight of a symbol drawn evenly half way, in [0, 1); 0 masks only.

    Shapes: symbols x and noisy tokens z int64 (...), times t in [0, 1] that broadcast with them, logits (..., N).

    Raises:
        ValueError: no symbol, or p_u out of its range.

    Example:
        >>> import torch
        >>> from seqmix.models import GIDD
        >>> process, x = GIDD(5, p_u=0.1), torch.tensor([0, 3, 4])
        >>> z = process.corrupt(x, torch.tensor(1.0), torch.rand(3))
        >>> z.tolist()
        [5, 5, 5]
    """

    def __init__(self, n_symbols: int, p_u: float = 0.0) -> None:
        self.n_symbols = positive("GIDD", "n_symbols", n_symbols)
        if not isinstance(p_u, int | float) or not 0 <= p_u < 1:
            raise ValueError(f"GIDD: p_u must be in [0, 1), got {p_u!r}")
        self.p_u, self.mask = float(p_u), n_symbols
        self._b = 2 * self.p_u / (1 - self.p_u)

    def levels(self, t: Tensor) -> Levels:
        """alpha, and nu of the mask and of each symbol, at times t."""
        t = t.double()
        c = self._b * (t * (1 - t)).sqrt()
        return Levels((1 - t) / (1 + c), t / (1 + c), c / (1 + c) / self.n_symbols)

    def corrupt(self, x: Tensor, t: Tensor, uniform: Tensor) -> Tensor:
        """z ~ q_t(. | x), from numbers in [0, 1) of the shape of x."""
        alpha, mask, symbol = self.levels(t)
        rest = uniform.double() - alpha - mask
        other = (rest / symbol.clamp_min(1e-300)).clamp(0, self.n_symbols - 1).long()
        noisy = torch.where(rest < 0, self.mask, other)
        return torch.where(uniform < alpha, x, noisy)

    def log_marginal(self, logits: Tensor, t: Tensor) -> Tensor:
        """log q_t(. | x^) (..., N + 1) for x^ = softmax(logits)."""
        alpha, mask, symbol = (level.to(logits.dtype).unsqueeze(-1) for level in self.levels(t))
        said = torch.logaddexp(alpha.log() + logits.log_softmax(-1), symbol.log())
        return torch.cat([said, mask.log().expand(*said.shape[:-1], 1)], -1)

    def weights(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """2 t (1 - t) w, float64, for tokens z that were x."""
        t = t.double()
        c = self._b * (t * (1 - t)).sqrt()
        clean = c / (self.n_symbols * (1 - t) + c).clamp_min(1e-300)
        return torch.where(z == self.mask, 2.0, torch.where(z == x, clean, 1.0).double())

    def divergence(self, logits: Tensor, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """KL(q_t(. | x) || q_t(. | x^)) + r - log r - 1 of each token, (...), in float32 at least; t in (0, 1)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        said = logits.log_softmax(-1)
        alpha, _, symbol = (level.to(logits.dtype) for level in self.levels(t))
        of_x = said.gather(-1, x.unsqueeze(-1)).squeeze(-1)
        if not self._b:
            return -alpha * of_x  # where it is clean the weight is 0
        # log q_t(y | x^) - log nu_t(y) = softplus(log(alpha / nu) + log x^_y): no logarithm of a sum of small numbers.
        ratio = (alpha / symbol).log()
        above = torch.nn.functional.softplus(ratio.unsqueeze(-1) + said)
        of_x = torch.nn.functional.softplus(ratio + of_x)
        known = torch.nn.functional.softplus(ratio)  # log q_t(x | x) - log nu_t(x)
        kl = (alpha + symbol) * known - alpha * of_x - symbol * above.sum(-1)
        of_z = above.gather(-1, z.clamp_max(self.n_symbols - 1).unsqueeze(-1)).squeeze(-1)
        log_r = torch.where(z == self.mask, 0.0, torch.where(z == x, known, 0.0) - of_z)
        return kl + log_r.expm1() - log_r

    def bound(self, logits: Tensor, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What each token adds to the integrand of the bound, nats (...): w times `divergence`."""
        weight = self.weights(z, x, t) / (2 * t.double() * (1 - t.double()))
        return weight.to(torch.promote_types(logits.dtype, torch.float32)) * self.divergence(logits, z, x, t)

    def reverse(self, logits: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Probabilities (..., N + 1) of the tokens at time s < t, given z at t and x^ = softmax(logits), float64.

        q(z_s | z_t, x^) ~ (alpha_t / alpha_s [z_t = z_s] + nu_t(z_t) - alpha_t / alpha_s nu_s(z_t)) q_s(z_s | x^).
        """
        now, then = self.levels(t), self.levels(s)
        kept = now.alpha / then.alpha
        masked = z == self.mask
        jumped = torch.where(masked, now.mask - kept * then.mask, now.symbol - kept * then.symbol).clamp_min(0)
        stays = torch.nn.functional.one_hot(z, self.n_symbols + 1) * kept.expand_as(z).unsqueeze(-1)
        found = (stays + jumped.unsqueeze(-1)) * self.log_marginal(logits.double(), s).exp()
        return found / found.sum(-1, keepdim=True)


def times(count: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """`count` times in (0, 1), evenly spread from a random `shift` in [0, 1), and the weights of their mean, float64.

    Their density is 1 / (pi sqrt(t (1 - t))): near both ends, where the bound's weights are large, there are more, so
    that nothing is cut off there and the mean of weight times integrand has a small variance.
    """
    even = (torch.arange(count, device=shift.device, dtype=torch.float64) / count + shift.double()) % 1
    t = (even * (math.pi / 2)).sin().square().clamp(1e-12, 1 - 1e-12)
    return t, math.pi * (t * (1 - t)).sqrt()
