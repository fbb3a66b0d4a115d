"""RWKV-7's time mixing (Peng et al. 2025, 2503.14456), as in the first layer of a model; signed if asked for.

With x' the token before (zero before the first), x_s = x_t + (x'_t - x_t) mu_s for s in r, w, k, v, a, g, and for each
head of K = expand_k d_model / H keys and V = d_model / H values:

    r_t, k_t, v_t = W_s x_s
    w_t = exp(-e^{-1/2} sigmoid(w_0 + W_2 tanh(W_1 x_w)))        in (.545, 1)
    alpha_t = sigmoid(a_0 + A_2 A_1 x_a)                         in (0, 1); signed: in S_t twice that, in k~_t not
    kappa_t = k_t * k_k of length one,    k~_t = k_t * (1 + (alpha_t - 1) * k_a)
    S_t = (Diag(w_t) - (alpha_t * kappa_t) kappa_t^T) S_{t-1} + k~_t v_t^T
    o_t = S_t^T r_t
    y_t = W_o (g_t * [groupnorm(o_t) + (r_t . (r_k * k~_t)) v_t]),    g_t = G_2 sigmoid(G_1 x_g)

So a = -alpha kappa and b = kappa in `dplr_delta_rule`. Eigenvalues are in (-.455, 1]: no exact reflection. Signed ones,
which are not published, erase what has decayed, b = w kappa, and are in [-1, 1]. Norms reach 2 / sqrt(3), or sqrt(2)
if signed, so that alternating steps may grow. Parallel form: chunks, a triangular system each; on a CPU the recurrence
itself. State: S (K, V) for each head and the last token.

As released (BlinkDL/RWKV-LM, v7 train_temp), initial values of the first layer included, except that w_0 starts as in
the last one, -5.5 + 6 (i / (d - 1))^p with p = 2 in place of 1, so that more channels decay slowly (a layer does not
know where it stands, and records of seqmix were made so); W_o does not start at zero and W_1, A_1, G_1 at a thousandth
in place of zero, so that all parameters learn from the first step; lengths have the delta rule's eps of 1e-6 inside the
root; and later layers do not mix their values with those of the first one, because mixers see no other layer.
"""

import math
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import group_norm

from seqmix.kernels import causal_conv1d, dplr_delta_rule
from seqmix.mixers._heads import head_sizes, unit
from seqmix.mixers._pairs import pair_eigenvalues, transition
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.kda import Rule
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class RWKV7State(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64
    last: Tensor  # (S, 1, d_model), the token before, in the type of the activations


def _rank(d_model: int, factor: float) -> int:
    return max(32, 32 * round(factor * d_model**0.5 / 32))


@register_mixer(
    "rwkv-7", description="Delta rule with decays and erasing by channel, token shift.", source="2503.14456"
)
class RWKV7(TokenMixer):
    """RWKV-7's time mixing.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`; heads of 64 in the paper.
        eigenvalues: `"positive"`, the published form, or `"signed"`, in [-1, 1].
        expand_k: width of all keys over `d_model`; 1 as published.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V) and last (S, 1, d_model).

    Raises:
        ValueError: `n_heads` that does not divide `d_model`, an unknown option, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import RWKV7
        >>> y, state = RWKV7(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = RWKV7State
    only_scans = True
    _no_weight_decay = ("mu", "k_k", "k_a", "r_k", "norm_weight", "norm_bias")

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        eigenvalues: str = "positive",
        *,
        expand_k: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("RWKV7", d_model, n_heads, expand_k)
        self.eigenvalues = one_of("RWKV7", "eigenvalues", eigenvalues, ("positive", "signed"))
        keys = n_heads * self.d_key
        where: dict[str, Any] = {"device": device, "dtype": dtype}

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, **where))

        self.mu = parameter(6, d_model)  # of r, w, k, v, a, g
        self.r_proj, self.k_proj = (nn.Linear(d_model, keys, bias=False, **where) for _ in range(2))
        self.v_proj = nn.Linear(d_model, d_model, bias=False, **where)
        decay, strength, gate = (_rank(d_model, factor) for factor in (2.5, 2.5, 5.0))
        self.w_down, self.a_down, self.g_down = (
            nn.Linear(d_model, rank, bias=False, **where) for rank in (decay, strength, gate)
        )
        self.w_up, self.a_up = (WideLinear(rank, keys, **where) for rank in (decay, strength))
        self.g_up = nn.Linear(gate, d_model, bias=False, **where)
        self.k_k, self.k_a, self.r_k = (parameter(n_heads, self.d_key) for _ in range(3))
        self.norm_weight, self.norm_bias = parameter(d_model), parameter(d_model)
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The published values of a first layer, w_0 of a last one: decays from .56 to .9998 over all heads."""
        C, K = self.d_model, self.d_key
        i = torch.arange(self.n_heads * K, dtype=torch.float64, device=self.mu.device)
        line = i / max(1, len(i) - 1)
        centred = (i % K - (K - 1) / 2) / max(1.0, (K - 1) / 2)
        zigzag, linear = centred * centred.abs(), line - 0.5
        for mu, power in zip(self.mu, (0.2, 0.9, 0.7, 0.7, 0.9, 0.2), strict=True):
            mu.copy_(1 - (torch.arange(C, dtype=torch.float64, device=mu.device) / C) ** power)
        for down, up in ((self.w_down, self.w_up), (self.a_down, self.a_up), (self.g_down, self.g_up)):
            nn.init.normal_(down.weight, std=1e-3)
            up.weight.copy_(0.1 * nn.init.orthogonal_(torch.empty_like(up.weight, dtype=torch.float64)))
        self.w_up.bias.copy_(-5.5 + 6 * line**2 + 2.5 * zigzag)
        self.a_up.bias.copy_(-0.19 + 0.3 * zigzag + 0.4 * linear)
        self.k_k.copy_((0.71 - 0.1 * linear).view_as(self.k_k))
        for parameter, value in ((self.k_a, 1.02), (self.r_k, -0.04), (self.norm_weight, 1.0), (self.norm_bias, 0.0)):
            nn.init.constant_(parameter, value)
        for module, gain in ((self.r_proj, 0.5), (self.k_proj, 0.05), (self.v_proj, 0.5), (self.out_proj, 0.5)):
            nn.init.uniform_(module.weight, -gain * C**-0.5, gain * C**-0.5)

    def rule(self, x: Tensor, last: Tensor, cu_seqlens: Tensor | None) -> tuple[Rule, Tensor, Tensor]:
        """What every token of x (B, T, d_model) does, the gate g (B, T, d_model), and the last tokens."""
        # The token before is a convolution of width 2, which restarts where packed sequences do.
        taps = x.new_tensor([1.0, 0.0]).expand(self.d_model, 2)
        before, last = causal_conv1d(x, taps, initial_state=last, cu_seqlens=cu_seqlens)
        change = before - x
        r, w, k, v, a, g = (torch.addcmul(x, change, mu.to(x.dtype)) for mu in self.mu)
        heads = (self.n_heads, self.d_key)
        # (B, T, H, K), twice, and (B, T, H, V)
        r, k = self.r_proj(r).unflatten(-1, heads), self.k_proj(k).unflatten(-1, heads)
        v = self.v_proj(v).unflatten(-1, (self.n_heads, self.d_value))
        logit, strength = self.w_up(self.w_down(w).tanh()), self.a_up(self.a_down(a))
        with torch.autocast(x.device.type, enabled=False):
            log_w = (-math.exp(-0.5) * logit.sigmoid()).unflatten(-1, heads)  # (B, T, H, K)
            alpha = strength.sigmoid().unflatten(-1, heads)  # (B, T, H, K)
            wide, signed = k.to(alpha.dtype), self.eigenvalues == "signed"
            kappa = unit(wide * self.k_k.to(alpha.dtype))
            write = wide * (1 + (alpha - 1) * self.k_a.to(alpha.dtype))
            alpha, read = (2 * alpha, log_w.exp() * kappa) if signed else (alpha, kappa)
            rule = Rule(r, write, v, -alpha * kappa, read, log_w)
        return rule, self.g_up(self.g_down(g).sigmoid()), last

    def mix(self, x: Tensor, state: RWKV7State, cu_seqlens: Tensor | None) -> tuple[Tensor, RWKV7State]:
        rule, gate, last = self.rule(x, state.last, cu_seqlens)
        o, S = dplr_delta_rule(*rule, initial_state=state.S, cu_seqlens=cu_seqlens)
        return self._output(o, rule, gate), RWKV7State(S, last)

    def _output(self, o: Tensor, rule: Rule, gate: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        real = recurrent_dtype(gate.dtype)
        with torch.autocast(gate.device.type, enabled=False):
            weight, bias = self.norm_weight.to(real), self.norm_bias.to(real)
            rows = rearrange(o.to(real), "b t h v -> (b t) (h v)")
            normed = group_norm(rows, self.n_heads, weight, bias, 64e-5).view(gate.shape)  # (B, T, d_model)
            own = (rule.q.to(real) * self.r_k.to(real) * rule.k).sum(-1, keepdim=True) * rule.v.to(real)
            y = (normed + own.flatten(2)).to(gate.dtype)  # (B, T, d_model)
        return self.out_proj(gate * y)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> RWKV7State:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value)
        return RWKV7State(
            torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, 1, self.d_model, device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V and the last token."""
        return self.d_model * self.d_key + self.d_model

    def _rule_from_nothing(self, x: Tensor) -> tuple[Rule, Tensor]:
        rule, gate, _ = self.rule(x, self.init_state(len(x), device=x.device, dtype=x.dtype).last, None)
        return rule, gate

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K) of the transitions, real, of a sequence from its first token on."""
        (_, _, _, a, b, log_w), _ = self._rule_from_nothing(x)
        return {"eigenvalues": pair_eigenvalues(a, b, log_w)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = r_t . A_t ... A_{s+1} k~_s with A = Diag(w) + a b^T."""
        rule, gate = self._rule_from_nothing(x)
        q, k, v, a, b, log_w = rule
        return Recurrence(
            v.to(log_w.dtype).unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2), rule, gate),
            transition(a, b, log_w),
            k.unsqueeze(-1),
            q.to(log_w.dtype).unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, eigenvalues={self.eigenvalues!r}"
