"""How queries and keys are turned: the part that all rotary positions share, no positions, and RoPE."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.kernels import selective_rotary
from seqmix.mixers.base import recurrent_dtype
from seqmix.mixers.state import mixer_state


@mixer_state
class SelectiveRoPEState(NamedTuple):
    window: Tensor  # (S, d_conv - 1, H K/2), the convolution's last inputs, oldest first
    angle: Tensor  # (S, H, K/2), in [-pi, pi]


# What the state of a rotation says of a mixer that has one: see `TokenMixer.varies_when_cut`.
ROUNDED_ANGLE = "the running angle is rounded where they are cut"


class NoPosition(nn.Module):
    """Leaves queries and keys as they are; the base of the others, which say by how much each token turns."""

    varies_when_cut: str = ""  # as of a `TokenMixer`

    def __init__(self, n_heads: int, d_head: int) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_head
        self.window_shape, self.n_angles = (0, 0), 0

    def increments(self, x: Tensor, window: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        """omega (B, T, H, K/2) in radians for x (B, T, d_model), and the new window."""
        return x.new_zeros(*x.shape[:2], self.n_heads, self.n_angles), window

    def rotate(
        self, x: Tensor, tensors: Sequence[Tensor], state: tuple[Tensor, Tensor], cu_seqlens: Tensor | None
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Every one of `tensors` (B, T, H, K) turned by the same angles, then the new window and angle."""
        window, angle = state
        if not self.n_angles:
            return list(tensors), window, angle
        omega, window = self.increments(x, window, cu_seqlens)
        turned: list[Tensor] = []
        final = angle
        for i in range(0, len(tensors), 2):
            pair = (tensors[i], tensors[min(i + 1, len(tensors) - 1)])
            both, final = selective_rotary(*pair, omega, initial_state=angle, cu_seqlens=cu_seqlens)
            turned += both
        return turned[: len(tensors)], window, final

    def init_state(self, batch_size: int, device: Any, dtype: torch.dtype) -> SelectiveRoPEState:
        """Zeros; `dtype` is the activations'."""
        real = recurrent_dtype(dtype)
        return SelectiveRoPEState(
            torch.zeros(batch_size, *self.window_shape, device=device, dtype=real),
            torch.zeros(batch_size, self.n_heads, self.n_angles, device=device, dtype=real),
        )

    def state_size(self) -> int:
        """Numbers in window and angle."""
        return math.prod(self.window_shape) + self.n_heads * self.n_angles


class RoPE(NoPosition):
    """Angles that grow alike for every token, base^{-2i/K} for pair i (Su et al. 2021, 2104.09864)."""

    varies_when_cut = ROUNDED_ANGLE

    def __init__(self, n_heads: int, d_head: int, base: float = 10_000.0) -> None:
        super().__init__(n_heads, d_head)
        if not base >= 1 or math.isinf(base):
            raise ValueError(f"RoPE: base must be a finite number of at least 1, got {base!r}")
        self.n_angles, self.base = pairs_of("RoPE", d_head), float(base)

    def increments(self, x: Tensor, window: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = torch.arange(self.n_angles, device=x.device, dtype=recurrent_dtype(x.dtype))
        omega = self.base ** (-pairs / self.n_angles)
        return omega.expand(*x.shape[:2], self.n_heads, self.n_angles), window


def pairs_of(owner: str, d_head: int) -> int:
    """K/2, the number of angles; `ValueError` for an odd K."""
    if d_head % 2:
        raise ValueError(f"{owner}: d_head must be even, its halves turn together, got {d_head}")
    return d_head // 2


def table(position: Tensor, length: int, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin (S, T, 1, K/2) of the angles at `position` (S,) and the `length` - 1 after it.

    Angles are formed in double precision, where the device has it: float32 loses 0.004 rad by token 65,536.
    """
    precise = torch.float32 if position.device.type == "mps" else torch.float64
    exponents = torch.arange(0, width, 2, device=position.device, dtype=precise) / width
    frequencies = base**-exponents
    # Angle addition: a table over the chunk and one over the sequences, instead of one over both.
    start = position.to(precise)[:, None, None, None] * frequencies
    steps = torch.arange(length, device=position.device, dtype=precise)[None, :, None, None] * frequencies
    (cos_p, sin_p), (cos_t, sin_t) = ((a.cos().to(dtype), a.sin().to(dtype)) for a in (start, steps))
    return cos_p * cos_t - sin_p * sin_t, sin_p * cos_t + cos_p * sin_t


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The pairs (i, i + K/2) of x (B, T, H, K) turned by the angles of a table."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


def turn_back(omega: Tensor) -> Tensor:
    """R(-omega) (..., K, K) for the angles omega (..., K/2) of the pairs (i, i + K/2)."""
    cos, sin = torch.diag_embed(omega.cos()), torch.diag_embed(omega.sin())
    return torch.cat((torch.cat((cos, sin), -1), torch.cat((-sin, cos), -1)), -2)
