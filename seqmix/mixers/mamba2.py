"""Mamba-2 (SSD): a state space with one decay for each head (Dao and Gu 2024, 2405.21060).

    z_t, u_t, B_t, C_t, r_t = W_in x_t               u of H heads of P channels; B, C (G, N), shared by H/G heads each
    u, B, C = silu(conv(u, B, C)_t)                  depthwise, causal, width d_conv
    dt_t = softplus(r_t + b)                         one for each head, A = -exp(A_log) likewise
    S_t = e^{dt_t A} S_{t-1} + B_t (dt_t u_t)^T      (N, P) for each head
    o_t = S_t^T C_t + D u_t
    y_t = W_out (rmsnorm(o_t * silu(z_t)))           over each of G groups of d_inner / G channels by itself

This is linear attention with queries C, keys B, values dt u and a scalar decay, and runs on its kernel. Parallel form:
masked matrix products in chunks. State: S, and the last d_conv - 1 inputs of the convolution. Parameters have the names
and shapes of `mamba_ssm`.

Paper, released code (state-spaces/mamba, mamba_ssm/modules/mamba2.py) and this layer, line by line:

- projections, convolution, dt, A, D and their initialisation: the code's; D is one number for each head.
- norm: after the gate, with the code's eps of 1e-5; over each group's channels in paper (so that groups may lie on
  different devices), code (`group_size`) and here, by T and one at a time.
- heads: of 64 channels in the code, which wants d_inner to be a multiple; here also a single one, or `n_heads`.
- one-token step: the code's without Triton knows one group only; this layer's is the layer.
- the code's `d_ssm`, `D_has_hdim`, `norm_before_gate`, `rmsnorm=False`, `dt_limit` and biases of projections: not here.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from seqmix._checks import positive
from seqmix.kernels import gated_linear_attention
from seqmix.mixers._heads import rms_norm
from seqmix.mixers._projections import CausalConv1d
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class Mamba2State(NamedTuple):
    conv: Tensor  # (S, d_conv - 1, d_inner + 2 G N), oldest first, in the type of the activations
    ssm: Tensor  # (S, H, N, P), float32 or float64


class _Norm(nn.Module):
    """The norm on what is read, of each group by itself, with its weight under the name of checkpoints."""

    def __init__(self, width: int, n_groups: int, **where: Any) -> None:
        super().__init__()
        self.n_groups = n_groups
        self.weight = nn.Parameter(torch.ones(width, **where))

    _no_weight_decay = ("weight",)

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(-1, (self.n_groups, -1))  # (B, T, G, d_inner / G)
        return rms_norm(groups, self.weight.view(self.n_groups, -1)).flatten(-2)  # (B, T, d_inner)


@register_mixer("mamba-2", description="State space with a scalar decay for each head, SSD.", source="2405.21060")
class Mamba2(TokenMixer):
    """Mamba-2's mixer.

    Args:
        d_model: width of input and output.
        d_state: N, width of B and C.
        d_conv: width of the convolution.
        expand: d_inner over d_model.
        n_heads: H, a divisor of d_inner; heads of 64 channels if None, or a single one where that does not divide.
        n_groups: G, a divisor of H: heads of a group share B and C, and the norm is over a group.
        dt_min, dt_max: range of the steps at initialisation, log-uniform.
        A_min, A_max: range of -A at initialisation, uniform.

    Shapes: x (B, T, d_model), y (B, T, d_model), state conv (S, d_conv - 1, d_inner + 2 G N) and ssm (S, H, N, P).

    Raises:
        ValueError: a size below one, heads or groups that do not divide, ranges out of order.

    Example:
        >>> import torch
        >>> from seqmix import Mamba2
        >>> y, state = Mamba2(d_model=64, d_state=32)(torch.randn(2, 10, 64))
        >>> y.shape, state.ssm.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 2, 32, 64]))
    """

    State = Mamba2State
    only_scans = True
    _no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        n_heads: int | None = None,
        n_groups: int = 1,
        *,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        A_min: float = 1.0,
        A_max: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("Mamba2", "d_state", d_state)
        self.d_conv = positive("Mamba2", "d_conv", d_conv)
        self.expand = positive("Mamba2", "expand", expand)
        self.d_inner = expand * d_model
        default = self.d_inner // 64 if self.d_inner % 64 == 0 else 1
        self.n_heads = positive("Mamba2", "n_heads", default if n_heads is None else n_heads)
        if self.d_inner % self.n_heads:
            raise ValueError(f"Mamba2: n_heads must divide d_inner = {self.d_inner}, got {n_heads}")
        self.n_groups = positive("Mamba2", "n_groups", n_groups)
        if self.n_heads % n_groups:
            raise ValueError(f"Mamba2: n_groups must divide n_heads = {self.n_heads}, got {n_groups}")
        for name, low, high in (("dt", dt_min, dt_max), ("A", A_min, A_max)):
            if not 0 < low <= high:
                raise ValueError(f"Mamba2: {name}_min and {name}_max must obey 0 < min <= max, got {low} and {high}")
        self.dt_min, self.dt_max, self.A_min, self.A_max = dt_min, dt_max, A_min, A_max
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        channels = self.d_inner + 2 * n_groups * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + channels + self.n_heads, bias=False, **where)
        self.conv1d = CausalConv1d(channels, d_conv, **where)
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads, **where))
        self.A_log = nn.Parameter(torch.empty(self.n_heads, **where))
        self.D = nn.Parameter(torch.empty(self.n_heads, **where))
        self.norm = _Norm(self.d_inner, n_groups, **where)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """-A uniform in [A_min, A_max], steps log-uniform in [dt_min, dt_max], D and the norm's weight one."""
        for layer in (self.in_proj, self.conv1d, self.out_proj):
            layer.reset_parameters()
        u = torch.rand(2, self.n_heads, dtype=torch.float64, device=self.D.device)
        self.dt_bias.copy_(step_bias(u[0], self.dt_min, self.dt_max))
        self.A_log.copy_((self.A_min + u[1] * (self.A_max - self.A_min)).log())
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm.weight)

    def _project(
        self, x: Tensor, window: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """z, the convolved (u, B, C), the steps dt (B, T, H), at least float32, and the new window."""
        channels = self.conv1d.in_channels
        z, ubc, r = self.in_proj(x).split((self.d_inner, channels, self.n_heads), dim=-1)
        ubc, window = self.conv1d(ubc, window, cu_seqlens)
        real = recurrent_dtype(x.dtype)
        # Outside autocast: decays above 0.99 do not survive bf16.
        with torch.autocast(x.device.type, enabled=False):
            dt = softplus(r.to(real) + self.dt_bias.to(real))
        return z, ubc, dt, window

    def log_decay(self, dt: Tensor) -> Tensor:
        """dt_t A (B, T, H)."""
        return -dt * self.A_log.to(dt.dtype).exp()

    def mix(self, x: Tensor, state: Mamba2State, cu_seqlens: Tensor | None) -> tuple[Tensor, Mamba2State]:
        z, ubc, dt, window = self._project(x, state.conv, cu_seqlens)
        wide = self.n_groups * self.d_state
        u, B, C = ubc.split((self.d_inner, wide, wide), dim=-1)
        u = u.unflatten(-1, (self.n_heads, -1))  # (B, T, H, V)
        B, C = (self._to_heads(t) for t in (B, C))  # (B, T, H, N)
        v = (dt[..., None] * u).to(u.dtype)
        o, s = gated_linear_attention(C, B, v, self.log_decay(dt), initial_state=state.ssm, cu_seqlens=cu_seqlens)
        o = o + self.D[:, None] * u
        y = self.norm(o.flatten(2).to(z.dtype) * silu(z))  # (B, T, d_inner)
        return self.out_proj(y), Mamba2State(window, s)

    def _to_heads(self, t: Tensor) -> Tensor:
        """(B, T, G N) as (B, T, H, N), every group repeated for its heads; a view where there is one group."""
        groups = t.unflatten(-1, (self.n_groups, 1, -1))  # (B, T, G, 1, N)
        # Not by einops, whose calls would be 3 % of a decoded token.
        return groups.expand(-1, -1, -1, self.n_heads // self.n_groups, -1).flatten(2, 3)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> Mamba2State:
        """Zeros: an empty window and S = 0."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_state, self.d_inner // self.n_heads)
        return Mamba2State(
            torch.zeros(batch_size, self.d_conv - 1, self.conv1d.in_channels, device=device, dtype=dtype),
            torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_inner N, and the window of the convolution."""
        return self.d_inner * self.d_state + (self.d_conv - 1) * self.conv1d.in_channels

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H) of the transitions and `steps` dt (B, T, H), from an empty window."""
        _, _, dt, _ = self._project(x, None, None)
        return {"eigenvalues": self.log_decay(dt).exp(), "steps": dt}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are the convolved u_t, P for each head; M[t, s] = C_t . B_s decay dt_s, and D on the diagonal."""
        z, ubc, dt, _ = self._project(x, None, None)
        wide = self.n_groups * self.d_state
        u, b, c = ubc.to(dt.dtype).split((self.d_inner, wide, wide), dim=-1)
        b, c = self._to_heads(b), self._to_heads(c)  # (B, T, H, N)
        decay = self.log_decay(dt).exp()  # (B, T, H)
        return Recurrence(
            u.unflatten(-1, (self.n_heads, 1, -1)),  # (B, T, H, 1, P)
            lambda o: self.out_proj(self.norm(o.flatten(2).to(z.dtype) * silu(z))),
            decay[..., None].expand_as(b),
            (dt[..., None] * b)[..., None],
            c.unsqueeze(-2),
            self.D.to(dt.dtype)[:, None, None],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, n_heads={self.n_heads}, n_groups={self.n_groups}"
