"""S5: one time-invariant diagonal system for all channels (Smith et al. 2022, 2208.04933).

With P = N/2 complex numbers that stand for conjugate pairs:

    a = e^{Lambda dt}                                (P,), dt for each of them
    h_t = a * h_{t-1} + (a - 1) / Lambda * (B x_t)
    y_t = 2 Re(C h_t) + D * x_t

Eigenvalues a are inside the circle and the same at every token. Parallel form: the associative scan of a constant
decay, on a CPU the recurrence itself. State: h, P complex numbers. At first Lambda is the spectrum of the normal part
of HiPPO-LegS, and B and C are real matrices of variance 1/d and complex ones of variance 2/N in its eigenvectors. Re
Lambda is at most -1e-4, an option in the released code. What stands around it there, gelu and a gate, are the model's
here.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from seqmix.kernels import diagonal_scan
from seqmix.mixers._hold import checked_pairs, zero_order_hold
from seqmix.mixers._starts import log_uniform
from seqmix.mixers.base import TokenMixer, complex_dtype, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class S5State(NamedTuple):
    h: Tensor  # (S, N/2) complex


def hippo_spectrum(n: int) -> tuple[Tensor, Tensor]:
    """Lambda (n/2,), those with positive imaginary parts, and their eigenvectors (n, n/2), complex128, for even n.

    HiPPO-LegS is -sqrt((2 i + 1)(2 k + 1)) below its diagonal of -(i + 1); with sqrt((i + 1/2)(k + 1/2)) added it is
    normal, -1/2 and a skew matrix (section 2.3 of the paper).
    """
    i = torch.arange(n, dtype=torch.float64)
    root = (2 * i + 1).sqrt()
    lower = root[:, None] * root / 2
    skew = torch.triu(lower, 1) - torch.tril(lower, -1)
    imaginary, vectors = torch.linalg.eigh(-1j * skew)
    half = slice(n // 2, None)  # ascending, in pairs of either sign
    return torch.complex(torch.full_like(imaginary[half], -0.5), imaginary[half]), vectors[:, half]


@register_mixer("s5", description="Time-invariant diagonal system, HiPPO at first.", source="2208.04933")
class S5(TokenMixer):
    """S5's state space.

    Args:
        d_model: width of input and output.
        d_state: N, even, the size of the real system: N/2 complex numbers; d_model if None.
        dt_min, dt_max: range of the steps at initialisation, log-uniform over states.
        lr_factor: factor on the learning rate of Lambda, B and dt.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N/2) complex.

    Raises:
        ValueError: a size below one, an odd N, steps out of order, or a factor that is not positive.

    Example:
        >>> import torch
        >>> from seqmix import S5
        >>> y, state = S5(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 32]))
    """

    State = S5State
    only_scans = True
    _no_weight_decay = ("Lambda_re", "Lambda_im", "log_step", "B")

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        *,
        lr_factor: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = checked_pairs("S5", d_model if d_state is None else d_state, dt_min, dt_max, lr_factor)
        self.dt_min, self.dt_max = dt_min, dt_max
        pairs = self.d_state // 2

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.Lambda_re, self.Lambda_im, self.log_step = (parameter(pairs) for _ in range(3))
        # Complex matrices as pairs of real ones: `.to(bfloat16)` would drop imaginary parts.
        self.B, self.C = parameter(pairs, d_model, 2), parameter(d_model, pairs, 2)
        self.D = parameter(d_model)
        self._lr_scale = dict.fromkeys(self._no_weight_decay, lr_factor)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """HiPPO's spectrum, B and C in its eigenvectors, steps log-uniform, D normal."""
        if self.Lambda_re.is_meta:
            return  # no numbers to be set, which would take N^3 operations
        spectrum, vectors = hippo_spectrum(self.d_state)
        self.Lambda_re.copy_(spectrum.real)
        self.Lambda_im.copy_(spectrum.imag)
        B = torch.randn(self.d_state, self.d_model, dtype=torch.float64) * self.d_model**-0.5
        C = torch.randn(self.d_model, self.d_state, dtype=torch.complex128) * (2 / self.d_state) ** 0.5
        self.B.copy_(torch.view_as_real(vectors.mH @ B.to(vectors.dtype)))
        self.C.copy_(torch.view_as_real(C @ vectors))
        spread = torch.rand(len(spectrum), dtype=torch.float64)
        self.log_step.copy_(log_uniform(spread, self.dt_min, self.dt_max))
        nn.init.normal_(self.D)

    def discretised(self) -> tuple[Tensor, Tensor]:
        """a and (a - 1) / Lambda, both (P,), complex64 or complex128."""
        real = recurrent_dtype(self.Lambda_re.dtype)
        Lambda_re = self.Lambda_re.to(real).clamp(max=-1e-4)
        return zero_order_hold(Lambda_re, self.Lambda_im.to(real), self.log_step.to(real).exp())

    def _values(self, x: Tensor) -> Tensor:
        """B x (B, T, P), complex."""
        real = recurrent_dtype(x.dtype)
        return torch.complex(linear(x, self.B[..., 0]).to(real), linear(x, self.B[..., 1]).to(real))

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        read = linear(h.real.to(x.dtype), self.C[..., 0]) - linear(h.imag.to(x.dtype), self.C[..., 1])
        return 2 * read + self.D * x

    def mix(self, x: Tensor, state: S5State, cu_seqlens: Tensor | None) -> tuple[Tensor, S5State]:
        a, write = self.discretised()
        h, final = diagonal_scan(a, write * self._values(x), initial_state=state.h, cu_seqlens=cu_seqlens)
        return self._output(h, x), S5State(final)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> S5State:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return S5State(torch.zeros(batch_size, self.d_state // 2, device=device, dtype=complex_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N: a complex number counts two."""
        return self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, P), the same at every token, without their conjugates."""
        return {"eigenvalues": self.discretised()[0].expand(*x.shape[:2], -1)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values B x_t in C^P; M[t, s] = a^(t - s) (a - 1) / Lambda."""
        (a, write), v = self.discretised(), self._values(x)
        return Recurrence(
            v[..., None, None],
            lambda o: self._output(o[..., 0, 0], x),
            a.expand_as(v)[..., None],
            write.expand_as(v)[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}"
