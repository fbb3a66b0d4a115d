"""LRU: a time-invariant complex diagonal RNN (Orvieto et al. 2023, Resurrecting Recurrent Neural Networks, 2303.06349).

    lambda = exp(-exp(nu_log) + i exp(theta_log))           (N,), |lambda| < 1 by construction
    h_t = lambda * h_{t-1} + exp(gamma_log) * (B x_t)       h_t in C^N, x_t in R^d
    y_t = Re(C h_t) + D * x_t                               no factor 2: h is not half of a conjugate pair

Parallel form: (a, b) o (a', b') = (a' a, a' b + b'), associative. State: h, N complex numbers. lambda starts uniform
in area on the ring r_min <= |lambda| <= r_max with phases up to max_phase; gamma = sqrt(1 - |lambda|^2) then keeps
the state's variance that of its input, and is a free parameter from there on.

Paper, public code (NicolasZucchet/minimal-LRU, lru/model.py, which is not the paper's) and this layer, line by line:

- lambda, gamma, their initialisation, B of variance 1 / (2 d), C of 1 / N, D of 1, no factor 2: the same in all; phases
  up to 2 pi, 6.28 in the code. Where r_min is 0 a radius of 0, whose logarithm is not finite, is left out here.
- learning rate of lambda, gamma and B: a factor below one, by task, and no weight decay: in all (`lr_factor`).
- block (batch norm before, gelu, GLU, dropout): in paper and code the layer's, here the model's options `norm`, `glu`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from seqmix._checks import positive
from seqmix.kernels import diagonal_scan
from seqmix.mixers.base import TokenMixer, complex_dtype, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class LRUState(NamedTuple):
    h: Tensor  # (S, N) complex


@register_mixer("lru", description="Time-invariant complex diagonal linear RNN.", source="2303.06349")
class LRU(TokenMixer):
    """Linear recurrent unit.

    Args:
        d_model: width of input and output.
        d_state: N, complex numbers in the state; d_model if None.
        r_min, r_max: ring of the eigenvalues' magnitudes at initialisation, 0 <= r_min < r_max <= 1.
        max_phase: largest initial phase in radians; pi / 10 for very long sequences.
        lr_factor: factor on the learning rate of lambda, gamma and B (0.1 to 0.5 in the paper, by task).

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N) complex.

    Raises:
        ValueError: a size below one, radii out of order, a phase or factor that is not positive.

    Example:
        >>> import torch
        >>> from seqmix import LRU
        >>> y, state = LRU(d_model=64, d_state=32, r_min=0.9, r_max=0.99)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.dtype
        (torch.Size([2, 10, 64]), torch.complex64)
    """

    State = LRUState
    only_scans = True
    _no_weight_decay = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        *,
        lr_factor: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("LRU", "d_state", d_model if d_state is None else d_state)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"LRU: r_min and r_max must obey 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
        if not max_phase > 0:
            raise ValueError(f"LRU: max_phase must be positive, got {max_phase}")
        if not lr_factor > 0:
            raise ValueError(f"LRU: lr_factor must be positive, got {lr_factor}")
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.nu_log, self.theta_log, self.gamma_log = (parameter(self.d_state) for _ in range(3))
        # Complex matrices as pairs of real ones: `.to(bfloat16)` would drop imaginary parts.
        self.B_re, self.B_im = (parameter(self.d_state, d_model) for _ in range(2))
        self.C_re, self.C_im = (parameter(d_model, self.d_state) for _ in range(2))
        self.D = parameter(d_model)
        self._lr_scale = dict.fromkeys(self._no_weight_decay, lr_factor)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Ring initialisation (section 3.2 and appendix A of the paper)."""
        u1, u2 = torch.rand(2, self.d_state, dtype=torch.float64, device=self.nu_log.device)
        # 1 - u1 lies in (0, 1], so the radius is positive and its logarithm finite even for r_min = 0.
        squared = (1 - u1) * (self.r_max**2 - self.r_min**2) + self.r_min**2
        # A radius of exactly one has nu = 0, whose logarithm is not finite.
        nu = (-0.5 * squared.log()).clamp_min(1e-12)
        self.nu_log.copy_(nu.log())
        self.theta_log.copy_((self.max_phase * (1 - u2)).log())
        self.gamma_log.copy_(0.5 * (-torch.expm1(-2 * nu)).log())
        for matrix in (self.B_re, self.B_im):
            nn.init.normal_(matrix, std=(2 * self.d_model) ** -0.5)
        for matrix in (self.C_re, self.C_im):
            nn.init.normal_(matrix, std=self.d_state**-0.5)
        nn.init.normal_(self.D)

    def eigenvalues(self) -> Tensor:
        """lambda (N,), complex; formed in float32 at least, since decays above 0.99 do not survive bf16."""
        real = recurrent_dtype(self.nu_log.dtype)
        return torch.polar((-self.nu_log.to(real).exp()).exp(), self.theta_log.to(real).exp())

    def mix(self, x: Tensor, state: LRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, LRUState]:
        with torch.autocast(x.device.type, enabled=False):
            eigenvalues = self.eigenvalues()
        real = eigenvalues.real.dtype
        gamma = self.gamma_log.to(real).exp()
        u = torch.complex(gamma * linear(x, self.B_re).to(real), gamma * linear(x, self.B_im).to(real))
        h, final = diagonal_scan(eigenvalues, u, initial_state=state.h, cu_seqlens=cu_seqlens)
        y = linear(h.real.to(x.dtype), self.C_re) - linear(h.imag.to(x.dtype), self.C_im) + self.D * x
        return y, LRUState(final)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> LRUState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return LRUState(torch.zeros(batch_size, self.d_state, device=device, dtype=complex_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """2 N: a complex number counts two."""
        return 2 * self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, N), the same at every token."""
        return {"eigenvalues": self.eigenvalues().expand(*x.shape[:2], -1)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values B x_t in C^N; M[t, s] = lambda^(t - s) gamma."""
        a, real = self.eigenvalues(), recurrent_dtype(x.dtype)
        v = torch.complex(linear(x, self.B_re).to(real), linear(x, self.B_im).to(real))  # (B, T, N)
        gamma = self.gamma_log.to(real).exp().to(a.dtype)

        def output(o: Tensor) -> Tensor:
            h = o[..., 0, 0]
            return linear(h.real.to(x.dtype), self.C_re) - linear(h.imag.to(x.dtype), self.C_im) + self.D * x

        write = gamma[:, None, None].expand(*v.shape, 1, 1)
        return Recurrence(v[..., None, None], output, a.expand_as(v)[..., None], write)

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, r_min={self.r_min}, r_max={self.r_max}, max_phase={self.max_phase:.4g}"
