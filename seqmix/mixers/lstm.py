"""LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000): the recurrent baseline that tracks state.

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b         sigmoid on i, f, o; tanh on g
    c_t = f c_{t-1} + i g,    h_t = o tanh(c_t),    y_t = W_out h_t

The recurrence is not linear, so time is a loop: see `seqmix.kernels.lstm`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels.lstm.api import lstm
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_leaves, mixer_state

__all__ = ["LSTM", "LSTMState"]


@mixer_state
class LSTMState(NamedTuple):
    """h and c, each (S, d_state), in float32 (float64 for double activations)."""

    h: Tensor
    c: Tensor


@register_mixer(
    "lstm",
    description="LSTM with an output projection: nonlinear, sequential, state 2 d.",
    source="Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000",
)
class LSTM(TokenMixer):
    """One LSTM layer and an output projection (always there, also where `d_state` equals `d_model`).

    Weights are uniform in +-1/sqrt(d_state) as in `nn.LSTM`, in the gate order i, f, g, o. There is one bias: one on
    the forget gate, so that memory is kept at first, and zero elsewhere. The recurrence is computed in float32
    (float64 for double input) whatever the type of the activations. Packed sequences read `cu_seqlens` on the host.

    Args:
        d_model: width of input and output.
        d_state: width of h and of c; `d_model` if None.

    Raises:
        ValueError: a width that is not a positive integer; see `TokenMixer.forward` for what is checked in calls.
        NotImplementedError: second derivatives and forward-mode AD outside of `seqmix.kernels.backend("reference")`.

    Example:
        >>> import torch
        >>> from seqmix.mixers import LSTM
        >>> y, state = LSTM(16)(torch.randn(2, 5, 16))
        >>> y.shape, state.c.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 16]))
    """

    State = LSTMState

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = d_model if d_state is None else positive("LSTM", "d_state", d_state)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(4 * self.d_state, d_model, **like))
        self.weight_hh = nn.Parameter(torch.empty(4 * self.d_state, self.d_state, **like))
        self.bias = nn.Parameter(torch.zeros(4 * self.d_state, **like))
        self.out_proj = nn.Linear(self.d_state, d_model, bias=False, **like)
        bound = 1 / math.sqrt(self.d_state)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)
        with torch.no_grad():
            self.bias[self.d_state : 2 * self.d_state] = 1

    def mix(self, x: Tensor, state: LSTMState, cu_seqlens: Tensor | None) -> tuple[Tensor, LSTMState]:
        dtype = recurrent_dtype(x.dtype)
        h0, c0 = state.h.to(dtype), state.c.to(dtype)
        w_ih, w_hh, bias = (weight.to(dtype) for weight in (self.weight_ih, self.weight_hh, self.bias))
        h, last_h, last_c = lstm(x.to(dtype), h0, c0, w_ih, w_hh, bias, cu_seqlens)
        return self.out_proj(h.to(x.dtype)), LSTMState(last_h, last_c)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> LSTMState:
        device, dtype = self._like(device, dtype)
        shape = (batch_size, self.d_state)
        zeros = (torch.zeros(shape, device=device, dtype=recurrent_dtype(dtype)) for _ in range(2))
        return LSTMState(*zeros)

    def state_size(self, sequence_length: int = 1) -> int:
        return 2 * self.d_state

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}"

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        check_leaves("LSTM", state, (sequences, self.d_state), recurrent_dtype(self.weight_ih.dtype))
