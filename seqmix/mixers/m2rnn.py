"""M2RNN: a matrix state with a non-linear transition, which acts on its values (2603.14360).

For each head, with K keys and V values:

    q_t, k_t, v_t = silu(conv(W x_t))                q and k may be shared by heads
    f_t = exp(-A softplus(W_f x_t + c))              one number
    Z_t = tanh(H_{t-1} W + k_t v_t^T)                (K, V), W (V, V) acts from the right
    H_t = f_t H_{t-1} + (1 - f_t) Z_t
    y_t = W_o rmsnorm((H_t^T q_t + D * v_t) * silu(W_g x_t))        over all heads together

The recurrence is not linear, so time is a loop, compiled, and states stay in [-1, 1] where they start there.
State: H for each head and the window of the convolution. Initial values as released (open-lm-engine/lm-engine): W the
identity, D one, A uniform in [0, 16], steps log-uniform in [1e-3, 0.1]; the convolution starts near the identity as in
`deltanet`. The released code cuts every number of the gradient of each H_t to [-1, 1], which makes it that of another
function: here `clip_gradient`, off if None.
"""

from typing import Any, NamedTuple

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d
from seqmix.kernels.m2rnn.api import m2rnn
from seqmix.mixers._heads import head_sizes, init_taps, rms_norm
from seqmix.mixers._projections import WideLinear
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_shapes, mixer_state


@mixer_state
class M2RNNState(NamedTuple):
    H: Tensor  # (S, H, K, V), float32 or float64
    conv: Tensor  # (S, d_conv - 1, 2 G K + H V), in the type of the activations


@register_mixer("m2rnn", description="Matrix state, non-linear transition on its values.", source="2603.14360")
class M2RNN(TokenMixer):
    """M2RNN.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        n_key_heads: G, heads of q and k, a divisor of `n_heads`; H if None, 1 as published.
        expand_k: width of the keys of H heads over `d_model`.
        expand_v: width of all values over `d_model`.
        d_conv: width of the depthwise convolution on q, k and v.
        clip_gradient: the most that a number of the gradient of a state may be, 1 as published; None leaves it true.

    Shapes: x (B, T, d_model), y (B, T, d_model), state H (S, H, K, V) and conv (S, d_conv - 1, 2 G K + H V).

    Raises:
        ValueError: heads that do not divide, a size below one, a bound that is not positive.
        NotImplementedError: second derivatives and forward-mode AD outside of `seqmix.kernels.backend("reference")`.

    Example:
        >>> import torch
        >>> from seqmix import M2RNN
        >>> y, state = M2RNN(d_model=64, n_key_heads=1)(torch.randn(2, 10, 64))
        >>> y.shape, state.H.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = M2RNNState
    _no_weight_decay = ("conv_weight", "A_log", "dt_bias", "D", "W", "norm_weight")

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        n_key_heads: int | None = None,
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        clip_gradient: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("M2RNN", d_model, n_heads, expand_k, expand_v)
        self.n_key_heads = positive("M2RNN", "n_key_heads", n_heads if n_key_heads is None else n_key_heads)
        if n_heads % self.n_key_heads:
            raise ValueError(f"M2RNN: n_key_heads must divide n_heads = {n_heads}, got {n_key_heads}")
        self.d_conv = positive("M2RNN", "d_conv", d_conv)
        if clip_gradient is not None and not clip_gradient > 0:
            raise ValueError(f"M2RNN: clip_gradient must be positive or None, got {clip_gradient!r}")
        self.clip_gradient = None if clip_gradient is None else float(clip_gradient)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        values = n_heads * self.d_value
        self.widths = (self.n_key_heads * self.d_key, self.n_key_heads * self.d_key, values)
        self.in_proj = nn.Linear(d_model, sum(self.widths) + values, bias=False, **where)  # q, k, v, g
        self.conv_weight = nn.Parameter(torch.empty(sum(self.widths), d_conv, **where))
        self.decay_proj = WideLinear(d_model, n_heads, bias=False, **where)
        self.A_log = nn.Parameter(torch.empty(n_heads, **where))
        self.dt_bias = nn.Parameter(torch.empty(n_heads, **where))
        self.W = nn.Parameter(torch.empty(n_heads, self.d_value, self.d_value, **where))
        self.D = nn.Parameter(torch.empty(n_heads, self.d_value, **where))
        self.norm_weight = nn.Parameter(torch.empty(values, **where))
        self.out_proj = nn.Linear(values, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The published values; linear maps as in `nn.Linear`."""
        for layer in (self.in_proj, self.decay_proj, self.out_proj):
            layer.reset_parameters()
        init_taps(self.conv_weight)
        u = torch.rand(2, self.n_heads, dtype=torch.float64, device=self.D.device)
        self.A_log.copy_((16 * u[0]).clamp_min(1e-4).log())
        self.dt_bias.copy_(step_bias(u[1]))
        self.W.copy_(torch.eye(self.d_value).expand_as(self.W))
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm_weight)

    def keep(self, x: Tensor) -> Tensor:
        """f (B, T, H), in at least float32, for x (B, T, d_model)."""
        z = self.decay_proj(x)
        with torch.autocast(x.device.type, enabled=False):
            return (-self.A_log.to(z.dtype).exp() * softplus(z + self.dt_bias.to(z.dtype))).exp()

    def mix(self, x: Tensor, state: M2RNNState, cu_seqlens: Tensor | None) -> tuple[Tensor, M2RNNState]:
        qkv, g = self.in_proj(x).split((sum(self.widths), self.widths[2]), dim=-1)
        qkv, conv = causal_conv1d(qkv, self.conv_weight, None, "silu", initial_state=state.conv, cu_seqlens=cu_seqlens)
        q, k, v = (part.to(recurrent_dtype(x.dtype)) for part in qkv.split(self.widths, dim=-1))
        q, k = (part.unflatten(-1, (self.n_key_heads, -1)) for part in (q, k))  # (B, T, G, K)
        if self.n_key_heads < self.n_heads:
            q, k = (repeat(part, "b t g k -> b t (g h) k", h=self.n_heads // self.n_key_heads) for part in (q, k))
        v, f = v.unflatten(-1, (self.n_heads, -1)), self.keep(x)  # (B, T, H, V), (B, T, H)
        o, H = m2rnn(q, k, v, f, self.W.to(f.dtype), state.H.to(f.dtype), cu_seqlens, self.clip_gradient)
        o = (o + self.D.to(o.dtype) * v).flatten(2) * silu(g.to(o.dtype))  # (B, T, H V)
        return self.out_proj(rms_norm(o, self.norm_weight).to(x.dtype)), M2RNNState(H, conv)

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        check_shapes("M2RNN", state, H=(self.n_heads, self.d_key, self.d_value))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> M2RNNState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        H = (batch_size, self.n_heads, self.d_key, self.d_value)
        return M2RNNState(
            torch.zeros(H, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, len(self.conv_weight), device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V and the convolution's window."""
        return self.n_heads * self.d_key * self.d_value + (self.d_conv - 1) * len(self.conv_weight)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`keep` f_t (B, T, H): what a token leaves of the state as it was."""
        return {"keep": self.keep(x)}

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, n_key_heads={self.n_key_heads}, clip_gradient={self.clip_gradient}"
