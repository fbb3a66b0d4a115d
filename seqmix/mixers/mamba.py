"""Mamba (S6): a diagonal state space whose step and maps depend on the token (Gu and Dao 2023, 2312.00752).

    u_t, z_t = W_in x_t                                     (d_inner = expand * d_model, each)
    u_t = silu(conv(u)_t)                                   depthwise, causal, width d_conv
    r_t, B_t, C_t = W_x u_t                                 (dt_rank,), (N,), (N,)
    dt_t = softplus(W_dt r_t + b_dt)                        (d_inner,)
    s_t = exp(dt_t A) * s_{t-1} + dt_t u_t B_t^T            (d_inner, N), A = -exp(A_log)
    y_t = W_out ((s_t C_t + D * u_t) * silu(z_t))

With `eigenvalues="signed"` the decay is 2 exp(dt_t A) - 1 in (-1, 1), which parity needs and which changes nothing
else (Grazzi et al. 2024, 2411.12537). The discretisation is that of the code: exponential for the state, Euler for the
input. Parallel form: the associative scan of pairs (decay, input). State: s, and the last d_conv - 1 inputs of the
convolution. Parameters have the names and shapes of `mamba_ssm`, so published checkpoints load.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from seqmix._checks import positive
from seqmix.kernels import selective_scan
from seqmix.mixers._projections import CausalConv1d, WideLinear
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, check_steps, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class MambaState(NamedTuple):
    conv: Tensor  # (S, d_conv - 1, d_inner), oldest first, in the type of the activations
    ssm: Tensor  # (S, d_inner, N), float32 or float64


@register_mixer("mamba", description="Selective diagonal state space, S6.", source="2312.00752, signed: 2411.12537")
class Mamba(TokenMixer):
    """Mamba's mixer: convolution, selective scan and gate.

    Args:
        d_model: width of input and output.
        d_state: N, states for each inner channel.
        d_conv: width of the convolution.
        expand: d_inner over d_model.
        dt_rank: rank of the step's projection; d_model / 16, rounded up, if None.
        eigenvalues: `"positive"`, in (0, 1), or `"signed"`, in (-1, 1).
        dt_min, dt_max: range of the steps at initialisation, log-uniform.

    Shapes: x (B, T, d_model), y (B, T, d_model), state conv (S, d_conv - 1, d_inner) and ssm (S, d_inner, N).

    Raises:
        ValueError: a size below one, an unknown `eigenvalues`, steps that are not 0 < dt_min <= dt_max.

    Example:
        >>> import torch
        >>> from seqmix import Mamba
        >>> y, state = Mamba(d_model=64, eigenvalues="signed")(torch.randn(2, 10, 64))
        >>> y.shape, state.ssm.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 128, 16]))
    """

    State = MambaState
    only_scans = True
    projection: type[nn.Linear] = nn.Linear  # of x and of u
    _no_weight_decay = ("A_log", "D")

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        eigenvalues: Literal["positive", "signed"] = "positive",
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("Mamba", "d_state", d_state)
        self.d_conv = positive("Mamba", "d_conv", d_conv)
        self.expand = positive("Mamba", "expand", expand)
        self.dt_rank = positive("Mamba", "dt_rank", math.ceil(d_model / 16) if dt_rank is None else dt_rank)
        self.eigenvalues = one_of("Mamba", "eigenvalues", eigenvalues, ("positive", "signed"))
        check_steps("Mamba", dt_min, dt_max)
        self.dt_min, self.dt_max = dt_min, dt_max
        self.d_inner = expand * d_model

        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = self.projection(d_model, 2 * self.d_inner, bias=False, **where)
        self.conv1d = CausalConv1d(self.d_inner, d_conv, **where)
        self.x_proj = self.projection(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **where)
        self.dt_proj = WideLinear(self.dt_rank, self.d_inner, **where)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state, **where))
        self.D = nn.Parameter(torch.empty(self.d_inner, **where))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """S4D-real rates, A = -(1, ..., N) in every channel; steps log-uniform in [dt_min, dt_max] (section 3.6)."""
        for layer in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            if layer is not None:  # a layer on this one may have no convolution
                layer.reset_parameters()
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        u = torch.rand(self.d_inner, dtype=torch.float64, device=self.D.device)
        self.dt_proj.bias.copy_(step_bias(u, self.dt_min, self.dt_max))
        self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=torch.float64, device=u.device).log())
        nn.init.ones_(self.D)

    def selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """dt (B, T, d_inner), A (d_inner, N), B and C (B, T, N) from the convolved inputs u (B, T, d_inner)."""
        r, B, C = self.x_proj(u).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        real = recurrent_dtype(u.dtype)
        # In float32, outside autocast: decays above 0.99 do not survive bf16.
        with torch.autocast(u.device.type, enabled=False):
            dt = softplus(self.dt_proj(r))
            A = -self.A_log.to(real).exp()
        return dt, A, B, C

    def _decay(self, dt: Tensor, A: Tensor) -> Tensor:
        """The transitions (B, T, d_inner, N)."""
        decay = (dt[..., None] * A).exp()
        return 2 * decay - 1 if self.eigenvalues == "signed" else decay

    def mix(self, x: Tensor, state: MambaState, cu_seqlens: Tensor | None) -> tuple[Tensor, MambaState]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, window = self.conv1d(u, state.conv, cu_seqlens)
        dt, A, B, C = self.selection(u)
        y, s = selective_scan(
            u, dt, A, B, C, self.D, self.eigenvalues == "signed", initial_state=state.ssm, cu_seqlens=cu_seqlens
        )
        return self.out_proj(y * silu(z)), MambaState(window, s)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> MambaState:
        """Zeros: an empty window and s = 0."""
        device, dtype = self._like(device, dtype)
        return MambaState(
            torch.zeros(batch_size, self.d_conv - 1, self.d_inner, device=device, dtype=dtype),
            torch.zeros(batch_size, self.d_inner, self.d_state, device=device, dtype=recurrent_dtype(dtype)),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_inner (N + d_conv - 1)."""
        return self.d_inner * (self.d_state + self.d_conv - 1)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, d_inner, N) of the transitions and `steps` dt (B, T, d_inner), from a zero state."""
        u, _ = self.in_proj(x).chunk(2, dim=-1)
        u, _ = self.conv1d(u)
        dt, A, _, _ = self.selection(u)
        return {"eigenvalues": self._decay(dt, A), "steps": dt}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are the convolved u_t; M[t, s] = sum_n C_tn decay_t..decay_{s+1} dt_s B_sn, and D on the diagonal."""
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, _ = self.conv1d(u)
        dt, a, b, c = self.selection(u)
        return Recurrence(
            u.to(dt.dtype)[..., None, None],
            lambda o: self.out_proj(o[..., 0, 0].to(z.dtype) * silu(z)),
            self._decay(dt, a),
            (dt[..., None] * b.to(dt.dtype)[:, :, None])[..., None],
            c.to(dt.dtype)[:, :, None, None].expand(*dt.shape, 1, -1),
            self.D.to(dt.dtype)[:, None, None],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, dt_rank={self.dt_rank}, eigenvalues={self.eigenvalues!r}"
