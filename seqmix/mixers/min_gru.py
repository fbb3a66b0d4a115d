"""minGRU: a GRU whose gates do not see the state (Feng et al. 2024, 2410.01201).

    z_t = sigmoid(W_z x_t)                           (N,)
    h~_t = phi(W_h x_t),    phi(u) = u + 1/2 for u >= 0, sigmoid(u) below
    h_t = (1 - z_t) * h_{t-1} + z_t * h~_t
    y_t = W_o h_t

Eigenvalues 1 - z_t are in (0, 1), and h stays positive: no signs, so no parity. Parallel form: the associative scan of
pairs (1 - z, z h~), computed directly; the published one goes through logarithms and loses digits in float32. 1 - z is
sigmoid of the negative, not a difference. State: h, N numbers. Linear maps have biases and h starts at zero; W_o is
there so that N may differ from d_model.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import diagonal_scan
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class MinGRUState(NamedTuple):
    h: Tensor  # (S, d_state), float32 or float64


@register_mixer("min-gru", description="GRU whose gates do not see the state.", source="2410.01201")
class MinGRU(TokenMixer):
    """minGRU.

    Args:
        d_model: width of input and output.
        d_state: N, channels of the recurrence; d_model if None.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N).

    Raises:
        ValueError: a size below one.

    Example:
        >>> import torch
        >>> from seqmix import MinGRU
        >>> y, state = MinGRU(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64]))
    """

    State = MinGRUState
    only_scans = True
    _n_gates = 1

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive(type(self).__name__, "d_state", d_model if d_state is None else d_state)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.gate_proj = WideLinear(d_model, self._n_gates * self.d_state, **where)
        self.in_proj = nn.Linear(d_model, self.d_state, **where)
        self.out_proj = nn.Linear(self.d_state, d_model, **where)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """1 - z and z, both (B, T, N) in at least float32, for x (B, T, d_model)."""
        logits = self.gate_proj(x)
        return (-logits).sigmoid(), logits.sigmoid()

    def candidates(self, x: Tensor) -> Tensor:
        """h~ (B, T, N), positive, in at least float32."""
        u = self.in_proj(x).to(recurrent_dtype(x.dtype))
        return torch.where(u >= 0, u + 0.5, u.sigmoid())

    def mix(self, x: Tensor, state: MinGRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, MinGRUState]:
        keep, write = self.gates(x)
        h, final = diagonal_scan(keep, write * self.candidates(x), initial_state=state.h, cu_seqlens=cu_seqlens)
        return self.out_proj(h.to(x.dtype)), self.State(final)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> MinGRUState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return MinGRUState(torch.zeros(batch_size, self.d_state, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N."""
        return self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, N), real: the part of h that a token keeps."""
        return {"eigenvalues": self.gates(x)[0]}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values are the candidates h~_t; M[t, s] is what t keeps of what s wrote."""
        keep, write = self.gates(x)
        return Recurrence(
            self.candidates(x)[..., None, None],
            lambda o: self.out_proj(o[..., 0, 0].to(x.dtype)),
            keep[..., None],
            write[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}"
