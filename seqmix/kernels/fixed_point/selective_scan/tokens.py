"""What the fixed-point Mamba's solvers and kernels hand to each other. Letters as in `cell`, L rows of S sequences."""

from typing import NamedTuple

import numpy as np
from torch import Tensor


class Inputs(NamedTuple):
    """What the recurrence sees of every token, and its parameters."""

    u: Tensor  # (L, D)
    dt: Tensor  # (L, D)
    p: Tensor  # (L, M)
    A: Tensor  # (D, N)
    D: Tensor  # (D,)
    weight: Tensor  # W (R, D)
    norm: Tensor  # weight and bias (2, D)

    def at(self, where: Tensor | slice) -> "Inputs":
        return Inputs(self.u[where], self.dt[where], self.p[where], *self[3:])


class Gradients(NamedTuple):
    """Of what the recurrence takes, but for W and y_0."""

    u: Tensor  # (L, D)
    dt: Tensor  # (L, D)
    p: Tensor  # (L, M)
    A: Tensor  # (D, N)
    D: Tensor  # (D,)
    norm: Tensor  # (2, D)
    s0: Tensor  # (S, D, N)


class Recurrence(NamedTuple):
    """All that a compiled pass over time takes, for a mixing of low rank."""

    inputs: Inputs
    s0: Tensor  # (S, D, N)
    y0: Tensor  # (S, D)
    bounds: Tensor  # (S + 1,)
    where: np.ndarray  # (R,), the pre-activation that each row of W adds to
    rank: int
    strength: float
    product: bool


class Known(NamedTuple):
    """What is formed of all tokens at once before a compiled pass back over time."""

    y: Tensor  # (L, D)
    x: Tensor  # (L, D)
    pre: Tensor  # (L, M)
    b: Tensor  # (L, N)
    c: Tensor  # (L, N)
    u: Tensor  # (L, r, D)
    alpha: Tensor  # (L, r)
    upper: Tensor  # (L, r, r)
    states: Tensor  # (L, D, N)
    decay: Tensor  # (L, D, N)
    unit: Tensor  # (L, D)
    inverse: Tensor  # (L, 1)
    gain: Tensor  # (L, D)
