"""HGRN2: gated linear attention whose keys are what its decays forget (Qin et al. 2024, 2404.07904).

For each head, with K = expand_k d_model / H and V = d_model / H:

    q_t = silu(W_q x_t),    v_t = W_i x_t
    f_t = lambda + (1 - lambda) sigmoid(W_f x_t)     (K,), the decay; lambda >= 0 grows with depth in the paper
    S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T        (K, V)
    o_t = S_t^T q_t / sqrt(K)
    y_t = W_o rmsnorm(o_t)                           over all heads

1 - f is (1 - lambda) sigmoid of the negative and log f a sum in logarithms: nothing is subtracted. The paper learns
lambda for all layers together; a mixer sees one, so that it is an argument, 0 as in a first layer. Eigenvalues are in
(lambda, 1). Parallel form: masked matrix products in chunks, on a CPU the recurrence itself. State: S.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from seqmix.kernels import gated_linear_attention
from seqmix.mixers._heads import head_sizes, rms_norm
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class HGRN2State(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64


@register_mixer("hgrn-2", description="Linear attention, keys are what decays forget.", source="2404.07904")
class HGRN2(TokenMixer):
    """HGRN2.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`; heads of 128 in the paper.
        lower_bound: lambda, the least decay, in [0, 1).
        expand_k: width of all keys over `d_model`; 1 as published.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V).

    Raises:
        ValueError: `n_heads` that does not divide a width, a bound out of range, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import HGRN2
        >>> y, state = HGRN2(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = HGRN2State
    only_scans = True
    _no_weight_decay = ("norm_weight",)

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        lower_bound: float = 0.0,
        *,
        expand_k: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("HGRN2", d_model, n_heads, expand_k)
        if not 0 <= lower_bound < 1:
            raise ValueError(f"HGRN2: lower_bound must be in [0, 1), got {lower_bound!r}")
        self.lower_bound = float(lower_bound)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        keys = n_heads * self.d_key
        self.q_proj = nn.Linear(d_model, keys, bias=False, **where)
        self.f_proj = WideLinear(d_model, keys, bias=False, **where)
        self.i_proj = nn.Linear(d_model, d_model, bias=False, **where)
        self.norm_weight = nn.Parameter(torch.ones(d_model, **where))
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log f and 1 - f, both (B, T, H, K) in at least float32, for x (B, T, d_model)."""
        logits = self.f_proj(x).unflatten(-1, (self.n_heads, self.d_key))  # (B, T, H, K)
        log_f, bound = logsigmoid(logits), self.lower_bound
        if bound:
            log_f = torch.logaddexp(log_f + math.log1p(-bound), log_f.new_tensor(math.log(bound)))
        return log_f, (1 - bound) * (-logits).sigmoid()

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q (B, T, H, K), scaled, and v (B, T, H, V)."""
        q = silu(self.q_proj(x)).unflatten(-1, (self.n_heads, -1)) * self.d_key**-0.5  # (B, T, H, K)
        return q, self.i_proj(x).unflatten(-1, (self.n_heads, -1))

    def _output(self, o: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        return self.out_proj(rms_norm(o.flatten(2), self.norm_weight))  # over (B, T, d_model)

    def mix(self, x: Tensor, state: HGRN2State, cu_seqlens: Tensor | None) -> tuple[Tensor, HGRN2State]:
        (q, v), (log_f, k) = self._read(x), self.gates(x)
        o, S = gated_linear_attention(q, k, v, log_f, initial_state=state.S, cu_seqlens=cu_seqlens)
        return self._output(o), HGRN2State(S)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> HGRN2State:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value)
        return HGRN2State(torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V."""
        return self.n_heads * self.d_key * self.d_value

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` f_t (B, T, H, K), real."""
        return {"eigenvalues": self.gates(x)[0].exp()}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t, V for each head; M[t, s] = q_t . f_t ... f_{s+1} (1 - f_s) / sqrt(K)."""
        (q, v), (log_f, k) = self._read(x), self.gates(x)
        return Recurrence(
            v.to(k.dtype).unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2).to(x.dtype)),
            log_f.exp(),
            k.unsqueeze(-1),
            q.to(k.dtype).unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, lower_bound={self.lower_bound}"
