"""Continuous diagonal systems in steps: S4D and S5 hold their input for the time of a token."""

import torch
from torch import Tensor


def zero_order_hold(real: Tensor, imaginary: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """a = e^{lambda dt} and (a - 1) / lambda, complex, for lambda = `real` + i `imaginary` with negative real parts.

    a - 1 is not a difference, which for steps of 0.001 would keep three digits less.
    """
    radius, turn = real * dt, imaginary * dt
    a = torch.polar(radius.exp(), turn)
    less_one = torch.complex(radius.expm1() * turn.cos() - 2 * (turn / 2).sin().square(), a.imag)
    return a, less_one / torch.complex(real.expand_as(radius), imaginary.expand_as(radius))
