"""AUSSM: a state space that turns and never forgets, by angles of the token (2507.05238).

    u_t, z_t = W x_t                                 (D,) each, D = expand d_model
    s_t = silu(u_t)
    Delta_t = softplus(W_2 W_1 s_t + b)              (D,)
    theta_t = W_A s_t / sqrt(D) + c                  (D, N), the angle of the token
    h_t = e^{i theta_t} h_{t-1} + Delta_t s_t B      (D, N), complex
    y_t = W_o ((Re(sum over n of C h_t) + d * s_t) * silu(z_t))

Eigenvalues e^{i theta} lie on the circle, so norms are kept and nothing is ever forgotten; they commute, so one layer
counts modulo n and does no more. Delta scales what is written and not the angle. Parallel form: the complex diagonal
scan. Products of unit numbers add angles modulo one turn: no running angle grows. State: h, D N complex numbers. B and
C are constant, with magnitudes softplus(.); c is uniform in +-pi, d one, as released (wavesAI), whose projection of
Delta adds its bias twice. Steps start log-uniform in [1e-3, 0.1], |B| at 1, |C| at 1/N, their phases anywhere: ours.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from seqmix._checks import positive
from seqmix.kernels import diagonal_scan
from seqmix.mixers._projections import WideLinear
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, complex_dtype, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class AUSSMState(NamedTuple):
    h: Tensor  # (S, D, N), complex


@register_mixer("aussm", description="State space of turns that never forgets.", source="2507.05238")
class AUSSM(TokenMixer):
    """Adaptive unitary state space model.

    Args:
        d_model: width of input and output.
        d_state: N, complex numbers for each channel.
        expand: D over d_model.
        dt_rank: width between the two maps that make Delta; D/16, rounded up, if None.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, D, N) complex.

    Raises:
        ValueError: a size below one.

    Example:
        >>> import torch
        >>> from seqmix import AUSSM
        >>> y, state = AUSSM(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64, 8]))
    """

    State = AUSSMState
    only_scans = True
    _no_weight_decay = ("D", "B", "C")

    def __init__(
        self,
        d_model: int,
        d_state: int = 8,
        expand: int = 1,
        dt_rank: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("AUSSM", "d_state", d_state)
        self.d_inner = positive("AUSSM", "expand", expand) * d_model
        rank = positive("AUSSM", "dt_rank", math.ceil(self.d_inner / 16) if dt_rank is None else dt_rank)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False, **where)
        self.angle_proj = WideLinear(self.d_inner, self.d_inner * d_state, **where)
        self.dt_down = WideLinear(self.d_inner, rank, bias=False, **where)
        self.dt_up = WideLinear(rank, self.d_inner, **where)
        self.B = nn.Parameter(torch.empty(2, self.d_inner, d_state, **where))  # magnitude, before softplus, and phase
        self.C = nn.Parameter(torch.empty(2, self.d_inner, d_state, **where))
        self.D = nn.Parameter(torch.empty(self.d_inner, **where))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As said above; linear maps as in `nn.Linear`."""
        for layer in (self.in_proj, self.angle_proj, self.dt_down, self.dt_up, self.out_proj):
            layer.reset_parameters()
        nn.init.uniform_(self.angle_proj.bias, -math.pi, math.pi)
        u = torch.rand(self.d_inner, dtype=torch.float64, device=self.D.device)
        self.dt_up.bias.copy_(step_bias(u))
        for parameter, size in ((self.B, 1.0), (self.C, 1 / self.d_state)):
            nn.init.constant_(parameter[0], math.log(math.expm1(size)))
            nn.init.uniform_(parameter[1], -math.pi, math.pi)
        nn.init.ones_(self.D)

    def angles(self, s: Tensor) -> Tensor:
        """theta (B, T, D, N) in at least float32."""
        real = recurrent_dtype(s.dtype)
        with torch.autocast(s.device.type, enabled=False):
            scaled = self.angle_proj(s.to(real) * self.d_inner**-0.5)
        return scaled.unflatten(-1, (self.d_inner, self.d_state))  # (B, T, D, N)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """s, in at least float32, and z (B, T, D), e^{i theta} and Delta B (B, T, D, N), and C (D, N)."""
        u, z = self.in_proj(x).chunk(2, -1)
        s = silu(u).to(recurrent_dtype(x.dtype))
        theta, dt = self.angles(s), softplus(self.dt_up(self.dt_down(s)))
        B, C = (torch.polar(softplus(p[0]), p[1]) for p in (self.B.to(s.dtype), self.C.to(s.dtype)))
        return s, z, torch.polar(torch.ones_like(theta), theta), dt[..., None] * B, C

    def mix(self, x: Tensor, state: AUSSMState, cu_seqlens: Tensor | None) -> tuple[Tensor, AUSSMState]:
        s, z, a, write, C = self._parts(x)
        v = (write * s[..., None]).flatten(2)  # (B, T, D N), as a and h
        h, final = diagonal_scan(a.flatten(2), v, initial_state=state.h.flatten(1), cu_seqlens=cu_seqlens)
        y = (h.view(a.shape) * C).sum(-1).real  # (B, T, D)
        return self._output(y, s, z), AUSSMState(final.view(-1, *C.shape))

    def _output(self, y: Tensor, s: Tensor, z: Tensor) -> Tensor:
        return self.out_proj((y + self.D.to(y.dtype) * s).to(z.dtype) * silu(z))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> AUSSMState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        shape = (batch_size, self.d_inner, self.d_state)
        return AUSSMState(torch.zeros(shape, device=device, dtype=complex_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """2 D N: a complex number counts two."""
        return 2 * self.d_inner * self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` e^{i theta} (B, T, D, N), on the unit circle."""
        return {"eigenvalues": self._parts(x)[2]}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values s_t; M[t, s] = sum over n of C e^{i (theta_{s+1} + ... + theta_t)} Delta_s B, whose real part is o."""
        s, z, a, write, C = self._parts(x)
        return Recurrence(
            s[..., None, None].to(a.dtype),
            lambda o: self._output(o[..., 0, 0].real, s, z),
            a,
            write.unsqueeze(-1),
            C.unsqueeze(-2).expand(*a.shape[:3], 1, -1),
        )

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}, d_inner={self.d_inner}"
