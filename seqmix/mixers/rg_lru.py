"""RG-LRU: the real-gated linear recurrent unit in Griffin's recurrent block (De et al. 2024, 2402.19427).

    u_t = conv(W_u x_t)                                 depthwise, causal, width d_conv
    r_t = sigmoid(W_a u_t + b_a), i_t = sigmoid(W_i u_t + b_i)      block-diagonal, one block a head
    log a_t = -8 r_t * softplus(Lambda)
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * u_t)             at the first token h_t = i_t * u_t
    y_t = W_o (gelu(W_z x_t) * h_t)

The factor sqrt(1 - a^2) keeps the variance of h that of its input, from the first token on. Parallel form: the
associative scan of pairs (a, b). State: h, d_state numbers, the last d_conv - 1 inputs of the convolution, and how many
tokens were read.

Paper, released code (google-deepmind/recurrentgemma, torch/layers.py and modules.py) and this layer, line by line:

- gates, the factor 8 and the initialisation of all parts: the code's; the paper's a = sigmoid(Lambda) is exp(-softplus)
  of the other sign.
- gain at the first token: sqrt(1 - a^2) in the paper, 1 in the code and here (`unit_start`), packed sequences too.
- derivative of the square root: infinite at a = 1; in code and here at most 1,000, with the value as it is, so that a
  closed gate (r = 0) writes nothing and still has a gradient. `min_gain=5e-4` ends the value there, too, without one.
- 1 - a^2: here by expm1, which keeps the digits that 1 - exp(2 log a) loses near a = 1.
- scan: in float32 in code and here. The code's local attention and MLPs between these blocks are not a mixer's.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from seqmix._checks import is_number, positive
from seqmix.kernels import causal_conv1d, diagonal_scan
from seqmix.mixers._starts import first_tokens
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state

_STEEPEST = 1000.0  # derivative of the square root


def _root(x: Tensor) -> Tensor:
    """sqrt(x) with a derivative of at most 1,000, by operations that have derivatives of every kind themselves."""
    small = 0.25 / _STEEPEST**2
    fixed = x.detach()
    return torch.where(x < small, fixed.sqrt() + _STEEPEST * (x - fixed), x.clamp_min(small).sqrt())


@mixer_state
class RGLRUState(NamedTuple):
    h: Tensor  # (S, d_state), float32 or float64
    conv: Tensor  # (S, d_conv - 1, d_state), in the type of the activations
    length: Tensor  # (S,) int64, tokens read


@register_mixer("rg-lru", description="Griffin's real-gated linear recurrent unit.", source="2402.19427")
class RGLRU(TokenMixer):
    """Griffin's recurrent block.

    Args:
        d_model: width of input and output.
        d_state: channels of the recurrence; d_model if None.
        n_heads: blocks of the gates' maps, a divisor of `d_state`.
        d_conv: width of the convolution.
        r_min, r_max: range of a at r_t = 1/8, uniform in area at initialisation.
        unit_start: whether the first token of a sequence is written with gain 1 in place of sqrt(1 - a^2).
        min_gain: below 1, the least sqrt(1 - a^2); smaller ones have no gradient.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, d_state) and conv (S, d_conv - 1, d_state).

    Raises:
        ValueError: a size below one, `n_heads` that does not divide `d_state`, radii not 0 < r_min < r_max < 1, a
            gain out of range.

    Example:
        >>> import torch
        >>> from seqmix import RGLRU
        >>> y, state = RGLRU(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64]))
    """

    State = RGLRUState
    _no_weight_decay = ("Lambda", "conv_weight", "conv_bias", "gate_bias")

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        n_heads: int = 4,
        d_conv: int = 4,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        unit_start: bool = True,
        min_gain: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("RGLRU", "d_state", d_model if d_state is None else d_state)
        self.n_heads = positive("RGLRU", "n_heads", n_heads)
        self.d_conv = positive("RGLRU", "d_conv", d_conv)
        if self.d_state % n_heads:
            raise ValueError(f"RGLRU: n_heads must divide d_state = {self.d_state}, got {n_heads}")
        if not 0 < r_min < r_max < 1:
            raise ValueError(f"RGLRU: radii must obey 0 < r_min < r_max < 1, got {r_min} and {r_max}")
        self.r_min, self.r_max = r_min, r_max
        self.unit_start = one_of("RGLRU", "unit_start", unit_start, (True, False))
        if not is_number(min_gain) or not 0 <= min_gain < 1:
            raise ValueError(f"RGLRU: min_gain must be in [0, 1), got {min_gain!r}")
        self.min_gain = float(min_gain)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        width = self.d_state // n_heads
        self.in_proj = nn.Linear(d_model, 2 * self.d_state, **where)
        self.conv_weight = nn.Parameter(torch.empty(self.d_state, d_conv, **where))
        self.conv_bias = nn.Parameter(torch.empty(self.d_state, **where))
        self.gate_weight = nn.Parameter(torch.empty(2, n_heads, width, width, **where))  # of r, of i
        self.gate_bias = nn.Parameter(torch.empty(2, self.d_state, **where))
        self.Lambda = nn.Parameter(torch.empty(self.d_state, **where))
        self.out_proj = nn.Linear(self.d_state, d_model, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """exp(-softplus(Lambda)) uniform in area in [r_min, r_max]; linear maps of unit gain, the convolution small."""
        for layer in (self.in_proj, self.out_proj):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.conv_weight, std=(0.01 / self.d_conv) ** 0.5)
        nn.init.zeros_(self.conv_bias)
        nn.init.normal_(self.gate_weight, std=self.gate_weight.shape[-1] ** -0.5)
        nn.init.zeros_(self.gate_bias)
        u = torch.rand(self.d_state, dtype=torch.float64, device=self.Lambda.device)
        radius = (u * (self.r_max**2 - self.r_min**2) + self.r_min**2).sqrt()
        self.Lambda.copy_((1 / radius - 1).log())

    def coefficients(self, u: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """a and the gain sqrt(1 - a^2) i, both (B, T, d_state) in at least float32, for the convolved u.

        `first` (B, T) is true at the first tokens of sequences; None for that of each row.
        """
        if first is None:
            first = (torch.arange(u.shape[1], device=u.device) == 0).expand(u.shape[:2])
        real = recurrent_dtype(u.dtype)
        with torch.autocast(u.device.type, enabled=False):
            u = u.to(real)
            parts = u.unflatten(-1, (self.n_heads, -1))  # (B, T, H, d_state / H)
            # One after the other: the weights of both at once would be copied into another order at every call.
            maps = zip(self.gate_weight.to(real), self.gate_bias.to(real), strict=True)
            r, i = ((torch.einsum("bthi,hij->bthj", parts, W).flatten(2) + b).sigmoid() for W, b in maps)
            log_a = r * (-8 * softplus(self.Lambda.to(real)))
            scale = _root((-torch.expm1(2 * log_a)).clamp_min(self.min_gain**2))
            if self.unit_start:
                scale = scale.masked_fill(first.unsqueeze(-1), 1.0)
            return log_a.exp(), scale * i

    def _convolve(self, x: Tensor, window: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        u, window = causal_conv1d(u, self.conv_weight, self.conv_bias, initial_state=window, cu_seqlens=cu_seqlens)
        return u, z, window

    def mix(self, x: Tensor, state: RGLRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, RGLRUState]:
        u, z, window = self._convolve(x, state.conv, cu_seqlens)
        first, length = first_tokens(state.length, u.shape[1], cu_seqlens)
        a, gain = self.coefficients(u, first)
        h, final = diagonal_scan(a, gain * u, initial_state=state.h, cu_seqlens=cu_seqlens)
        return self.out_proj(gelu(z) * h.to(z.dtype)), RGLRUState(final, window, length)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> RGLRUState:
        """Zeros: h = 0 and an empty window, no token read."""
        device, dtype = self._like(device, dtype)
        return RGLRUState(
            torch.zeros(batch_size, self.d_state, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, self.d_state, device=device, dtype=dtype),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_state d_conv: h and the window."""
        return self.d_state * self.d_conv

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` a_t (B, T, d_state), real, from an empty window."""
        u, _, _ = self._convolve(x, None, None)
        return {"eigenvalues": self.coefficients(u)[0]}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are the convolved u_t; M[t, s] = a_t ... a_{s+1} sqrt(1 - a_s^2) i_s."""
        u, z, _ = self._convolve(x, None, None)
        a, gain = self.coefficients(u)  # (B, T, d_state)
        return Recurrence(
            u.to(a.dtype)[..., None, None],
            lambda o: self.out_proj(gelu(z) * o[..., 0, 0].to(z.dtype)),
            a[..., None],
            gain[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, n_heads={self.n_heads}, d_conv={self.d_conv}"
