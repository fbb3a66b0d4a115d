"""Selective RoPE: rotary positions that depend on the tokens (Movahedi et al. 2025, 2511.17388).

It turns the pairs (i, i + K/2) of q_t and k_t by an angle that grows by what each token asks for:

    phi_t = conv(W (x_t / sqrt(|x_t|^2 + 1e-6)))_t     length one for each head's part of x_t
    omega_t = tau * sigmoid(gate_t) * (phi_t + exp(b)) (H, K/2); without gate or bias those factors are absent
    Theta_t = Theta_{t-1} + omega_t                    modulo one turn

tau is a ladder of temperatures over the K/2 pairs. Temperature, gate and bias multiply the increments, before the sum:
the angle itself may be wrapped only when nothing scales it afterwards. At phi = 0, b = 0 this is RoPE. State: the last
inputs of the convolution and Theta, both float32, since an increment that is rounded stays wrong for ever.

Paper, released code (timurcarstensen/selective-rope, modules/rotary.py, layers/gla.py) and this module, line by line:

- phi: of the layer's input, each head's part of length one, in code and here; the paper's listing writes q.
- projection: of rank 16 by default in code and here; 32, or `"full"` for language, in its configs.
- convolution: of width 4 without bias in all, which mixes increments of four tokens. The code's `skip_conv` takes the
  difference of two tokens' phi instead (`d_conv="difference"`), whose sum is phi itself: without gate and bias the
  angle then is the token's alone. There its decode forgets the token before; here it does not. `d_conv=1` is ours.
- bias: exp(b), b = 0 at first, in code and here: 1 radian a step. Off by default in the code and in its configs but
  those of state tracking (and half of copying's), which our defaults are: bias, theta 1, rank 16.
- phase gate: sees the same x of length one in the code (`gate_input="unit"`); with `"x"` the layer's input itself. The
  code's `fuse_gate` leaves it out in training; that is not here.
- temperature: fixed in all; theta 5e5 by default in the code and in its configs for MAD and language.
- sum: wrapped to a turn here, in float32 and growing in the code, which then loses digits.
- decay under rotation: each key channel its own in paper and code; GLA here ties those of a pair (`tie_decay`).
- initialisation: of a linear layer's own in code and here; the code's models draw N(0, 0.02) over it.
- `rope_options: {preset: released}` is the code's config for MAD and language, with decays that are not tied.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d
from seqmix.mixers._heads import unit
from seqmix.mixers._positions import ROUNDED_ANGLE, NoPosition, SelectiveRoPEState, pairs_of
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import one_of, recurrent_dtype

__all__ = ["SelectiveRoPE", "SelectiveRoPEState"]


class SelectiveRoPE(NoPosition):
    """Rotary positions whose angles depend on the tokens.

    Args:
        d_model: width of the input that chooses the angles.
        n_heads: H, a divisor of `d_model`.
        d_head: K, width of a query or key, even.
        rank: of the projection, 16 or d_model if None; `"full"`: for each head a linear map of its own part of x,
            weight-normalised, with one learned scale.
        d_conv: width of the causal convolution over increments; 1 for none, `"difference"` for phi_t - phi_{t-1}.
        activation: of the convolution, None or `"silu"`.
        bias: whether exp(b) is added, b learned and 0 at first.
        gate: None, `"standard"` (one for each head), `"low-rank"` (the same through `gate_rank`) or `"gla"`
            (one for each angle through that rank).
        gate_input: `"unit"`, each head's part of x of length one, or `"x"`: what the gate sees.
        temperature: `"rope"`, maximum * theta^{-2i/K}, or `"rfa"`, tan(w_i / 2) scaled to the maximum, with w_i evenly
            spaced in [0, theta pi], theta < 1.
        theta: of that ladder; theta = 1 with `"rope"` gives every pair the maximum, which state tracking wants;
            5e5 is the paper's choice for language.
        temperature_max: the maximum.

    Raises:
        ValueError: `n_heads` that does not divide `d_model`, an odd `d_head`, a rank above the width, an unknown
            `gate`, `activation` or `temperature`, a theta or maximum out of range.

    Example:
        >>> import torch
        >>> from seqmix import SelectiveRoPE
        >>> rope = SelectiveRoPE(d_model=16, n_heads=2, d_head=4)
        >>> q, k = torch.randn(2, 3, 7, 2, 4)
        >>> (q, k), state = rope(torch.randn(3, 7, 16), q, k)
        >>> q.shape, state.angle.shape
        (torch.Size([3, 7, 2, 4]), torch.Size([3, 2, 2]))
    """

    State = SelectiveRoPEState
    varies_when_cut = ROUNDED_ANGLE
    _no_weight_decay = ("scale", "bias", "conv_weight")
    conv_weight: Tensor | None
    difference: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_head: int,
        *,
        rank: int | str | None = None,
        d_conv: int | str = 4,
        activation: str | None = None,
        bias: bool = True,
        gate: str | None = None,
        gate_rank: int | None = None,
        gate_input: str = "unit",
        temperature: str = "rope",
        theta: float | None = None,
        temperature_max: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "SelectiveRoPE"
        super().__init__(positive(name, "n_heads", n_heads), positive(name, "d_head", d_head))
        self.d_model, self.n_angles = positive(name, "d_model", d_model), pairs_of(name, d_head)
        if d_model % n_heads:
            raise ValueError(f"{name}: n_heads must divide d_model = {d_model}, got {n_heads}")
        self.rank: Any = rank if rank == "full" else _rank("rank", rank, d_model)
        difference = d_conv == "difference"
        self.d_conv = 2 if difference else positive(name, "d_conv", d_conv)
        self.activation = one_of(name, "activation", activation, (None, "silu"))
        self.gate = one_of(name, "gate", gate, (None, "standard", "low-rank", "gla"))
        self.gate_input = one_of(name, "gate_input", gate_input, ("unit", "x"))
        self.temperature = one_of(name, "temperature", temperature, ("rope", "rfa"))
        self.theta = (1.0 if temperature == "rope" else 0.9999) if theta is None else float(theta)
        if not (self.theta >= 1 if temperature == "rope" else 0 < self.theta < 1) or math.isinf(self.theta):
            bounds = "at least 1" if temperature == "rope" else "between 0 and 1"
            raise ValueError(f"{name}: theta must be {bounds} with temperature={temperature!r}, got {theta!r}")
        if not 0 < temperature_max < math.inf:
            raise ValueError(f"{name}: temperature_max must be positive and finite, got {temperature_max!r}")
        self.temperature_max = float(temperature_max)
        angles = n_heads * self.n_angles
        self.window_shape = (self.d_conv - 1, angles)

        where: dict[str, Any] = {"device": device, "dtype": dtype}
        if self.rank == "full":
            self.weight = nn.Parameter(torch.empty(n_heads, self.n_angles, d_model // n_heads, **where))
            self.scale = nn.Parameter(torch.empty(n_heads, **where))
        else:
            self.down_proj = WideLinear(d_model, int(self.rank), bias=False, **where)
            self.up_proj = WideLinear(int(self.rank), angles, bias=False, **where)
            self.register_parameter("scale", None)
        learned = self.d_conv > 1 and not difference
        conv_weight = nn.Parameter(torch.empty(angles, self.d_conv, **where)) if learned else None
        self.register_parameter("conv_weight", conv_weight)
        taps = torch.tensor([-1.0, 1.0], device=device).expand(angles, 2).clone() if difference else None
        self.register_buffer("difference", taps, persistent=False)
        self.register_parameter("bias", nn.Parameter(torch.empty(n_heads, self.n_angles, **where)) if bias else None)
        if gate is not None:
            outputs = angles if gate == "gla" else n_heads
            inner = d_model if gate == "standard" else _rank("gate_rank", gate_rank, d_model)
            self.gate_down = None if gate == "standard" else WideLinear(d_model, inner, bias=False, **where)
            self.gate_proj = WideLinear(inner, outputs, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`, scale 1, b = 0: at first nearly RoPE with the same temperatures."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        if self.rank == "full":
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
            nn.init.ones_(self.scale)
        if self.conv_weight is not None:
            nn.init.uniform_(self.conv_weight, -(self.d_conv**-0.5), self.d_conv**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def ladder(self, device: Any, dtype: torch.dtype) -> Tensor:
        """The temperatures (K/2,)."""
        i = torch.arange(self.n_angles, device=device, dtype=dtype)
        if self.temperature == "rope":
            return self.temperature_max * self.theta ** (-i / self.n_angles)
        last = self.theta * math.pi / 2
        # The largest is tan(last); a single pair gets it.
        steps = i / (self.n_angles - 1) if self.n_angles > 1 else torch.ones_like(i)
        return self.temperature_max * (last * steps).tan() / math.tan(last)

    def increments(self, x: Tensor, window: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        real = recurrent_dtype(x.dtype)
        heads = (self.n_heads, self.n_angles)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(real)
            units = unit(x.unflatten(-1, (self.n_heads, -1)))  # (B, T, H, D / H)
            if self.rank == "full":
                weight = self.scale.to(real)[:, None, None] * unit(self.weight.to(real))
                phi = torch.einsum("bthd,had->btha", units, weight).flatten(2)  # (B, T, H K/2)
            else:
                phi = self.up_proj(self.down_proj(units.flatten(2)))  # (B, T, H K/2)
            taps = self.difference if self.conv_weight is None else self.conv_weight
            if taps is not None:
                phi, window = causal_conv1d(
                    phi, taps.to(real), None, self.activation, initial_state=window, cu_seqlens=cu_seqlens
                )
            omega = phi.unflatten(-1, heads)  # (B, T, H, K/2)
            if self.bias is not None:
                omega = omega + self.bias.to(real).exp()
            if self.gate is not None:
                seen = units.flatten(2) if self.gate_input == "unit" else x  # (B, T, D)
                inner = seen if self.gate_down is None else self.gate_down(seen)
                omega = omega * self.gate_proj(inner).sigmoid().unflatten(-1, (self.n_heads, -1))
            return omega * self.ladder(x.device, real), window

    def forward(
        self,
        x: Tensor,
        q: Tensor,
        k: Tensor,
        state: SelectiveRoPEState | None = None,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[tuple[Tensor, Tensor], SelectiveRoPEState]:
        """(q, k) (B, T, H, K) turned by what x (B, T, d_model) asks for, and the state after the last token."""
        if state is None:
            sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            state = self.init_state(sequences, x.device, x.dtype)
        (q, k), window, angle = self.rotate(x, (q, k), (state.window, state.angle), cu_seqlens)
        return (q, k), SelectiveRoPEState(window, angle)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, gate={self.gate!r}, temperature={self.temperature!r}, theta={self.theta:g}"


def _rank(name: str, value: Any, d_model: int) -> int:
    if value is None:
        return min(16, d_model)
    if positive("SelectiveRoPE", name, value) > d_model:
        raise ValueError(f"SelectiveRoPE: {name} must be at most d_model = {d_model}, got {value}")
    return value
