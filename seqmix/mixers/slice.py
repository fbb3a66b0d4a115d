"""SLiCE: a linear differential equation that the tokens drive, in blocks (Walker et al. 2025, 2505.17761).

    h_0 = W_0 x_0 + b_0                              the first token starts the state and does nothing else
    h_t = (I + A(x_t) / 40) h_{t-1}                  N / m blocks (m, m), A linear in (1, x_t), for t > 0
    y_t = W_o layernorm(c(h_t)),    c(u) = s tanh(u / s), s = 1e11

Nothing is added to the state after the first token: a word acts on it as a product of matrices, any of blocks of m.
Nothing bounds I + A either, so that over very long words a state grows or shrinks without end: c and the norm keep y in
range as long as float32 keeps h. Parallel form: a block scan. State: h, N numbers, and how many tokens were read.
Released: blocks of 4, A normal of deviation 1 / (2 sqrt(m)), steps of 1/40, a tanh or a GLU after the norm, which are
the model's here. Other structures of A (diagonal with a Walsh-Hadamard transform, low rank) are not here.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from seqmix._checks import positive
from seqmix.kernels import block_scan
from seqmix.mixers._projections import WideLinear
from seqmix.mixers._starts import first_tokens
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state

_STEP = 1 / 40
_LARGEST = 1e11


@mixer_state
class SLiCEState(NamedTuple):
    h: Tensor  # (S, N / m, m), float32 or float64
    length: Tensor  # (S,) int64, tokens read


@register_mixer("slice", description="Blocks of a linear equation that tokens drive.", source="2505.17761")
class SLiCE(TokenMixer):
    """Block-diagonal SLiCE.

    Args:
        d_model: width of input and output.
        d_state: N, numbers in the state; d_model if None.
        block_size: m, a divisor of `d_state`.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N / m, m).

    Raises:
        ValueError: a size below one, or `block_size` that does not divide `d_state`.

    Example:
        >>> import torch
        >>> from seqmix import SLiCE
        >>> y, state = SLiCE(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 16, 4]))
    """

    State = SLiCEState
    _no_weight_decay = ("norm_weight", "norm_bias")

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        block_size: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("SLiCE", "d_state", d_model if d_state is None else d_state)
        self.block_size = positive("SLiCE", "block_size", block_size)
        if self.d_state % block_size:
            raise ValueError(f"SLiCE: block_size must divide d_state = {self.d_state}, got {block_size}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.init_proj = WideLinear(d_model, self.d_state, **where)
        self.field_proj = WideLinear(d_model, self.d_state * block_size, **where)
        self.norm_weight = nn.Parameter(torch.empty(self.d_state, **where))
        self.norm_bias = nn.Parameter(torch.empty(self.d_state, **where))
        self.out_proj = nn.Linear(self.d_state, d_model, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A and its constant part normal of deviation 1 / (2 sqrt(m)); other linear maps as in `nn.Linear`."""
        for layer in (self.init_proj, self.out_proj):
            layer.reset_parameters()
        for parameter in (self.field_proj.weight, self.field_proj.bias):
            nn.init.normal_(parameter, std=0.5 * self.block_size**-0.5)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)

    def transitions(self, x: Tensor) -> Tensor:
        """I + A(x_t) / 40 (B, T, N / m, m, m) in at least float32."""
        A = self.field_proj(x).unflatten(-1, (-1, self.block_size, self.block_size))  # (B, T, N / m, m, m)
        return torch.eye(self.block_size, dtype=A.dtype, device=x.device) + _STEP * A

    def _starts(self, x: Tensor, first: Tensor) -> Tensor:
        """What first tokens make of an empty state, (B, T, N / m, m), zero elsewhere."""
        return (self.init_proj(x) * first[..., None]).unflatten(-1, (-1, self.block_size))

    def mix(self, x: Tensor, state: SLiCEState, cu_seqlens: Tensor | None) -> tuple[Tensor, SLiCEState]:
        first, length = first_tokens(state.length, x.shape[1], cu_seqlens)
        h, final = block_scan(self.transitions(x), self._starts(x, first), initial_state=state.h, cu_seqlens=cu_seqlens)
        return self._output(h, x), SLiCEState(final, length)

    def _output(self, h: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            u = _LARGEST * (h.flatten(2) / _LARGEST).tanh()  # (B, T, N)
            parameters = self.norm_weight.to(u.dtype), self.norm_bias.to(u.dtype)
            y = layer_norm(u, u.shape[-1:], *parameters)
        return self.out_proj(y.to(x.dtype))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> SLiCEState:
        """h = 0, no token read."""
        device, dtype = self._like(device, dtype)
        shape = (batch_size, self.d_state // self.block_size, self.block_size)
        return SLiCEState(
            torch.zeros(shape, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """N."""
        return self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, N / m, m) of the transitions, complex."""
        return {"eigenvalues": torch.linalg.eigvals(self.transitions(x))}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are what the first token starts, zero after it; M[t, 0] = (I + A_t / 40) ... (I + A_1 / 40)."""
        first = (torch.arange(x.shape[1], device=x.device) == 0).unsqueeze(0)
        A = self.transitions(x)
        write = torch.eye(self.block_size, dtype=A.dtype, device=x.device).expand_as(A)
        return Recurrence(self._starts(x, first).unsqueeze(-1), lambda o: self._output(o.squeeze(-1), x), A, write)

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}, block_size={self.block_size}"
