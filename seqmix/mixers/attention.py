"""Causal softmax attention (Vaswani et al. 2017, 1706.03762) with rotary positions (Su et al. 2021, 2104.09864).

For each head, with K = d_model / n_heads:

    q_t, k_t, v_t = W x_t                      convolved over time, depthwise, where d_conv is given
    q_t, k_t turned in pairs (i, i + K/2)      by t base^{-2i/K} (rope), or by Selective RoPE's angle (2511.17388)
    b_tj = sum_{j < s <= t} logsigmoid(w . x_s + c)       forget gate (Lin et al. 2025, 2503.02130), or 0
    o_t = sum_{j <= t} softmax_j(q_t . k_j / sqrt(K) + b_tj) v_j,    t - window < j where there is a window
    y_t = W_out o_t

State: the keys (already turned) and values that a later token may still see, in the type of the activations, with what
has been forgotten of each, and the windows and angle in use.
"""

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d
from seqmix.kernels.checks import check_offsets
from seqmix.mixers._heads import init_taps
from seqmix.mixers._key_rows import (
    AttentionState,
    Earlier,
    check_rows,
    earlier_rows,
    may_be_padded,
    right_aligned,
    state_after,
    state_with,
    visible,
)
from seqmix.mixers._make_position import make_position
from seqmix.mixers._padding import in_one_row, out_of_the_row, without_padding
from seqmix.mixers._positions import table, turn
from seqmix.mixers._projections import WideLinear
from seqmix.mixers._softmax import softmax_attention
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Direct
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType

__all__ = ["Attention", "AttentionState"]


@register_mixer(
    "attention",
    description="Causal softmax attention: positions, window, forget gate optional; its state grows with the sequence.",
    source="Vaswani et al. 2017, 1706.03762",
)
class Attention(TokenMixer):
    """Causal softmax attention.

    The mask is aligned at the lower right: the last query sees every key. Packed sequences are attended to one by
    one, and `cu_seqlens` is read on the host. Projections have no bias and start as in `nn.Linear`.

    Args:
        d_model: width of input and output.
        n_heads: number of heads, a divisor of `d_model`.
        position: `None`, `"rope"` for rotary positions, or `"selective-rope"` (K must be even for both).
        window: each token sees itself and the `window - 1` before it; `None` for all.
        d_conv: width of a depthwise causal convolution on q, k and v; `None` for none.
        forget_gate: whether scores lose the forget gates between key and query; their biases start at 3 to 6 over the
            heads, half-lives of 14 to 280 tokens.
        rope_base: wavelengths reach from 2 pi to nearly `2 pi rope_base` tokens.
        rope_options: arguments of `SelectiveRoPE`, with that position.

    Shapes: x and y (B, T, d_model); state k and v (S, M, H, K), M at most `window - 1`, position and length (S,), and
    small ones.

    Raises:
        NotImplementedError: second derivatives and forward-mode AD outside of `seqmix.kernels.backend("reference")`.
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
    varies_when_cut = "softmax sums over as many keys as there are"
    only_scans = True
    _no_weight_decay = ("conv_weight",)
    conv_weight: Tensor | None

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        position: str | None = None,
        window: int | None = None,
        d_conv: int | None = None,
        forget_gate: bool = False,
        rope_base: float = 10_000.0,
        rope_options: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads = positive("Attention", "n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(f"Attention: n_heads must divide d_model = {d_model}, got {n_heads}")
        self.d_head = d_model // n_heads
        self.position = one_of("Attention", "position", position, (None, "rope", "selective-rope"))
        if position is not None and self.d_head % 2:
            raise ValueError(f"Attention: position={position!r} needs an even d_model / n_heads, got {self.d_head}")
        self.window = None if window is None else positive("Attention", "window", window)
        if not rope_base > 1 or math.isinf(rope_base):
            raise ValueError(f"Attention: rope_base must be a finite number above 1, got {rope_base!r}")
        self.rope_base = float(rope_base)
        if rope_options and position != "selective-rope":
            raise ValueError(f"Attention: rope_options go with position='selective-rope', got {position!r}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        # Plain rotary positions are exact tables from a counter; only chosen angles need a state.
        chosen = position if position == "selective-rope" else None
        self.rotary = make_position("Attention", chosen, d_model, n_heads, self.d_head, rope_options, **where)
        self.d_conv = 1 if d_conv is None else positive("Attention", "d_conv", d_conv)
        self.forget_gate = bool(forget_gate)
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False, **where)
        conv_weight = nn.Parameter(torch.empty(3 * d_model, self.d_conv, **where)) if self.d_conv > 1 else None
        self.register_parameter("conv_weight", conv_weight)
        self.forget_proj = WideLinear(d_model, n_heads, **where) if forget_gate else None
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`, the convolution near identity; forget gates start open."""
        self.qkv_proj.reset_parameters()
        self.out_proj.reset_parameters()
        if self.conv_weight is not None:
            init_taps(self.conv_weight)
        if self.forget_proj is not None:
            self.forget_proj.reset_parameters()
            self.forget_proj.bias.copy_(torch.linspace(3, 6, self.n_heads, dtype=torch.float64))

    def mix(self, x: Tensor, state: AttentionState, cu_seqlens: Tensor | None) -> tuple[Tensor, AttentionState]:
        (q, k, v, log_f), small = self._project(x, state.conv, state.window, state.angle, cu_seqlens)
        k, earlier = earlier_rows(k, v, log_f, window=self.window, cu_seqlens=cu_seqlens)
        if cu_seqlens is None:
            state = state_after(earlier, state, self._turned)
            o, state = self._attend(q, k, v, log_f, state, padded=may_be_padded(state))
        else:
            o, state = self._attend_packed((q, k, v, log_f), state, cu_seqlens, earlier)
        return self.out_proj(o.flatten(2)), state._replace(**small)  # of (B, T, d_model)

    def mix_padded(self, x: Tensor, state: AttentionState, lengths: Tensor) -> tuple[Tensor, AttentionState]:
        """`mix` of a padded batch. What has a window is packed; the batch is attended to as one."""
        row, offsets, twice = in_one_row(without_padding(x, lengths), lengths)
        operands, small = self._project(row, state.conv[twice], state.window[twice], state.angle[twice], offsets)
        q, k, v, log_f = (out_of_the_row(t, len(x)) for t in operands)  # (B, T, H, ...)
        o, state = self._attend(q, k, v, log_f, state, padded=True, lengths=lengths)
        return self.out_proj(o.flatten(2)), state._replace(**{name: leaf[::2].clone() for name, leaf in small.items()})

    def _project(
        self, x: Tensor, conv: Tensor, window: Tensor, angle: Tensor, cu_seqlens: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], dict[str, Tensor]]:
        """q, k and v (B, T, H, K), the log forget gates, and what the state keeps beside the keys."""
        qkv = self.qkv_proj(x)  # (B, T, 3 d_model)
        if self.conv_weight is not None:
            qkv, conv = causal_conv1d(qkv, self.conv_weight, initial_state=conv, cu_seqlens=cu_seqlens)
        q, k, v = qkv.unflatten(-1, (3, self.n_heads, self.d_head)).unbind(2)  # (B, T, H, K) each
        (q, k), window, angle = self.rotary.rotate(x, (q, k), (window, angle), cu_seqlens)
        return (q, k, v, self._log_forget(x)), {"conv": conv, "window": window, "angle": angle}

    def _log_forget(self, x: Tensor) -> Tensor:
        """Logarithm of the forget gates (B, T, H), or (B, T, 0) without; at least float32."""
        real = recurrent_dtype(x.dtype)
        if self.forget_proj is None:
            return x.new_zeros(*x.shape[:2], 0, dtype=real)
        with torch.autocast(x.device.type, enabled=False):
            return F.logsigmoid(self.forget_proj(x))

    def _turned(self, q: Tensor, k: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """q and k (B, T, H, K) with rotary positions, from `position` (B,) on."""
        if self.position != "rope":
            return q, k
        cos, sin = table(position, q.shape[1], self.d_head, self.rope_base, recurrent_dtype(q.dtype))
        return turn(q, cos, sin), turn(k, cos, sin)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_f: Tensor,
        state: AttentionState,
        *,
        padded: bool,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """o (B, T, H, K) for a batch; `padded` where cached rows before the last `state.length` must be hidden;
        `lengths` (B,) of the new rows that the state keeps, all if None."""
        length, cached = q.shape[1], state.k.shape[1]
        q, k = self._turned(q, k, state.position)
        keys = torch.cat((state.k.to(k.dtype), k), dim=1)  # (B, M + T, H, K)
        values = torch.cat((state.v.to(v.dtype), v), dim=1)
        mask = None
        if (cached and padded) or self.window is not None or self.forget_gate:
            mask = visible(cached, length, self.window, state.length if padded else None, q.device)
        # Summed in double precision: differences of long sums are what counts.
        sums = log_f.to(torch.float32 if q.device.type == "mps" else torch.float64).cumsum(1)  # (B, T, H)
        forget = torch.cat((state.forget.to(sums.dtype), -sums), dim=1)  # (B, M + T, H)
        wide = log_f.dtype if self.forget_gate else q.dtype
        if self.forget_gate and mask is not None:
            bias = (sums[:, :, None] + forget[:, None]).permute(0, 3, 1, 2).to(wide)  # (B, H, T, M + T)
            mask = bias.masked_fill(~mask, -math.inf)
        q_heads, k_heads, v_heads = (rows.transpose(1, 2).to(wide) for rows in (q, keys, values))  # (B, H, ..., K)
        # Outside autocast, which would round the sums of forget gates.
        with torch.autocast(q.device.type, enabled=False):
            o = softmax_attention(q_heads, k_heads, v_heads, mask).transpose(1, 2)  # (B, T, H, K)
        # Each row with what was forgotten since.
        total = sums[:, -1:] if lengths is None else sums.take_along_dim((lengths - 1)[:, None, None], 1)
        rows = keys, values, (forget + total).to(log_f.dtype)
        return o.to(q.dtype), state_with(state, rows, length, lengths, self.window)

    def _attend_packed(
        self, operands: tuple[Tensor, ...], state: AttentionState, cu_seqlens: Tensor, earlier: Earlier | None
    ) -> tuple[Tensor, AttentionState]:
        check_offsets("Attention", cu_seqlens, operands[0].shape[1])
        bounds, cached = cu_seqlens.tolist(), state.k.shape[1]
        outputs, states = [], []
        for s, count in enumerate(state.length.tolist()):
            row = state.select(slice(s, s + 1))  # type: ignore[attr-defined]
            row = row._replace(**{name: getattr(row, name)[:, cached - count :] for name in ("k", "v", "forget")})
            row = row if s else state_after(earlier, row, self._turned)
            if bounds[s + 1] > bounds[s]:
                q, k, v, log_f = (each[:, bounds[s] : bounds[s + 1]] for each in operands)
                o, row = self._attend(q, k, v, log_f, row, padded=False)
                outputs.append(o)
            states.append(row)
        return torch.cat(outputs, dim=1), state._replace(
            k=right_aligned([row.k for row in states], operands[1].dtype),
            v=right_aligned([row.v for row in states], operands[2].dtype),
            position=torch.cat([row.position for row in states]),
            length=torch.cat([row.length for row in states]),
            forget=right_aligned([row.forget for row in states], operands[3].dtype),
        )

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> AttentionState:
        """No keys yet (M = 0), position 0."""
        device, dtype = self._like(device, dtype)
        keys, values = (
            torch.empty(batch_size, 0, self.n_heads, self.d_head, device=device, dtype=dtype) for _ in range(2)
        )
        position, length = (torch.zeros(batch_size, device=device, dtype=torch.int64) for _ in range(2))
        real, forgotten = recurrent_dtype(dtype), self.n_heads if self.forget_gate else 0
        return AttentionState(
            keys,
            values,
            position,
            length,
            torch.zeros(batch_size, 0, forgotten, device=device, dtype=real),
            torch.zeros(batch_size, self.d_conv - 1, 3 * self.d_model, device=device, dtype=dtype),
            *self.rotary.init_state(batch_size, device, dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        kept = sequence_length if self.window is None else min(sequence_length, self.window - 1)
        rows = (2 * self.d_model + (self.n_heads if self.forget_gate else 0)) * kept
        return rows + (self.d_conv - 1) * 3 * self.d_model + self.rotary.state_size()

    def linear_form(self, x: Tensor) -> Direct:
        """Values v_t, K for each head; M is the softmax over the keys in sight."""
        state, real = self.init_state(len(x), device=x.device, dtype=x.dtype), recurrent_dtype(x.dtype)
        (q, k, v, log_f), _ = self._project(x, state.conv, state.window, state.angle, None)
        q, k = self._turned(q, k, state.position)
        scores = torch.einsum("bthk,bshk->bhts", q.to(real), k.to(real)) / math.sqrt(self.d_head)
        if self.forget_gate:
            sums = log_f.cumsum(1)  # (B, T, H)
            scores = scores + rearrange(sums[:, :, None] - sums[:, None], "b t s h -> b h t s")
        seen = visible(0, x.shape[1], self.window, None, x.device)
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        return Direct(
            v.to(real).unsqueeze(-2),
            lambda o: self.out_proj(rearrange(o, "b t h 1 k -> b t (h k)").to(x.dtype)),
            weights[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"{self.d_model}, n_heads={self.n_heads}, position={self.position!r}, window={self.window}"

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        check_rows(state, self.n_heads, self.d_head, self.forget_gate)
