"""KDA: the delta rule with a decay of every key's own (Kimi Team 2025, 2510.26692), signed if asked for.

For each head, with K = expand_k d_model / H and V = expand_v d_model / H:

    q_t, k_t, v_t = silu(conv(W x_t))                q_t and k_t of length one
    beta_t = sigmoid(W_b x_t)                        in (0, 1); signed: twice that, in (0, 2)
    g_t = -A softplus(W_2 W_1 x_t + c)               (K,), logarithm of the decay
    S_t = (I - beta_t k_t k_t^T) Diag(e^{g_t}) S_{t-1} + beta_t k_t v_t^T
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o (sigmoid(W_4 W_3 x_t + d) * rmsnorm(o_t))

The state decays first and is erased then, so that a = -beta k and b = e^g k in `dplr_delta_rule`. Spectral norms are at
most one for beta in [0, 2]; eigenvalues reach -1 where signed. Parallel form: chunks, a triangular system each; on a
CPU the recurrence itself. State: S (K, V) for each head and the window of the convolution. As released (fla,
layers/kda.py), but for the convolution, which starts near the identity as in `deltanet`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d, dplr_delta_rule
from seqmix.mixers._heads import by_heads, head_sizes, init_taps, rms_norm, unit
from seqmix.mixers._pairs import pair_eigenvalues, transition
from seqmix.mixers._projections import WideLinear
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class KDAState(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64
    conv: Tensor  # (S, d_conv - 1, H (2 K + V)), in the type of the activations


class Rule(NamedTuple):
    """What a token does to the state: arguments of `dplr_delta_rule`, and the queries."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    log_w: Tensor


@register_mixer("kda", description="Delta rule, a decay for each key, signed or not.", source="2510.26692")
class KDA(TokenMixer):
    """Kimi delta attention.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        eigenvalues: `"positive"`, in [0, 1], or `"signed"`, in [-1, 1].
        expand_k, expand_v: widths of all keys and of all values over `d_model`; 1 as published.
        d_conv: width of the depthwise convolution on q, k and v.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V) and conv (S, d_conv - 1, H (2 K + V)).

    Raises:
        ValueError: `n_heads` that does not divide a width, an unknown option, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import KDA
        >>> y, state = KDA(d_model=64, eigenvalues="signed")(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = KDAState
    only_scans = True
    _no_weight_decay = ("norm_weight", "conv_weight", "A_log", "dt_bias")

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        eigenvalues: str = "positive",
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        name = type(self).__name__
        self.n_heads, self.d_key, self.d_value = head_sizes(name, d_model, n_heads, expand_k, expand_v)
        self.eigenvalues = one_of(name, "eigenvalues", eigenvalues, ("positive", "signed"))
        self.d_conv = positive(name, "d_conv", d_conv)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        keys, values = n_heads * self.d_key, n_heads * self.d_value
        self.in_proj = nn.Linear(d_model, 2 * keys + values, bias=False, **where)
        self.conv_weight = nn.Parameter(torch.empty(2 * keys + values, d_conv, **where))
        self._make_strengths(where)
        self.decay_down = nn.Linear(d_model, self.d_value, bias=False, **where)
        self.decay_up = WideLinear(self.d_value, keys, bias=False, **where)
        self.A_log = nn.Parameter(torch.empty(n_heads, **where))
        self.dt_bias = nn.Parameter(torch.empty(keys, **where))
        self.gate_down = nn.Linear(d_model, self.d_value, bias=False, **where)
        self.gate_up = nn.Linear(self.d_value, values, **where)
        self.norm_weight = nn.Parameter(torch.empty(self.d_value, **where))
        self.out_proj = nn.Linear(values, d_model, bias=False, **where)
        self.reset_parameters()

    def _make_strengths(self, where: dict[str, Any]) -> None:
        self.beta_proj = WideLinear(self.d_model, self.n_heads, bias=False, **where)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`; A uniform in [1, 16], steps log-uniform in [1e-3, 0.1]."""
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]
        init_taps(self.conv_weight)
        where: dict[str, Any] = {"dtype": torch.float64, "device": self.A_log.device}
        self.A_log.copy_((1 + 15 * torch.rand(self.n_heads, **where)).log())
        self.dt_bias.copy_(step_bias(torch.rand(len(self.dt_bias), **where)))
        nn.init.ones_(self.norm_weight)

    def log_decay(self, x: Tensor) -> Tensor:
        """g (B, T, H, K) for x (B, T, d_model), at least float32."""
        z = self.decay_up(self.decay_down(x))
        with torch.autocast(x.device.type, enabled=False):
            step = softplus(z + self.dt_bias.to(z.dtype)).unflatten(-1, (self.n_heads, self.d_key))  # (B, T, H, K)
            return -self.A_log.to(z.dtype).exp()[:, None] * step

    def _strength(self, logits: Tensor, width: int) -> Tensor:
        """(B, T, H, width) in (0, 1), or in (0, 2) where signed."""
        strength = logits.sigmoid().unflatten(-1, (self.n_heads, width))  # (B, T, H, width)
        return 2 * strength if self.eigenvalues == "signed" else strength

    def _pairs(self, x: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is written with v, v, a and b, for keys k (B, T, H, K) in at least float32."""
        write = self._strength(self.beta_proj(x), 1) * k
        return write, v, -write, decay * k

    def rule(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Rule, Tensor]:
        """What every token of x (B, T, d_model) does, and the new window."""
        qkv, conv = causal_conv1d(
            self.in_proj(x), self.conv_weight, None, "silu", initial_state=conv, cu_seqlens=cu_seqlens
        )
        q, k, v = by_heads(qkv, self.n_heads, self.d_key, self.d_key, self.d_value)
        log_w = self.log_decay(x)
        k, v, a, b = self._pairs(x, unit(k).to(log_w.dtype), v, log_w.exp())
        return Rule(unit(q) * self.d_key**-0.5, k, v, a, b, log_w), conv

    def mix(self, x: Tensor, state: KDAState, cu_seqlens: Tensor | None) -> tuple[Tensor, KDAState]:
        rule, conv = self.rule(x, state.conv, cu_seqlens)
        o, S = dplr_delta_rule(*rule, initial_state=state.S, cu_seqlens=cu_seqlens)
        return self._output(o, x), KDAState(S, conv)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        y = rms_norm(o, self.norm_weight).flatten(2)  # (B, T, H V)
        return self.out_proj(self.gate_up(self.gate_down(x)).sigmoid() * y)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> KDAState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value)
        return KDAState(
            torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, len(self.conv_weight), device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V and the convolution's window."""
        return self.n_heads * self.d_key * self.d_value + (self.d_conv - 1) * len(self.conv_weight)

    def _rule_from_nothing(self, x: Tensor) -> Rule:
        return self.rule(x, self.init_state(len(x), device=x.device, dtype=x.dtype).conv, None)[0]

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K) of the transitions, real, from an empty window."""
        _, _, _, a, b, log_w = self._rule_from_nothing(x)
        return {"eigenvalues": pair_eigenvalues(a, b, log_w)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = q_t . A_t ... A_{s+1} k_s / sqrt(K) with A = Diag(e^w) + a b^T."""
        q, k, v, a, b, log_w = self._rule_from_nothing(x)
        return Recurrence(
            v.to(log_w.dtype).unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2).to(x.dtype), x),
            transition(a, b, log_w),
            k.unsqueeze(-1),
            q.to(log_w.dtype).unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, eigenvalues={self.eigenvalues!r}"
