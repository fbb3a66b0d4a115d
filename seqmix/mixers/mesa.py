"""MesaNet: every token solves the regression of all values on all keys so far (von Oswald et al. 2025, 2506.05233).

For each head, with K = expand_k d_model / H and V = d_model / H:

    q_t, k_t = silu(conv(W x_t)), of length one;  v_t = W x_t
    beta_t, gamma_t = sigmoid(W x_t + b)             one number each: how much is written, and what is kept
    G_t = gamma_t G_{t-1} + beta_t k_t k_t^T         (K, K)
    F_t = gamma_t F_{t-1} + beta_t k_t v_t^T         (K, V)
    o_t = F_t^T (G_t + Lambda)^{-1} q_t,    Lambda = diag(1/4 + softplus(l))
    y_t = W_o rmsnorm(o_t)

F^T (G + Lambda)^{-1} is the map W that makes sum_s beta_s gamma_{s+1} ... gamma_t |W k_s - v_s|^2 + tr(W Lambda W^T)
least. The system is solved exactly, K^3 a token, where the released code takes 30 steps of conjugate gradients; its
gradient is that of the solution. Parallel form: G is a diagonal scan and F gated linear attention that is read at the
solved queries. Eigenvalues are gamma_t in (0, 1): no parity. State: G, F and the window of the convolution. Initial
values as in the released code where it has its own: Lambda one.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d, diagonal_scan, gated_linear_attention
from seqmix.mixers._heads import by_heads, head_sizes, init_taps, rms_norm, unit
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class MesaState(NamedTuple):
    G: Tensor  # (S, H, K, K), as F in float32 or float64
    F: Tensor  # (S, H, K, V)
    conv: Tensor  # (S, d_conv - 1, 2 H K), in the type of the activations


def solved_queries(
    q: Tensor, write: Tensor, k: Tensor, log_g: Tensor, Lambda: Tensor, G: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(G_t + Lambda)^{-1} q_t (B, T, H, K) and the last G (S, H, K, K), for q, k and beta k (B, T, H, K), log gamma
    (B, T, H), Lambda (H, K) and the G before, all of one type."""
    outer = write.unsqueeze(-1) * k.unsqueeze(-2)  # (B, T, H, K, K)
    keep = log_g.exp()[..., None, None].expand_as(outer)
    # over (B, T, H K K)
    G, final = diagonal_scan(keep.flatten(2), outer.flatten(2), initial_state=G.flatten(1), cu_seqlens=cu_seqlens)
    system = G.view(outer.shape) + Lambda.diag_embed()  # (B, T, H, K, K)
    # Not `solve`, which raises where one sequence of a batch is not finite.
    solution, _ = torch.linalg.solve_ex(system, q.unsqueeze(-1))
    return solution.squeeze(-1), final.unflatten(1, outer.shape[2:])  # (B, T, H, K), (S, H, K, K)


@register_mixer("mesa", description="Linear attention that solves its regression at every token.", source="2506.05233")
class Mesa(TokenMixer):
    """MesaNet's layer.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        expand_k: width of all keys over `d_model`; 1 as published.
        d_conv: width of the depthwise convolution on q and k.

    Shapes: x (B, T, d_model), y (B, T, d_model), states G (S, H, K, K), F (S, H, K, V), conv (S, d_conv - 1, 2 H K).

    Raises:
        ValueError: `n_heads` that does not divide a width, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import Mesa
        >>> y, state = Mesa(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.G.shape, state.F.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]), torch.Size([2, 4, 16, 16]))
    """

    State = MesaState
    only_scans = True
    _no_weight_decay = ("conv_weight", "lambda_raw", "norm_weight")

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 1.0,
        d_conv: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("Mesa", d_model, n_heads, expand_k)
        self.d_conv = positive("Mesa", "d_conv", d_conv)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * n_heads * self.d_key + d_model, bias=False, **where)
        self.conv_weight = nn.Parameter(torch.empty(2 * n_heads * self.d_key, d_conv, **where))
        self.gate_proj = WideLinear(d_model, 2 * n_heads, **where)  # beta, gamma
        self.lambda_raw = nn.Parameter(torch.empty(n_heads, self.d_key, **where))
        self.norm_weight = nn.Parameter(torch.empty(self.d_value, **where))
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`, the convolution near the identity, Lambda and the norm's weight one."""
        for layer in (self.in_proj, self.gate_proj, self.out_proj):
            layer.reset_parameters()
        init_taps(self.conv_weight)
        nn.init.constant_(self.lambda_raw, math.log(math.expm1(0.75)))
        nn.init.ones_(self.norm_weight)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """beta and log gamma, both (B, T, H) in at least float32, for x (B, T, d_model)."""
        beta, gamma = self.gate_proj(x).chunk(2, -1)
        return beta.sigmoid(), logsigmoid(gamma)

    def _parts(self, x: Tensor, state: MesaState, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        """Solved queries, beta k, v, log gamma, the last G and the new window; all but that in at least float32."""
        keys, real = self.n_heads * self.d_key, recurrent_dtype(x.dtype)
        qk, v = self.in_proj(x).split((2 * keys, self.d_model), dim=-1)
        qk, conv = causal_conv1d(qk, self.conv_weight, None, "silu", initial_state=state.conv, cu_seqlens=cu_seqlens)
        q, k = by_heads(qk.to(real), self.n_heads, self.d_key, self.d_key)
        v = v.to(real).unflatten(-1, (self.n_heads, -1))  # (B, T, H, V)
        q, k, (beta, log_g) = unit(q), unit(k), self.gates(x)
        with torch.autocast(x.device.type, enabled=False):
            Lambda, write = 0.25 + softplus(self.lambda_raw.to(real)), beta[..., None] * k
            solved, G = solved_queries(q, write, k, log_g, Lambda, state.G.to(real), cu_seqlens)
        return solved, write, v, log_g, G, conv

    def mix(self, x: Tensor, state: MesaState, cu_seqlens: Tensor | None) -> tuple[Tensor, MesaState]:
        q, k, v, log_g, G, conv = self._parts(x, state, cu_seqlens)
        o, F = gated_linear_attention(q, k, v, log_g, initial_state=state.F, cu_seqlens=cu_seqlens)
        return self._output(o, x), MesaState(G, F, conv)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        return self.out_proj(rms_norm(o, self.norm_weight).flatten(2).to(x.dtype))  # from (B, T, d_model)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> MesaState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        where: dict[str, Any] = {"device": device, "dtype": recurrent_dtype(dtype)}
        return MesaState(
            torch.zeros(batch_size, self.n_heads, self.d_key, self.d_key, **where),
            torch.zeros(batch_size, self.n_heads, self.d_key, self.d_value, **where),
            torch.zeros(batch_size, self.d_conv - 1, len(self.conv_weight), device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K (K + V) and the convolution's window."""
        return self.n_heads * self.d_key * (self.d_key + self.d_value) + (self.d_conv - 1) * len(self.conv_weight)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` gamma_t (B, T, H), real, of all numbers of a head, and `strength` beta_t (B, T, H)."""
        beta, log_g = self.gates(x)
        return {"eigenvalues": log_g.exp(), "strength": beta}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = q_t^T (G_t + Lambda)^{-1} gamma_t ... gamma_{s+1} beta_s k_s."""
        q, k, v, log_g, _, _ = self._parts(x, self.init_state(len(x), device=x.device, dtype=x.dtype), None)
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2), x),
            log_g.exp()[..., None].expand_as(k),
            k.unsqueeze(-1),
            q.unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, d_key={self.d_key}"
