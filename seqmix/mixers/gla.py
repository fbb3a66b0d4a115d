"""GLA: linear attention with a data-dependent decay (Yang et al. 2023, 2312.06635), with rotary positions.

For each head, with K = expand_k d_model / H and V = expand_v d_model / H:

    q_t, k_t, v_t, z_t = W x_t                       short convolution and silu on q, k, v where d_conv is given
    g_t = logsigmoid(W_2 W_1 x_t + b) / 16           (K,), logarithm of the decay, rank 16
    q_t, k_t turned by R(Theta_t)                    position "rope" or "selective-rope"
    S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T          (K, V)
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (rmsnorm(o_t) * silu(z_t))

Turning q and k by the running angle makes e^{g_t} R(omega_t) the transition only where the two commute: both halves
of a pair must decay alike, which `tie_decay` sees to. A product of half turns is how one layer does parity. Parallel
form: masked matrix products in chunks, on a CPU the recurrence itself. State: S, and the windows and angle in use.

Paper, released code (fla/layers/gla.py; timurcarstensen/selective-rope, layers/gla.py) and this layer, line by line:

- widths, projections, decays, norm and output gate: the code's; the norm's eps is 1e-5, 1e-6 in the code's configs.
- convolution: off by default, of width 4 without bias and with silu, in code and here; near the identity at first here.
- rotation: after the convolution and before the scan in code and here; its options are `selective_rope`'s.
- decays under rotation: each key channel its own in the code, those of a pair tied here unless `tie_decay` is false.
- the code's feature map, shared keys, norms of q and k and least decay: not here.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d, gated_linear_attention
from seqmix.mixers._heads import by_heads, head_sizes, init_taps, rms_norm
from seqmix.mixers._make_position import has_preset, make_position
from seqmix.mixers._positions import turn_back
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class GatedLinearAttentionState(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64
    conv: Tensor  # (S, d_conv - 1, H (2 K + V)), in the type of the activations; empty without convolution
    window: Tensor  # (S, W - 1, H K/2) of Selective RoPE's convolution, empty without
    angle: Tensor  # (S, H, K/2), empty without positions


@register_mixer(
    "gla", description="Gated linear attention, rotary positions optional.", source="2312.06635, 2511.17388"
)
class GatedLinearAttention(TokenMixer):
    """Gated linear attention.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        position: None, `"rope"` or `"selective-rope"`.
        tie_decay: whether the halves of a pair (i, i + K/2) share a decay; by default they do where there are
            positions, but not with the options that are published (`rope_options={"preset": "released"}`).
        expand_k, expand_v: widths of all keys and of all values over `d_model`.
        d_conv: width of a depthwise convolution on q, k and v; None for none.
        decay_rank: of the projection to the decays, 16 or d_model if None.
        decay_temperature: the decay is a sigmoid to the power of one over this.
        rope_options: arguments of `SelectiveRoPE`, `{"preset": "released"}` and what differs from that; or
            `{"base": ...}` with `"rope"`.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V) beside the small ones.

    Raises:
        ValueError: `n_heads` that does not divide a width, an odd K where something turns or is tied, an unknown
            `position` or option, a rank above the width.

    Example:
        >>> import torch
        >>> from seqmix import GatedLinearAttention
        >>> layer = GatedLinearAttention(d_model=64, n_heads=4, position="selective-rope")
        >>> y, state = layer(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape, state.angle.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 8, 16]), torch.Size([2, 4, 4]))
    """

    State = GatedLinearAttentionState
    only_scans = True
    _no_weight_decay = ("norm_weight", "conv_weight")
    conv_weight: Tensor | None

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        position: str | None = None,
        tie_decay: bool | None = None,
        *,
        expand_k: float = 0.5,
        expand_v: float = 1.0,
        d_conv: int | None = None,
        decay_rank: int | None = None,
        decay_temperature: float = 16.0,
        rope_options: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        name = "GatedLinearAttention"
        self.n_heads, self.d_key, self.d_value = head_sizes(name, d_model, n_heads, expand_k, expand_v)
        self.d_conv = 1 if d_conv is None else positive(name, "d_conv", d_conv)
        self.decay_rank = positive(name, "decay_rank", min(16, d_model) if decay_rank is None else decay_rank)
        if self.decay_rank > d_model:
            raise ValueError(f"{name}: decay_rank must be at most d_model = {d_model}, got {decay_rank}")
        if not decay_temperature > 0:
            raise ValueError(f"{name}: decay_temperature must be positive, got {decay_temperature!r}")
        self.decay_temperature = float(decay_temperature)
        self.position_name = position
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.position = make_position(name, position, d_model, n_heads, self.d_key, rope_options, **where)
        tied = position is not None and not has_preset(rope_options)
        self.tie_decay = tied if tie_decay is None else bool(tie_decay)
        if self.tie_decay and self.d_key % 2:
            raise ValueError(f"{name}: tie_decay needs an even width of keys in each head, got {self.d_key}")
        self.n_decays = self.d_key // 2 if self.tie_decay else self.d_key
        keys, values = n_heads * self.d_key, n_heads * self.d_value
        self.in_proj = nn.Linear(d_model, 2 * keys + 2 * values, bias=False, **where)
        channels = 2 * keys + values
        conv_weight = nn.Parameter(torch.empty(channels, self.d_conv, **where)) if self.d_conv > 1 else None
        self.register_parameter("conv_weight", conv_weight)
        self.decay_down = nn.Linear(d_model, self.decay_rank, bias=False, **where)
        self.decay_up = WideLinear(self.decay_rank, n_heads * self.n_decays, **where)
        self.norm_weight = nn.Parameter(torch.empty(self.d_value, **where))
        self.out_proj = nn.Linear(values, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`, the convolution near identity; the norm's weight is one."""
        for module in (self.in_proj, self.decay_down, self.decay_up, self.out_proj):
            module.reset_parameters()
        if self.conv_weight is not None:
            init_taps(self.conv_weight)
        nn.init.ones_(self.norm_weight)

    def log_decay(self, x: Tensor) -> Tensor:
        """g (B, T, H, K) for x (B, T, d_model), at least float32."""
        z = self.decay_up(self.decay_down(x))
        with torch.autocast(x.device.type, enabled=False):
            # (B, T, H, n_decays)
            g = logsigmoid(z).unflatten(-1, (self.n_heads, self.n_decays)) / self.decay_temperature
        return torch.cat((g, g), dim=-1) if self.tie_decay else g

    def mix(
        self, x: Tensor, state: GatedLinearAttentionState, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, GatedLinearAttentionState]:
        q, k, v, z, conv = self._project(x, state.conv, cu_seqlens)
        (q, k), window, angle = self.position.rotate(x, (q, k), (state.window, state.angle), cu_seqlens)
        o, S = gated_linear_attention(
            q * self.d_key**-0.5, k, v, self.log_decay(x), initial_state=state.S, cu_seqlens=cu_seqlens
        )
        return self._output(o, z), GatedLinearAttentionState(S, conv, window, angle)

    def _project(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        """q and k (B, T, H, K) before they turn, v (B, T, H, V), z (B, T, H V), and the new window."""
        keys, values = self.n_heads * self.d_key, self.n_heads * self.d_value
        qkv, z = self.in_proj(x).split((2 * keys + values, values), dim=-1)
        if self.conv_weight is not None:
            qkv, conv = causal_conv1d(qkv, self.conv_weight, None, "silu", initial_state=conv, cu_seqlens=cu_seqlens)
        q, k, v = by_heads(qkv, self.n_heads, self.d_key, self.d_key, self.d_value)
        return q, k, v, z, conv

    def _output(self, o: Tensor, z: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        return self.out_proj(rms_norm(o, self.norm_weight).flatten(2) * silu(z))  # from (B, T, H V)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> GatedLinearAttentionState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value)
        channels = self.n_heads * (2 * self.d_key + self.d_value) if self.d_conv > 1 else 0
        return GatedLinearAttentionState(
            torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, channels, device=device, dtype=dtype),
            *self.position.init_state(batch_size, device, dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V, the convolution's window, and the position's window and angles."""
        channels = self.n_heads * (2 * self.d_key + self.d_value)
        return self.n_heads * self.d_key * self.d_value + (self.d_conv - 1) * channels + self.position.state_size()

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K) of the transitions, complex where they turn and commute, and `increments`."""
        window, _ = self.position.init_state(x.shape[0], x.device, x.dtype)
        decay = self.log_decay(x).exp()
        omega, _ = self.position.increments(x, window, None)
        if not self.position.n_angles:
            return {"eigenvalues": decay}
        if not self.tie_decay:
            return {"increments": omega}
        turn = torch.cat((omega, -omega), dim=-1).to(decay.dtype)
        return {"eigenvalues": torch.polar(decay, turn), "increments": omega}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = q_t . decay_t ... decay_{s+1} k_s / sqrt(K), with the turns.

        Where decays are tied, the state turns with the angle: R(-omega_t) is part of the transition, and nothing else
        turns. Decays that do not commute with turns act on states that do not turn.
        """
        state = self.init_state(len(x), device=x.device, dtype=x.dtype)
        q, k, v, z, _ = self._project(x, state.conv, None)
        decay = self.log_decay(x).exp()
        a, q, k, v = decay, *(t.to(decay.dtype) for t in (q, k, v))
        if self.tie_decay and self.position.n_angles:
            a = decay[..., None] * turn_back(self.position.increments(x, state.window, None)[0].to(decay.dtype))
        else:
            (q, k), _, _ = self.position.rotate(x, (q, k), (state.window, state.angle), None)
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2).to(x.dtype), z),
            a,
            k.unsqueeze(-1),
            q.unsqueeze(-2) * self.d_key**-0.5,
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, position={self.position_name!r}, tie_decay={self.tie_decay}"
