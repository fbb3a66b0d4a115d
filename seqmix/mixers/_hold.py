"""Continuous diagonal systems in steps: S4D and S5 hold their input for the time of a token."""

import torch
from torch import Tensor

from seqmix._checks import positive
from seqmix.mixers.base import check_steps


def checked_pairs(owner: str, d_state: int, dt_min: float, dt_max: float, lr_factor: float) -> int:
    """`d_state`, twice the number of conjugate pairs; `ValueError` for what makes no such system."""
    if positive(owner, "d_state", d_state) % 2:
        raise ValueError(f"{owner}: d_state must be even, its numbers are conjugate pairs, got {d_state}")
    check_steps(owner, dt_min, dt_max)
    if not lr_factor > 0:
        raise ValueError(f"{owner}: lr_factor must be positive, got {lr_factor}")
    return d_state


def zero_order_hold(real: Tensor, imaginary: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """a = e^{lambda dt} and (a - 1) / lambda, complex, for lambda = `real` + i `imaginary` with negative real parts.

    a - 1 is not a difference, which for steps of 0.001 would keep three digits less.
    """
    radius, turn = real * dt, imaginary * dt
    a = torch.polar(radius.exp(), turn)
    less_one = torch.complex(radius.expm1() * turn.cos() - 2 * (turn / 2).sin().square(), a.imag)
    return a, less_one / torch.complex(real.expand_as(radius), imaginary.expand_as(radius))
