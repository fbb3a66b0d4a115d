"""GateLoop: linear attention whose decays are complex numbers of the token (Katsch 2023, 2311.01927).

For each head, with K = expand_k d_model / (2 H) complex keys and V = d_model / H real values:

    q_t, k_t = W x_t                                 (K,), complex: the first half real, the second imaginary
    v_t, z_t = W x_t                                 (V,)
    a_t = sigmoid(alpha_t) exp(i omega_t),    alpha_t, omega_t = W_a x_t + b          (K,) each
    S_t = diag(a_t) S_{t-1} + conj(k_t) v_t^T        (K, V)
    o_t = Re(q_t^T S_t) / sqrt(2 K)
    y_t = W_o (o_t * silu(z_t))

Computed in real numbers: q and k turned by the running angle, and 2 K keys whose pairs share a decay. Eigenvalues are
a_t and its conjugate, inside the circle: a product of half turns is parity, and since they commute no more than
counting modulo n. Parallel form: masked matrix products in chunks, on a CPU the recurrence itself. State: S, which
turns with the angle, and the angle. The paper's setting of a complex number for each channel, K = V = 1, is
`n_heads=d_model, expand_k=2`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from seqmix.kernels import gated_linear_attention, selective_rotary
from seqmix.mixers._heads import by_heads, head_sizes
from seqmix.mixers._positions import ROUNDED_ANGLE, pairs_of, turn_back
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class GateLoopState(NamedTuple):
    S: Tensor  # (S, H, 2 K, V), float32 or float64
    angle: Tensor  # (S, H, K), in [-pi, pi]


@register_mixer("gateloop", description="Linear attention with complex gates of the token.", source="2311.01927")
class GateLoop(TokenMixer):
    """GateLoop.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        expand_k: real numbers in all keys over `d_model`.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, 2 K, V) and angle (S, H, K).

    Raises:
        ValueError: `n_heads` that does not divide a width, an odd number of real numbers in a key, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import GateLoop
        >>> y, state = GateLoop(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = GateLoopState
    varies_when_cut = ROUNDED_ANGLE
    only_scans = True

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("GateLoop", d_model, n_heads, expand_k)  # d_key is 2 K
        pairs_of("GateLoop", self.d_key)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * n_heads * self.d_key + 2 * d_model, bias=False, **where)
        self.gate_proj = WideLinear(d_model, n_heads * self.d_key, **where)
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log |a| and omega, both (B, T, H, K) in at least float32, for x (B, T, d_model)."""
        alpha, omega = self.gate_proj(x).unflatten(-1, (self.n_heads, self.d_key)).chunk(2, -1)  # (B, T, H, K) each
        return logsigmoid(alpha), omega

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, scaled, and k (B, T, H, 2 K) before they turn, v and z (B, T, H, V)."""
        K, V = self.d_key, self.d_value
        q, k, v, z = by_heads(self.in_proj(x), self.n_heads, K, K, V, V)
        return q * self.d_key**-0.5, k, v, z

    def mix(self, x: Tensor, state: GateLoopState, cu_seqlens: Tensor | None) -> tuple[Tensor, GateLoopState]:
        (q, k, v, z), (log_a, omega) = self._project(x), self.gates(x)
        (q, k), angle = selective_rotary(q, k, omega, initial_state=state.angle, cu_seqlens=cu_seqlens)
        log_g = torch.cat((log_a, log_a), -1)  # (B, T, H, 2 K)
        o, S = gated_linear_attention(q, k, v, log_g, initial_state=state.S, cu_seqlens=cu_seqlens)
        return self.out_proj((o * silu(z)).flatten(2)), GateLoopState(S, angle)  # of (B, T, d_model)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> GateLoopState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        where: dict[str, Any] = {"device": device, "dtype": recurrent_dtype(dtype)}
        S = torch.zeros(batch_size, self.n_heads, self.d_key, self.d_value, **where)
        return GateLoopState(S, torch.zeros(batch_size, self.n_heads, self.d_key // 2, **where))

    def state_size(self, sequence_length: int = 1) -> int:
        """2 H K V and the angles, H K."""
        return self.n_heads * self.d_key * self.d_value + self.n_heads * self.d_key // 2

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, 2 K), a_t and its conjugate."""
        log_a, omega = self.gates(x)
        decay = log_a.exp()
        return {"eigenvalues": torch.polar(torch.cat((decay, decay), -1), torch.cat((omega, -omega), -1))}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = Re(q_t^T a_t ... a_{s+1} conj(k_s)) / sqrt(2 K)."""
        (q, k, v, z), (log_a, omega) = self._project(x), self.gates(x)
        decay = torch.cat((log_a, log_a), -1).exp()
        q, k, v = (t.to(decay.dtype) for t in (q, k, v))
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self.out_proj((o.squeeze(-2).to(x.dtype) * silu(z)).flatten(2)),
            decay[..., None] * turn_back(omega),
            k.unsqueeze(-1),
            q.unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}"
