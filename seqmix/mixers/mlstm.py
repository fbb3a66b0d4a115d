"""mLSTM: an LSTM whose cell is a matrix and whose gates do not see the state (Beck et al. 2024, 2405.04517).

For each head, with K = expand_k d_model / H and V = d_model / H, and cap(u) = c tanh(u / c), c = 15:

    q_t, k_t = W u_t,  v_t = W x_t                   u_t = x_t, or silu(conv(x)_t) with `d_conv`
    i_t, f_t = exp(cap(W_i x_t + b_i)), sigmoid(cap(W_f x_t + b_f))       one number each
    C_t = f_t C_{t-1} + i_t (k_t / sqrt(K)) v_t^T    (K, V)
    n_t = f_t n_{t-1} + i_t k_t / sqrt(K)            (K,)
    h_t = C_t^T q_t / max(|n_t . q_t|, 1)
    y_t = W_o (sigmoid(W_z x_t) * layernorm(h_t))

n is one more column of C whose value is always one. The paper divides C and n by e^{m_t}, m_t a running maximum of the
gates' logarithms, which h does not depend on; with gates that are capped, as in xLSTM-7B whose layer this is, e^15
needs no m in float32. Eigenvalues f_t are in (0, 1): no parity. Parallel form: masked matrix products in chunks, on a
CPU the recurrence itself. State: C with n as its last column, and the last d_conv - 1 inputs. Gates start at their
biases as in the first release: f open over heads from sigmoid(3) to sigmoid(6), i near one.

Two releases (NX-AI/xlstm) and this layer, line by line:

- convolution: none in xLSTM-7B and here by default; of width 4 with silu before q and k in the first release, which is
  the one that was compared on recall; `d_conv=4` is that.
- around the cell: the first release has a projection to twice the width before it, block-diagonal maps of 4 x 4 to q, k
  and v, and silu(z) for a gate; xLSTM-7B and this layer full maps and sigmoid(z).
- gates: of x here and in xLSTM-7B, of q, k and v together in the first release.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, logsigmoid, pad

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d, gated_linear_attention
from seqmix.mixers._heads import by_heads, head_sizes, init_taps
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class MLSTMState(NamedTuple):
    C: Tensor  # (S, H, K, V + 1), float32 or float64
    conv: Tensor  # (S, d_conv - 1, d_model), in the type of the activations; (S, 0, 0) without a convolution


@register_mixer("mlstm", description="Matrix LSTM with exponential gates (xLSTM).", source="2405.04517")
class MLSTM(TokenMixer):
    """mLSTM.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        gate_cap: c, the largest logarithm of an input gate, at most 60.
        expand_k: width of all keys over `d_model`; 1/2 in xLSTM-7B.
        d_conv: width of a depthwise causal convolution, with silu after it, before q and k; None for none.

    Shapes: x (B, T, d_model), y (B, T, d_model), state C (S, H, K, V + 1) and conv (S, d_conv - 1, d_model).

    Raises:
        ValueError: `n_heads` that does not divide a width, a cap out of range, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import MLSTM
        >>> y, state = MLSTM(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.C.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 17]))
    """

    State = MLSTMState
    only_scans = True
    _no_weight_decay = ("norm_weight", "conv_weight", "conv_bias")
    conv_weight: Tensor | None
    conv_bias: Tensor | None

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        gate_cap: float = 15.0,
        *,
        expand_k: float = 1.0,
        d_conv: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("MLSTM", d_model, n_heads, expand_k)
        if not 0 < gate_cap <= 60:
            raise ValueError(f"MLSTM: gate_cap must be in (0, 60], got {gate_cap!r}")
        self.gate_cap = float(gate_cap)
        self.d_conv = 1 if d_conv is None else positive("MLSTM", "d_conv", d_conv)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * n_heads * self.d_key + 2 * d_model, bias=False, **where)
        convolved = self.d_conv > 1
        weight = nn.Parameter(torch.empty(d_model, self.d_conv, **where)) if convolved else None
        self.register_parameter("conv_weight", weight)
        self.register_parameter("conv_bias", nn.Parameter(torch.empty(d_model, **where)) if convolved else None)
        self.gate_proj = WideLinear(d_model, 2 * n_heads, **where)  # i, f
        self.norm_weight = nn.Parameter(torch.empty(d_model, **where))
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Gates see nothing at first: biases of f evenly in [3, 6], those of i normal with deviation 0.1.

        The convolution starts near identity.
        """
        self.in_proj.reset_parameters()
        self.out_proj.reset_parameters()
        nn.init.zeros_(self.gate_proj.weight)
        nn.init.normal_(self.gate_proj.bias, std=0.1)
        self.gate_proj.bias[self.n_heads :] = torch.linspace(3, 6, self.n_heads)
        nn.init.ones_(self.norm_weight)
        if self.conv_weight is not None and self.conv_bias is not None:
            init_taps(self.conv_weight)
            nn.init.zeros_(self.conv_bias)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log i and log f, both (B, T, H) in at least float32, for x (B, T, d_model)."""
        i, f = (self.gate_cap * (self.gate_proj(x) / self.gate_cap).tanh()).chunk(2, -1)
        return i, logsigmoid(f)

    def _project(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        """q, k (B, T, H, K), gated and scaled, v with a one behind it (B, T, H, V + 1), log f (B, T, H), z, the window.

        All but z (B, T, H, V) in at least float32: half precision does not hold e^15.
        """
        K, V, H = self.d_key, self.d_value, self.n_heads
        if self.conv_weight is None:
            q, k, v, z = by_heads(self.in_proj(x), H, K, K, V, V)
        else:
            weight, bias = self.conv_weight, self.conv_bias
            u, conv = causal_conv1d(x, weight, bias, "silu", initial_state=conv, cu_seqlens=cu_seqlens)
            of_u, of_x = self.in_proj.weight.split((2 * H * K, 2 * H * V))
            q, k, v, z = *by_heads(linear(u, of_u), H, K, K), *by_heads(linear(x, of_x), H, V, V)
        q, k, v = (part.to(recurrent_dtype(x.dtype)) for part in (q, k, v))
        log_i, log_f = self.gates(x)
        return q, k * (log_i.exp() * self.d_key**-0.5)[..., None], pad(v, (0, 1), value=1.0), log_f, z, conv

    def _output(self, o: Tensor, z: Tensor) -> Tensor:
        """y (B, T, d_model) of sums and what they are divided by, o (B, T, H, V + 1)."""
        h = o[..., :-1] / o[..., -1:].abs().clamp_min(1)  # (B, T, H, V)
        with torch.autocast(z.device.type, enabled=False):
            normed = layer_norm(h, h.shape[-1:], eps=1e-6).flatten(2) * self.norm_weight.to(h.dtype)
        return self.out_proj(z.sigmoid().flatten(2) * normed.to(z.dtype))  # from (B, T, d_model)

    def mix(self, x: Tensor, state: MLSTMState, cu_seqlens: Tensor | None) -> tuple[Tensor, MLSTMState]:
        q, k, v, log_f, z, conv = self._project(x, state.conv, cu_seqlens)
        o, C = gated_linear_attention(q, k, v, log_f, initial_state=state.C, cu_seqlens=cu_seqlens)
        return self._output(o, z), MLSTMState(C, conv)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> MLSTMState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        C = (batch_size, self.n_heads, self.d_key, self.d_value + 1)
        channels = self.d_model if self.d_conv > 1 else 0
        return MLSTMState(
            torch.zeros(C, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, channels, device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K (V + 1), and the convolution's window."""
        return self.n_heads * self.d_key * (self.d_value + 1) + (self.d_conv - 1) * self.d_model

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` f_t (B, T, H), real, of all K V numbers of a head, and `input_gates` (B, T, H), logarithms."""
        log_i, log_f = self.gates(x)
        return {"eigenvalues": log_f.exp(), "input_gates": log_i}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t with a one behind them; M[t, s] = q_t . f_t ... f_{s+1} i_s k_s / sqrt(K), before the division."""
        q, k, v, log_f, z, _ = self._project(x, self.init_state(len(x), device=x.device, dtype=x.dtype).conv, None)
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2), z),
            log_f.exp()[..., None].expand_as(k),
            k.unsqueeze(-1),
            q.unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, gate_cap={self.gate_cap:g}, d_conv={self.d_conv}"
