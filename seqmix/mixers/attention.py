"""Causal softmax attention (Vaswani et al. 2017, 1706.03762) with rotary positions (Su et al. 2021, 2104.09864).

For each head, with K = d_model / n_heads:

    q_t, k_t, v_t = W x_t                      with rope, the pairs (i, i + K/2) of q_t and k_t turned by
                                               the angle t base^{-2i/K}
    o_t = sum_{j <= t} softmax_j(q_t . k_j / sqrt(K)) v_j,    t - window < j where there is a window
    y_t = W_out o_t

State: the keys (already turned) and values that a later token may still see, in the type of the activations.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.kernels._checks import check_offsets, describe
from seqmix.mixers.base import TokenMixer, one_of, positive, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import mixer_state

__all__ = ["Attention", "AttentionState"]


@mixer_state
class AttentionState(NamedTuple):
    """Keys and values k, v (S, M, H, K), right-aligned: the last `length` (S,) rows of the M count, those before
    are padding. `position` (S,) is the index of the next token; both counters are int64."""

    k: Tensor
    v: Tensor
    position: Tensor
    length: Tensor


@register_mixer(
    "attention",
    description="Causal softmax attention, rotary positions and window optional; the state grows with the sequence.",
    source="Vaswani et al. 2017, 1706.03762",
)
class Attention(TokenMixer):
    """Causal softmax attention.

    The mask is aligned at the lower right: the last query sees every key. Packed sequences are attended to one by
    one, and `cu_seqlens` is read on the host. Projections have no bias and start as in `nn.Linear`.

    Args:
        d_model: width of input and output.
        n_heads: number of heads, a divisor of `d_model`.
        position: `None`, or `"rope"` for rotary positions (K must be even).
        window: each token sees itself and the `window - 1` before it; `None` for all.
        rope_base: wavelengths reach from 2 pi to nearly `2 pi rope_base` tokens.

    Shapes: x and y (B, T, d_model); state k and v (S, M, H, K), M at most `window - 1`, position and length (S,).

    Raises:
        ValueError: `n_heads` that does not divide `d_model`, an odd K with rope, an unknown `position`, a window or
            base out of range; see `TokenMixer.forward` for what is checked in calls.

    Example:
        >>> import torch
        >>> from seqmix.mixers import Attention
        >>> y, state = Attention(16, n_heads=2, position="rope")(torch.randn(3, 5, 16))
        >>> y.shape, state.k.shape, state.position.tolist()
        (torch.Size([3, 5, 16]), torch.Size([3, 5, 2, 8]), [5, 5, 5])
    """

    State = AttentionState

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        position: str | None = None,
        window: int | None = None,
        rope_base: float = 10_000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads = positive("Attention", "n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(f"Attention: n_heads must divide d_model = {d_model}, got {n_heads}")
        self.d_head = d_model // n_heads
        self.position = one_of("Attention", "position", position, (None, "rope"))
        if position == "rope" and self.d_head % 2:
            raise ValueError(f"Attention: position='rope' needs an even d_model / n_heads, got {self.d_head}")
        self.window = None if window is None else positive("Attention", "window", window)
        if not rope_base > 1 or math.isinf(rope_base):
            raise ValueError(f"Attention: rope_base must be a finite number above 1, got {rope_base!r}")
        self.rope_base = float(rope_base)
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False, device=device, dtype=dtype)
        self.out_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)

    def mix(self, x: Tensor, state: AttentionState, cu_seqlens: Tensor | None) -> tuple[Tensor, AttentionState]:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.n_heads, self.d_head)).unbind(2)
        if cu_seqlens is None:
            o, state = self._attend(q, k, v, state, padded=True)
        else:
            o, state = self._attend_packed(q, k, v, state, cu_seqlens)
        return self.out_proj(o.flatten(2)), state

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState, *, padded: bool
    ) -> tuple[Tensor, AttentionState]:
        """o (B, T, H, K) for a batch; `padded` where cached rows before the last `state.length` must be hidden."""
        length, cached = q.shape[1], state.k.shape[1]
        if self.position == "rope":
            cos, sin = _rotation(state.position, length, self.d_head, self.rope_base, recurrent_dtype(q.dtype))
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        keys = torch.cat((state.k.to(k.dtype), k), dim=1)
        values = torch.cat((state.v.to(v.dtype), v), dim=1)
        mask = None
        if cached or self.window is not None:
            key = torch.arange(cached + length, device=q.device)
            query = key[cached:, None]
            mask = key <= query
            if self.window is not None:
                mask = mask & (key > query - self.window)
            if cached and padded:
                mask = mask & (key >= cached - state.length[:, None, None, None])
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
        ).transpose(1, 2)
        seen = state.length + length
        if self.window is not None:
            # sym_max and a gather: a slice would compile one graph for each side of the window.
            first = torch.sym_max(cached + length - (self.window - 1), 0)
            kept = torch.arange(first, cached + length, device=q.device)
            keys, values = keys.index_select(1, kept), values.index_select(1, kept)
            seen = seen.clamp(max=self.window - 1)
        return o, AttentionState(keys, values, state.position + length, seen)

    def _attend_packed(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState, cu_seqlens: Tensor
    ) -> tuple[Tensor, AttentionState]:
        check_offsets("Attention", cu_seqlens, q.shape[1])
        bounds, cached = cu_seqlens.tolist(), state.k.shape[1]
        outputs, states = [], []
        for s, count in enumerate(state.length.tolist()):
            row = state.select(slice(s, s + 1))  # type: ignore[attr-defined]
            row = row._replace(k=row.k[:, cached - count :], v=row.v[:, cached - count :])
            if bounds[s + 1] > bounds[s]:
                part = slice(bounds[s], bounds[s + 1])
                o, row = self._attend(q[:, part], k[:, part], v[:, part], row, padded=False)
                outputs.append(o)
            states.append(row)
        longest = max(row.k.shape[1] for row in states)
        k, v = (
            torch.cat([F.pad(rows, (0, 0, 0, 0, longest - rows.shape[1], 0)).to(q.dtype) for rows in every])
            for every in ([row.k for row in states], [row.v for row in states])
        )
        position, length = (torch.cat(every) for every in zip(*(row[2:] for row in states), strict=True))
        return torch.cat(outputs, dim=1), AttentionState(k, v, position, length)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AttentionState:
        """No keys yet (M = 0), position 0."""
        device, dtype = self._like(device, dtype)
        keys, values = (
            torch.empty(batch_size, 0, self.n_heads, self.d_head, device=device, dtype=dtype) for _ in range(2)
        )
        position, length = (torch.zeros(batch_size, device=device, dtype=torch.int64) for _ in range(2))
        return AttentionState(keys, values, position, length)

    def state_size(self, sequence_length: int = 1) -> int:
        kept = sequence_length if self.window is None else min(sequence_length, self.window - 1)
        return 2 * self.d_model * kept

    def extra_repr(self) -> str:
        return f"{self.d_model}, n_heads={self.n_heads}, position={self.position!r}, window={self.window}"

    def _check_state(self, state: Any, sequences: int) -> None:
        super()._check_state(state, sequences)
        device = self.qkv_proj.weight.device
        for name, rows in (("k", state.k), ("v", state.v)):
            if rows.ndim != 4 or rows.shape[2:] != (self.n_heads, self.d_head) or rows.device != device:
                raise ValueError(
                    f"Attention: state.{name} must have shape (S, M, {self.n_heads}, {self.d_head}) on {device}, "
                    f"got {describe(rows)}"
                )
        if state.k.shape != state.v.shape:
            raise ValueError(
                f"Attention: state.v must have the shape of state.k, {tuple(state.k.shape)}, got {tuple(state.v.shape)}"
            )


def _rotation(position: Tensor, length: int, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)
