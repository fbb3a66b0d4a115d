"""Mamba-3: trapezoidal steps and data-dependent rotations (Lahoti et al. 2026, 2603.15569), one input a head (SISO).

    z_t, u_t, B_t, C_t, r_t, a_t, l_t, w_t = W_in x_t    u of H heads of P channels; B, C (N,), w (N/2,) for all heads
    dt_t = softplus(r_t + b), A_t = -f(a_t)              f(a) = 1 + a for a >= 0, 1 / (1 - a) below
    Theta_t = Theta_{t-1} + pi tanh(w_t) dt_t            (H, N/2), modulo one turn
    k_t, q_t = R(Theta_t) (rmsnorm(B_t) + b_B), R(Theta_t) (rmsnorm(C_t) + b_C)
    S_t = alpha_t S_{t-1} + beta_t k_{t-1} u_{t-1}^T + gamma_t k_t u_t^T
          alpha = e^{dt A}, beta = (1 - lambda) dt alpha, gamma = lambda dt, lambda = sigmoid(l_t)
    y_t = W_out ((S_t^T q_t + D u_t) * silu(z_t))

lambda = 1 is Mamba-2's step, 1/2 the trapezoidal rule. The rotation is that of Selective RoPE, with angles through
tanh and dt instead of a convolution. A token is written twice, as it comes and with the next one, under one decay from
then on. So S_t = alpha_t Z_{t-1} + gamma_t k_t u_t^T for one linear attention over Z,

    Z_t = alpha_t Z_{t-1} + (gamma_t + beta_{t+1} / alpha_{t+1}) k_t u_t^T

which the query of the token after reads. State: S, the angle, and the last k and u, which the next token writes.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, sigmoid, silu, softplus

from seqmix._checks import positive
from seqmix.kernels import gated_linear_attention, selective_rotary
from seqmix.kernels.checks import check_shape, check_tensor, check_together
from seqmix.mixers._heads import rms_norm
from seqmix.mixers._one_more import OneMore, token_before
from seqmix.mixers._positions import ROUNDED_ANGLE, turn_back
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, check_steps, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class Mamba3State(NamedTuple):
    ssm: Tensor  # (S, H, N, P), float32 or float64
    angle: Tensor  # (S, H, N/2), in [-pi, pi]
    last: Tensor  # (S, 1, H (N + P)), the last k (turned) and u, float32 or float64


@register_mixer("mamba-3", description="Trapezoidal state space with data-dependent rotations.", source="2603.15569")
class Mamba3(TokenMixer):
    """Mamba-3's mixer.

    Args:
        d_model: width of input and output.
        d_state: N, width of B and C, even.
        expand: d_inner over d_model.
        n_heads: H, a divisor of d_inner; heads of 64 channels if None, or a single one where that does not divide.
        dt_min, dt_max: range of the steps at initialisation, log-uniform.

    Shapes: x (B, T, d_model), y (B, T, d_model), state ssm (S, H, N, P), angle (S, H, N/2), last (S, 1, H (N + P)).

    Raises:
        ValueError: a size below one, an odd `d_state`, heads that do not divide, steps out of order.

    Example:
        >>> import torch
        >>> from seqmix import Mamba3
        >>> y, state = Mamba3(d_model=64, d_state=32)(torch.randn(2, 10, 64))
        >>> y.shape, state.ssm.shape, state.angle.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 2, 32, 64]), torch.Size([2, 2, 16]))
    """

    State = Mamba3State
    varies_when_cut = f"{ROUNDED_ANGLE}, and there a token's two writes are not added first"
    only_scans = True
    _no_weight_decay = ("B_bias", "C_bias", "D", "dt_bias", "B_weight", "C_weight")

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        expand: int = 2,
        n_heads: int | None = None,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("Mamba3", "d_state", d_state)
        if d_state % 2:
            raise ValueError(f"Mamba3: d_state must be even, its halves turn together, got {d_state}")
        self.expand = positive("Mamba3", "expand", expand)
        self.d_inner = expand * d_model
        default = self.d_inner // 64 if self.d_inner % 64 == 0 else 1
        self.n_heads = positive("Mamba3", "n_heads", default if n_heads is None else n_heads)
        if self.d_inner % self.n_heads:
            raise ValueError(f"Mamba3: n_heads must divide d_inner = {self.d_inner}, got {n_heads}")
        check_steps("Mamba3", dt_min, dt_max)
        self.dt_min, self.dt_max = dt_min, dt_max
        H, N = self.n_heads, d_state
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self._widths = (self.d_inner, self.d_inner, N, N, H, H, H, N // 2)
        self.in_proj = nn.Linear(d_model, sum(self._widths), bias=False, **where)
        self.B_weight, self.C_weight = (nn.Parameter(torch.empty(N, **where)) for _ in range(2))
        self.B_bias, self.C_bias = (nn.Parameter(torch.empty(H, N, **where)) for _ in range(2))
        self.dt_bias = nn.Parameter(torch.empty(H, **where))
        self.D = nn.Parameter(torch.empty(H, **where))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Steps log-uniform in [dt_min, dt_max]; D, and the biases of B and C, are one."""
        self.in_proj.reset_parameters()
        self.out_proj.reset_parameters()
        u = torch.rand(self.n_heads, dtype=torch.float64, device=self.D.device)
        self.dt_bias.copy_(step_bias(u, self.dt_min, self.dt_max))
        for parameter in (self.D, self.B_weight, self.C_weight, self.B_bias, self.C_bias):
            nn.init.ones_(parameter)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """z, u, q and k before they turn, then in at least float32 dt, dt A, lambda (B, T, H) and omega."""
        z, u, B, C, r, a, trapezoid, w = self.in_proj(x).split(self._widths, dim=-1)
        real = recurrent_dtype(x.dtype)
        # Outside autocast: decays above 0.99 do not survive bf16.
        with torch.autocast(x.device.type, enabled=False):
            dt = softplus(r.to(real) + self.dt_bias.to(real))
            a = a.to(real)
            # clamp keeps the branch that is not taken finite: its gradient would be 0 times infinity.
            rate = torch.where(a >= 0, 1 + a, 1 / (1 - a.clamp_max(0))).clamp_min(1e-4)
            omega = math.pi * dt[..., None] * w.to(real).tanh()[:, :, None]
            k = rms_norm(B.to(real), self.B_weight)[:, :, None] + self.B_bias.to(real)
            q = rms_norm(C.to(real), self.C_weight)[:, :, None] + self.C_bias.to(real)
            return z, u, q, k, dt, -dt * rate, sigmoid(trapezoid.to(real)), omega

    def mix(self, x: Tensor, state: Mamba3State, cu_seqlens: Tensor | None) -> tuple[Tensor, Mamba3State]:
        z, u, q, k, dt, log_alpha, trapezoid, omega = self._project(x)
        (q, k), angle = selective_rotary(q, k, omega, initial_state=state.angle, cu_seqlens=cu_seqlens)
        H, N = self.n_heads, self.d_state
        check_tensor("Mamba3", "state.last", state.last, "S 1 H(N+P)")
        check_shape("Mamba3", "state.last", state.last, (len(state.last), 1, H * N + self.d_inner), "a k and a u")
        check_together("Mamba3", "x", x=k, **{"state.last": state.last})
        u = u.to(k.dtype).unflatten(-1, (H, -1))  # (B, T, H, P)
        now, later = trapezoid * dt, (1 - trapezoid) * dt  # (B, T, H): gamma_t, and beta_t / alpha_t
        # One token more: the last before these, of which the first of these writes another part.
        k, k_before, k_last = self._before(k, state.last[..., : H * N], cu_seqlens)
        u, u_before, u_last = self._before(u, state.last[..., H * N :], cu_seqlens)
        zero = torch.zeros_like(k_before[..., 0])
        longer = OneMore(x.shape[1], cu_seqlens)
        share = longer.before(now, zero) + longer.after(later, zero)
        o, s = gated_linear_attention(
            longer.after(q, torch.zeros_like(k_before)),  # reads before its own token is written
            longer.before(k, k_before),
            share[..., None] * longer.before(u, u_before),
            longer.before(log_alpha, zero),
            initial_state=state.ssm,
            cu_seqlens=longer.cu_seqlens,
        )
        own = now * (q * k).sum(-1) + self.D.to(k.dtype)
        o = log_alpha.exp()[..., None] * longer.without_last(o) + own[..., None] * u
        y = o.flatten(2).to(z.dtype) * silu(z)  # (B, T, d_inner)
        return self.out_proj(y), Mamba3State(s, angle, torch.cat((k_last, u_last), dim=-1))

    @staticmethod
    def _before(x: Tensor, last: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, H, N or P), the same of the token before it (S, 1, H, ...), and the last token (S, 1, H ...)."""
        rows, before, newest = token_before(x.flatten(2), initial_state=last.to(x.dtype), cu_seqlens=cu_seqlens)
        return rows.view_as(x), before.unflatten(-1, x.shape[2:]), newest

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> Mamba3State:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        H, N, P = self.n_heads, self.d_state, self.d_inner // self.n_heads
        shapes = ((H, N, P), (H, N // 2), (1, H * (N + P)))
        return Mamba3State(
            *(torch.zeros(batch_size, *shape, device=device, dtype=recurrent_dtype(dtype)) for shape in shapes)
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_inner N, H N/2 angles, H N and d_inner of the last token."""
        return self.d_inner * self.d_state + self.n_heads * (self.d_state // 2 + self.d_state) + self.d_inner

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, N) of the transitions, complex, and `steps` dt and `trapezoid` lambda (B, T, H)."""
        *_, dt, log_alpha, trapezoid, omega = self._project(x)
        turn = torch.cat((omega, -omega), dim=-1)
        decay = log_alpha.exp()[..., None].expand_as(turn)
        return {"eigenvalues": torch.polar(decay, turn), "steps": dt, "trapezoid": trapezoid}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are u_t, P for each head; the state already holds what a token leaves for the one after it.

        It turns with the angle, so that R(-omega_t) is part of the transition and nothing else turns.
        """
        z, u, q, k, dt, log_alpha, trapezoid, omega = self._project(x)
        a = log_alpha.exp()[..., None, None] * turn_back(omega)  # (B, T, H, N, N)
        now, later = trapezoid * dt, pad(((1 - trapezoid) * dt)[:, 1:], (0, 0, 0, 1))
        skip = now * (q * k).sum(-1) + self.D.to(dt.dtype)
        return Recurrence(
            u.to(dt.dtype).unflatten(-1, (self.n_heads, 1, -1)),
            lambda o: self.out_proj(o.flatten(2).to(z.dtype) * silu(z)),
            a,
            ((now + later)[..., None] * k)[..., None],
            q.unsqueeze(-2) @ a,
            skip[..., None, None],
            early=True,
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, n_heads={self.n_heads}"
