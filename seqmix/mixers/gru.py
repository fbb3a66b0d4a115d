"""GRU (Cho et al. 2014, 1406.1078; reset gate after the product, as in cuDNN and torch): a non-linear baseline.

    r, z = sigmoid(W_i x_t + W_h h_{t-1} + b)
    n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n))
    h_t = (1 - z) * n + z * h_{t-1},    y_t = W_out h_t

The recurrence is not linear, so time is a loop, and states stay in (-1, 1) where they start there. State: h, N numbers.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels.gru.api import gru
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_leaves, mixer_state


@mixer_state
class GRUState(NamedTuple):
    h: Tensor  # (S, d_state), float32 or float64


@register_mixer("gru", description="GRU with an output projection: nonlinear, sequential.", source="1406.1078")
class GRU(TokenMixer):
    """One GRU layer and an output projection.

    Weights and biases are uniform in +-1/sqrt(d_state) as in `nn.GRU`, in the gate order r, z, n. Where a sum has two
    biases one is left out: `bias` (3 N) stands beside W x, `bias_n` (N) beside what r multiplies. Packed sequences
    read `cu_seqlens` on the host.

    Args:
        d_model: width of input and output.
        d_state: N, width of h; `d_model` if None.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N).

    Raises:
        ValueError: a width that is not a positive integer; see `TokenMixer.forward` for what is checked in calls.
        NotImplementedError: second derivatives and forward-mode AD outside of `seqmix.kernels.backend("reference")`.

    Example:
        >>> import torch
        >>> from seqmix import GRU
        >>> y, state = GRU(16)(torch.randn(2, 5, 16))
        >>> y.shape, state.h.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 16]))
    """

    State = GRUState

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = d_model if d_state is None else positive("GRU", "d_state", d_state)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(3 * self.d_state, d_model, **like))
        self.weight_hh = nn.Parameter(torch.empty(3 * self.d_state, self.d_state, **like))
        self.bias = nn.Parameter(torch.empty(3 * self.d_state, **like))
        self.bias_n = nn.Parameter(torch.empty(self.d_state, **like))
        self.out_proj = nn.Linear(self.d_state, d_model, bias=False, **like)
        bound = 1 / math.sqrt(self.d_state)
        for parameter in (self.weight_ih, self.weight_hh, self.bias, self.bias_n):
            nn.init.uniform_(parameter, -bound, bound)

    def mix(self, x: Tensor, state: GRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, GRUState]:
        dtype = recurrent_dtype(x.dtype)
        parameters = (self.weight_ih, self.weight_hh, self.bias, self.bias_n)
        w_ih, w_hh, bias, bias_n = (parameter.to(dtype) for parameter in parameters)
        h, last = gru(x.to(dtype), state.h.to(dtype), w_ih, w_hh, bias, bias_n, cu_seqlens)
        return self.out_proj(h.to(x.dtype)), GRUState(last)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> GRUState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return GRUState(torch.zeros(batch_size, self.d_state, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N."""
        return self.d_state

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}"

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        check_leaves("GRU", state, (sequences, self.d_state), recurrent_dtype(self.weight_ih.dtype))
