"""S4D: a time-invariant diagonal system for each channel (Gu et al. 2022, 2206.11893), by default S4D-Lin.

For each channel u of x, with N/2 complex numbers that stand for conjugate pairs:

    A_n = -exp(log_A_real_n) + i A_imag_n            at first -1/2 + i pi n
    h_t = e^{A dt} * h_{t-1} + (e^{A dt} - 1) / A * u_t
    s_t = 2 Re(C . h_t) + D u_t
    y_t = glu(W gelu(s_t) + b)                       the only place where channels meet

Eigenvalues e^{A dt} are inside the circle and the same at every token. Parallel form: the associative scan of a
constant decay, on a CPU the recurrence itself; the published one is a convolution with the kernel that this scan
writes. State: h, N/2 complex numbers for each channel. A and dt have no weight decay and a smaller rate (`lr_factor`).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu

from seqmix.kernels import diagonal_scan
from seqmix.mixers._hold import checked_pairs, zero_order_hold
from seqmix.mixers._starts import log_uniform
from seqmix.mixers.base import TokenMixer, complex_dtype, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class S4DState(NamedTuple):
    h: Tensor  # (S, d_model, N/2) complex


@register_mixer("s4d", description="Time-invariant diagonal system for each channel.", source="2206.11893")
class S4D(TokenMixer):
    """S4D with linear initialisation, GELU and a gated map after it.

    Args:
        d_model: width of input and output.
        d_state: N, even; N/2 complex numbers for each channel.
        dt_min, dt_max: range of the steps at initialisation, log-uniform over channels.
        lr_factor: factor on the learning rate of A and dt.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, d_model, N/2) complex.

    Raises:
        ValueError: a size below one, an odd N, steps out of order, or a factor that is not positive.

    Example:
        >>> import torch
        >>> from seqmix import S4D
        >>> y, state = S4D(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64, 32]))
    """

    State = S4DState
    only_scans = True
    _no_weight_decay = ("log_dt", "log_A_real", "A_imag")

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        *,
        lr_factor: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = checked_pairs("S4D", d_state, dt_min, dt_max, lr_factor)
        self.dt_min, self.dt_max = dt_min, dt_max
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.log_dt = nn.Parameter(torch.empty(d_model, **where))
        self.log_A_real, self.A_imag = (nn.Parameter(torch.empty(d_model, d_state // 2, **where)) for _ in range(2))
        self.C = nn.Parameter(torch.empty(d_model, d_state // 2, 2, **where))
        self.D = nn.Parameter(torch.empty(d_model, **where))
        self.output_linear = nn.Linear(d_model, 2 * d_model, **where)
        self._lr_scale = dict.fromkeys(self._no_weight_decay, lr_factor)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A as in S4D-Lin, steps log-uniform, C of variance one, D normal."""
        spread = torch.rand(self.d_model, dtype=torch.float64, device=self.log_dt.device)
        self.log_dt.copy_(log_uniform(spread, self.dt_min, self.dt_max))
        nn.init.constant_(self.log_A_real, math.log(0.5))
        n = torch.arange(self.d_state // 2, dtype=torch.float64, device=self.log_dt.device)
        self.A_imag.copy_((math.pi * n).expand_as(self.A_imag))
        nn.init.normal_(self.C, std=0.5**0.5)
        nn.init.normal_(self.D)
        self.output_linear.reset_parameters()

    def discretised(self) -> tuple[Tensor, Tensor]:
        """e^{A dt} and (e^{A dt} - 1) / A, both (d_model, N/2), complex64 or complex128."""
        real = recurrent_dtype(self.log_dt.dtype)
        A_real, A_imag = -self.log_A_real.to(real).exp(), self.A_imag.to(real)
        return zero_order_hold(A_real, A_imag, self.log_dt.to(real).exp()[:, None])

    def mix(self, x: Tensor, state: S4DState, cu_seqlens: Tensor | None) -> tuple[Tensor, S4DState]:
        a, write = self.discretised()
        u = (x.to(write.real.dtype)[..., None] * write).flatten(2)  # (B, T, d_model N/2)
        h, final = diagonal_scan(a.flatten(), u, initial_state=state.h.flatten(1), cu_seqlens=cu_seqlens)
        h, final = (t.unflatten(-1, a.shape) for t in (h, final))  # (B, T, d_model, N/2), (S, d_model, N/2)
        with torch.autocast(x.device.type, enabled=False):
            C = self.C.to(h.real.dtype)
            read = 2 * ((h.real * C[..., 0]).sum(-1) - (h.imag * C[..., 1]).sum(-1))  # (B, T, d_model)
        return self._output(read, x), S4DState(final)

    def _output(self, read: Tensor, x: Tensor) -> Tensor:
        """y (B, T, d_model) of 2 Re(C h), both (B, T, d_model)."""
        return glu(self.output_linear(gelu(read.to(x.dtype) + self.D * x)), dim=-1)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> S4DState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return S4DState(
            torch.zeros(batch_size, self.d_model, self.d_state // 2, device=device, dtype=complex_dtype(dtype))
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_model N: a complex number counts two."""
        return self.d_model * self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, d_model, N/2), the same at every token, without their conjugates."""
        return {"eigenvalues": self.discretised()[0].expand(*x.shape[:2], -1, -1)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are the channels of x; M[t, s] = 2 C . e^{A dt (t - s)} (e^{A dt} - 1) / A, whose real part counts."""
        a, write = self.discretised()
        C = torch.view_as_complex(self.C.to(a.real.dtype))
        shape = (*x.shape[:2], *a.shape)
        return Recurrence(
            x.to(a.dtype)[..., None, None],
            lambda o: self._output(o[..., 0, 0].real, x),
            a.expand(shape),
            write.expand(shape)[..., None],
            (2 * C).expand(shape)[..., None, :],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}"
