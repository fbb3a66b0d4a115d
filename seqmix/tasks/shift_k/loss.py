"""The error of shift-K: for given poles and weights, for the best weights, and for the best of all."""

import math

import torch
from torch import Tensor

from seqmix._checks import integers

__all__ = ["allpass_loss", "lower_bound", "normalised_gain", "optimal_loss", "optimal_weights", "population_loss"]


def lower_bound(n_poles: int, shift: int) -> float:
    """max(0, 1 - S / (K + 1)): no S stable poles have a smaller error, whatever is read out.

    The best error of given poles is sum_{j <= K} |beta_j|^2 of a Blaschke product with S zeros (`allpass_loss`), for
    which sum_j |beta_j|^2 = 1 and sum_j j |beta_j|^2 = S, its winding number. So at most S / (K + 1) of the first sum
    lies beyond K (Markov). S > K poles at 0 reach the bound: they are a delay line.
    """
    _check(n_poles, shift)
    return max(0.0, 1 - n_poles / (shift + 1))


def normalised_gain(loss: float, n_poles: int, shift: int) -> float:
    """(1 - loss) / (1 - bound): the share in [0, 1] of what S poles can gain over the error 1 of a filter of zeros."""
    return (1 - loss) / (1 - lower_bound(n_poles, shift))


def population_loss(poles: Tensor, weights: Tensor, shift: int) -> Tensor:
    """sum_k |c_k - [k = K]|^2 of the filter c_k = sum_s b_s a_s^k, for poles and weights (S,), as a sum of S^2 terms.

    sum_k |c_k|^2 = sum_st b_s conj(b_t) / (1 - a_s conj(a_t)). Raises `ValueError` for poles that are not stable.
    """
    poles, weights = _stable(poles), weights.to(torch.complex128)
    norm = (weights @ (1 / (1 - poles[:, None] * poles.conj())) @ weights.conj()).real
    return norm - 2 * (weights * poles**shift).sum().real + 1


def optimal_weights(poles: Tensor, shift: int) -> Tensor:
    """Weights b (S,) with the smallest `population_loss` for poles (S,): least squares against the powers a_s^k.

    Solves G b = r with G_st = 1 / (1 - conj(a_s) a_t), r_s = conj(a_s)^K. G is close to singular when poles are close
    to each other; `optimal_loss` does not need it.
    """
    poles = _stable(poles)
    gram = 1 / (1 - poles.conj()[:, None] * poles)
    return torch.linalg.lstsq(gram, (poles.conj() ** shift)[:, None], driver="gelsd").solution[:, 0]


def optimal_loss(poles: Tensor, shift: int) -> Tensor:
    """The smallest `population_loss` over the weights, for poles (..., S), exact however close the poles are."""
    poles = _stable(poles)
    return allpass_loss(torch.stack([torch.ones_like(poles), -poles], dim=-1), shift)


def allpass_loss(denominators: Tensor, shift: int) -> Tensor:
    """The smallest error over read-outs, for poles given as polynomials (..., n, m + 1) with n m = S poles in all.

    A polynomial is p(z) = 1 + p_1 z + ... + p_m z^m = prod (1 - a z) over its poles a; p_0 must be 1. With the
    Blaschke product B(z) = prod over them of conj(p)(1 / z) z^m / p(z) = sum_j beta_j z^j, filters are orthogonal to
    multiples of B, and the error is sum_{j <= K} |beta_j|^2.
    """
    real = torch.float64
    # Coefficients from samples on a circle inside the disc, where |B| < 1: what is aliased has decayed to 1e-15, and
    # dividing by the radius costs two digits.
    n = 8 * (shift + 1)
    radius = 10 ** (-15 / n)
    z = torch.polar(torch.full((n,), radius, dtype=real), torch.arange(n, dtype=real) * (2 * math.pi / n))
    coefficients = denominators.to(torch.complex128)
    reverse = coefficients.conj().flip(-1)
    product = (_evaluate(reverse, z) / _evaluate(coefficients, z)).prod(dim=-2)
    beta = torch.fft.fft(product)[..., : shift + 1] / n
    beta = beta * radius ** -torch.arange(shift + 1, dtype=real)
    return beta.abs().square().sum(-1)


def _evaluate(coefficients: Tensor, z: Tensor) -> Tensor:
    # Horner: (..., m + 1) at z (n,) to (..., n).
    value = coefficients[..., -1:].expand(*coefficients.shape[:-1], len(z))
    for i in range(coefficients.shape[-1] - 2, -1, -1):
        value = value * z + coefficients[..., i : i + 1]
    return value


def _stable(poles: Tensor) -> Tensor:
    poles = poles.to(torch.complex128)
    if not bool((poles.abs() < 1).all()):
        raise ValueError(f"shift-K: poles must lie inside the unit circle, got one of {float(poles.abs().max()):.6g}")
    return poles


def _check(n_poles: int, shift: int) -> None:
    integers("shift-K", n_poles=n_poles)
    integers("shift-K", 0, shift=shift)
