"""sLSTM: an LSTM with exponential gates, a normaliser, and gates that see their own head (xLSTM; Beck et al. 2024,
2405.04517).

For each head, with N = d_state / H units, u = silu(conv(x)) and W block-diagonal over heads:

    i_t, f_t = W u_t + R h_{t-1} + b                 logarithm of the input gate; forget gate before its sigmoid
    z_t, o_t = W x_t + R h_{t-1} + b
    m_t = max(i_t, log sigmoid(f_t) + m_{t-1})       at the first token of a sequence m_t = i_t
    c_t = e^{log sigmoid(f_t) + m_{t-1} - m_t} c_{t-1} + e^{i_t - m_t} tanh(z_t)
    n_t = e^{log sigmoid(f_t) + m_{t-1} - m_t} n_{t-1} + e^{i_t - m_t}
    h_t = sigmoid(o_t) c_t / n_t                     in (-1, 1)
    y_t = W_o layernorm(h_t)                         of each head by itself

The recurrence is not linear, so time is a loop, compiled. c / n does not depend on m, which keeps exponentials
small. A sequence begins where n = 0, in every unit and sequence by itself; the released code asks that of a whole
batch. State: h, c, n and m, and the window of the convolution. W_o is ours, so that d_state may differ from d_model;
biases start as in the released code, R uniform in +-1/sqrt(d_state), one of its two ways (the other is zero). Its layer
hands the weights of i to f and those of f to i; here names mean what they say.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d
from seqmix.kernels.slstm.api import slstm
from seqmix.mixers._heads import init_taps
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_shapes, mixer_state


@mixer_state
class SLSTMState(NamedTuple):
    h: Tensor  # (S, H, N), as c, n and m in float32 or float64
    c: Tensor
    n: Tensor
    m: Tensor
    conv: Tensor  # (S, d_conv - 1, d_model), in the type of the activations


@register_mixer("slstm", description="LSTM with exponential gates that see their head (xLSTM).", source="2405.04517")
class SLSTM(TokenMixer):
    """sLSTM.

    Args:
        d_model: width of input and output.
        d_state: units of all heads; d_model if None.
        n_heads: H, a divisor of both widths.
        d_conv: width of the convolution before the gates i and f.
        depth: where the layer stands among those of a model, 0 for the first and 1 for the last: it shapes biases of f.

    Shapes: x (B, T, d_model), y (B, T, d_model), states h, c, n, m (S, H, N) and conv (S, d_conv - 1, d_model).

    Raises:
        ValueError: a size below one, `n_heads` that does not divide a width, a depth outside [0, 1].
        NotImplementedError: second derivatives and forward-mode AD outside of `seqmix.kernels.backend("reference")`.

    Example:
        >>> import torch
        >>> from seqmix import SLSTM
        >>> y, state = SLSTM(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16]))
    """

    State = SLSTMState
    _no_weight_decay = ("conv_weight", "conv_bias", "bias", "norm_weight")

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        n_heads: int = 4,
        *,
        d_conv: int = 4,
        depth: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("SLSTM", "d_state", d_model if d_state is None else d_state)
        self.n_heads = positive("SLSTM", "n_heads", n_heads)
        if d_model % n_heads or self.d_state % n_heads:
            raise ValueError(
                f"SLSTM: n_heads must divide d_model = {d_model} and d_state = {self.d_state}, got {n_heads}"
            )
        self.d_conv = positive("SLSTM", "d_conv", d_conv)
        if not 0 <= depth <= 1:
            raise ValueError(f"SLSTM: depth must be in [0, 1], got {depth!r}")
        self.depth = float(depth)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        units = self.d_state // n_heads
        self.conv_weight = nn.Parameter(torch.empty(d_model, d_conv, **where))
        self.conv_bias = nn.Parameter(torch.empty(d_model, **where))
        self.weight = nn.Parameter(torch.empty(4, n_heads, units, d_model // n_heads, **where))  # i, f, z, o
        self.R = nn.Parameter(torch.empty(n_heads, units, 4, units, **where))
        self.bias = nn.Parameter(torch.empty(n_heads, 4, units, **where))
        self.norm_weight = nn.Parameter(torch.empty(self.d_state, **where))
        self.out_proj = nn.Linear(self.d_state, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W normal of variance 2 / (5 d_model / H), biases of f from 5 to -7 over the units of a head, others zero."""
        self.out_proj.reset_parameters()
        init_taps(self.conv_weight)
        nn.init.normal_(self.weight, std=math.sqrt(0.4 / self.weight.shape[-1]))
        nn.init.uniform_(self.R, -(self.d_state**-0.5), self.d_state**-0.5)
        for parameter in (self.conv_bias, self.bias):
            nn.init.zeros_(parameter)
        place = torch.linspace(0, 1, self.bias.shape[-1], dtype=torch.float64)
        self.bias[:, 1] = (5 - 12 * place ** (0.3 + 1.3 * self.depth)).to(self.bias)
        nn.init.ones_(self.norm_weight)

    def _gates(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        """What x gives to the gates (B, T, H, 4, N), in at least float32, and the new window."""
        u, conv = causal_conv1d(x, self.conv_weight, self.conv_bias, "silu", initial_state=conv, cu_seqlens=cu_seqlens)
        real = recurrent_dtype(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            seen = torch.stack((u, u, x, x)).to(real).unflatten(-1, (self.n_heads, -1))  # (4, B, T, H, d_model / H)
            p = torch.einsum("gbthd,ghnd->bthgn", seen, self.weight.to(real))
            return p + self.bias.to(real), conv

    def mix(self, x: Tensor, state: SLSTMState, cu_seqlens: Tensor | None) -> tuple[Tensor, SLSTMState]:
        p, conv = self._gates(x, state.conv, cu_seqlens)
        h, final = slstm(p, self.R.to(p.dtype), torch.stack(state[:4], 1).to(p.dtype), cu_seqlens)
        with torch.autocast(x.device.type, enabled=False):
            # (B, T, d_state)
            y = layer_norm(h, h.shape[-1:]).flatten(2) * self.norm_weight.to(h.dtype)
        h, c, n, m = (part.clone() for part in final.unbind(1))
        return self.out_proj(y.to(x.dtype)), SLSTMState(h, c, n, m, conv)

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        check_shapes("SLSTM", state, **dict.fromkeys("hcnm", tuple(self.bias.shape[::2])))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> SLSTMState:
        """Zeros: nothing has begun."""
        device, dtype = self._like(device, dtype)
        shape, real = (batch_size, *self.bias.shape[::2]), recurrent_dtype(dtype)
        h, c, n, m = (torch.zeros(shape, device=device, dtype=real) for _ in range(4))
        conv = torch.zeros(batch_size, self.d_conv - 1, self.d_model, device=device, dtype=dtype)
        return SLSTMState(h, c, n, m, conv)

    def state_size(self, sequence_length: int = 1) -> int:
        """4 d_state, and the convolution's window."""
        return 4 * self.d_state + (self.d_conv - 1) * self.d_model

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}, n_heads={self.n_heads}"
