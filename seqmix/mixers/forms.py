"""What a layer does to a sequence once its gates are known: a linear map of its values, the mixing matrix.

A mixer reads x and forms values v_t and gates. Given the gates it is linear in the values,

    o_t = sum_{s <= t} M[t, s] v_s,        y_t = output(o)_t

with M the mixing matrix: what it remembers, and nothing else. Norms, output gates and projections come after it and act
on each token alone; short convolutions come before it, in the values and gates. For a recurrence

    s_t = A_t s_{t-1} + W_t v_t,    o_t = R_t s_t + E_t v_t      (or R_t s_{t-1} + E_t v_t)

the matrix is M[t, s] = R_t A_t ... A_{s+1} W_s, and M[t, t] = R_t W_t + E_t. For attention it is the softmax.
Letters: H blocks that do not see each other (heads, channels), I numbers in a value of one and O in what is read from
it, V channels that share a block's matrix, n numbers in its state.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

__all__ = ["Direct", "LinearForm", "Recurrence"]


@dataclass(frozen=True, eq=False)
class LinearForm(ABC):
    """A layer on one input x (B, T, d_model), from an empty state."""

    values: Tensor  # v (B, T, H, I, V)
    output: Callable[[Tensor], Tensor]  # y (B, T, d_model) for what is read, o (B, T, H, O, V)

    @abstractmethod
    def matrix(self) -> Tensor:
        """M (B, H, T, T, O, I); the upper triangle, s > t, is zero."""

    def read(self) -> Tensor:
        """o (B, T, H, O, V)."""
        return torch.einsum("bhtsoi,bshic->bthoc", self.matrix(), self.values)


@dataclass(frozen=True, eq=False)
class Recurrence(LinearForm):
    """s_t = A_t s_{t-1} + W_t v_t, and o_t = R_t s_t + E_t v_t; with `early`, o_t = R_t s_{t-1} + E_t v_t."""

    # A (B, T, H, n, n), or (B, T, H, n) for a diagonal one; or a function of t that gives (B, H, n[, n])
    transition: Tensor | Callable[[int], Tensor]
    write: Tensor  # W (B, T, H, n, I)
    readout: Tensor | None = None  # R (B, T, H, O, n); the whole state is read without
    skip: Tensor | None = None  # E, of the shape (B, T, H, O, I) or one that expands to it
    early: bool = False

    def matrix(self) -> Tensor:
        length = self.write.shape[1]
        shape = (self.write.shape[0], self.write.shape[2], length, *self.write.shape[3:])
        # What every value has become by now, (B, H, T, n, I); those to come are zero.
        state = self.write.new_zeros(shape)
        rows = []
        for t in range(length):
            before, a = state, self._at(t)
            state = a[:, :, None, :, None] * state if a.ndim == 3 else a[:, :, None] @ state
            state = torch.cat((state[:, :, :t], self.write[:, t, :, None], state[:, :, t + 1 :]), dim=2)
            seen = before if self.early else state
            rows.append(seen if self.readout is None else self.readout[:, t, :, None] @ seen)
        matrix = torch.stack(rows, dim=2)
        if self.skip is not None:
            skip = self.skip.expand(*self.write.shape[:3], *matrix.shape[4:])
            diagonal = torch.diag_embed(rearrange(skip, "b t h o i -> b h o i t"))
            matrix = matrix + rearrange(diagonal, "b h o i t s -> b h t s o i")
        return matrix

    def eigenvalues(self) -> Tensor:
        """Of every A_t, (B, T, H, n), complex; O(n^3) for each that is not diagonal."""
        found = []
        for t in range(self.write.shape[1]):
            a = self._at(t)
            found.append(a if a.ndim == 3 else torch.linalg.eigvals(a))
        return torch.stack(found, dim=1).to(torch.promote_types(found[0].dtype, torch.complex64))

    def _at(self, t: int) -> Tensor:
        return self.transition[:, t] if isinstance(self.transition, Tensor) else self.transition(t)


@dataclass(frozen=True, eq=False)
class Direct(LinearForm):
    """A layer without a recurrence, whose matrix is known at once."""

    weights: Tensor  # M (B, H, T, T, O, I)

    def matrix(self) -> Tensor:
        return self.weights
