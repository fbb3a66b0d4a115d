"""RetNet: linear attention whose heads forget at fixed rates (Sun et al. 2023, 2307.08621).

For each head h = 0 ... H - 1, with K = expand_k d_model / H and V = expand_v d_model / H:

    q_t, k_t, v_t, z_t = W x_t                       q_t and k_t turned by RoPE
    S_t = gamma_h S_{t-1} + k_t v_t^T                (K, V),  gamma_h = 1 - 2^{-5-h}
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (rmsnorm(o_t) * silu(z_t))

No token changes what is kept: one cannot be written over another. Eigenvalues are gamma_h, turned by the angles of
RoPE. Parallel form: masked matrix products in chunks, on a CPU the recurrence itself. State: S, and the angle. Pairs
(i, i + K/2) turn by base^{-2i/K} a token, as in fla, layers/multiscale_retention.py.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from seqmix.kernels import gated_linear_attention
from seqmix.mixers._heads import by_heads, head_sizes, rms_norm
from seqmix.mixers._positions import RoPE, turn_back
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class RetNetState(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64
    angle: Tensor  # (S, H, K/2)


@register_mixer("retnet", description="Linear attention, a fixed decay for each head.", source="2307.08621")
class RetNet(TokenMixer):
    """RetNet's retention.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`; from about 30 on a head's decay is one in float32.
        expand_k, expand_v: widths of all keys and of all values over `d_model`; 1 and 2 as published.
        base: of RoPE's angles.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V) and angle (S, H, K/2).

    Raises:
        ValueError: `n_heads` that does not divide a width, an odd K, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import RetNet
        >>> y, state = RetNet(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 32]))
    """

    State = RetNetState
    only_scans = True
    _no_weight_decay = ("norm_weight",)

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 1.0,
        expand_v: float = 2.0,
        base: float = 10_000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("RetNet", d_model, n_heads, expand_k, expand_v)
        self.position = RoPE(n_heads, self.d_key, base)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        keys, values = n_heads * self.d_key, n_heads * self.d_value
        self.in_proj = nn.Linear(d_model, 2 * (keys + values), bias=False, **where)
        self.norm_weight = nn.Parameter(torch.ones(self.d_value, **where))
        self.out_proj = nn.Linear(values, d_model, bias=False, **where)

    def log_decay(self, x: Tensor) -> Tensor:
        """log gamma (B, T, H), the same at every token of x (B, T, d_model), at least float32."""
        lost = [math.log1p(-(2.0 ** (-5 - h))) for h in range(self.n_heads)]
        return torch.tensor(lost, dtype=recurrent_dtype(x.dtype), device=x.device).expand(*x.shape[:2], -1)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, scaled, and k (B, T, H, K) before they turn, v and z (B, T, H, V)."""
        K, V = self.d_key, self.d_value
        q, k, v, z = by_heads(self.in_proj(x), self.n_heads, K, K, V, V)
        return q * self.d_key**-0.5, k, v, z

    def _output(self, o: Tensor, z: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        return self.out_proj((rms_norm(o, self.norm_weight) * silu(z)).flatten(2))  # from (B, T, H V)

    def mix(self, x: Tensor, state: RetNetState, cu_seqlens: Tensor | None) -> tuple[Tensor, RetNetState]:
        q, k, v, z = self._project(x)
        (q, k), _, angle = self.position.rotate(x, (q, k), (x, state.angle), cu_seqlens)  # RoPE has no window
        o, S = gated_linear_attention(q, k, v, self.log_decay(x), initial_state=state.S, cu_seqlens=cu_seqlens)
        return self._output(o, z), RetNetState(S, angle)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> RetNetState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        where: dict[str, Any] = {"device": device, "dtype": recurrent_dtype(dtype)}
        S = torch.zeros(batch_size, self.n_heads, self.d_key, self.d_value, **where)
        return RetNetState(S, torch.zeros(batch_size, self.n_heads, self.d_key // 2, **where))

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V and the angles, H K/2."""
        return self.n_heads * self.d_key * self.d_value + self.position.state_size()

    def _transition(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Decays (B, T, H) and angles (B, T, H, K/2) of one token."""
        decay = self.log_decay(x).exp()
        return decay, self.position.increments(x, x, None)[0].to(decay.dtype)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K), complex, the same at every token."""
        decay, omega = self._transition(x)
        return {"eigenvalues": torch.polar(decay[..., None], torch.cat((omega, -omega), -1))}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = gamma^(t - s) q_t . R(t - s) k_s / sqrt(K)."""
        q, k, v, z = self._project(x)
        decay, omega = self._transition(x)
        q, k, v = (t.to(decay.dtype) for t in (q, k, v))
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2).to(x.dtype), z),
            decay[..., None, None] * turn_back(omega),
            k.unsqueeze(-1),
            q.unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}"
