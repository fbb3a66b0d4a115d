"""Linear attention: positive features in place of a softmax, no forgetting (Katharopoulos et al. 2020, 2006.16236).

For each head, with K = expand_k d_model / H and V = d_model / H, and phi(u) = elu(u) + 1 > 0:

    q_t, k_t = phi(W x_t),    v_t = W_v x_t
    S_t = S_{t-1} + k_t v_t^T                        (K, V)
    n_t = n_{t-1} + k_t                              (K,)
    o_t = S_t^T q_t / (n_t . q_t + eps)              a mean of the values, eps = 1e-6
    y_t = W_o o_t

n is one more column of S whose value is always one, so that one scan carries both. All eigenvalues are one: nothing is
forgotten, and what was written last weighs no more than what was written first. Parallel form: masked matrix products
in chunks, on a CPU the recurrence itself. State: S with n as its last column.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from seqmix.kernels import gated_linear_attention
from seqmix.mixers._heads import by_heads, head_sizes
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class LinearAttentionState(NamedTuple):
    S: Tensor  # (S, H, K, V + 1), float32 or float64


def _features(u: Tensor) -> Tensor:
    """elu(u) + 1 without the sum, which is zero in float32 below -17."""
    return relu(u) + u.clamp(max=0).exp()


@register_mixer("linear-attention", description="Attention with positive features, no decay.", source="2006.16236")
class LinearAttention(TokenMixer):
    """Linear attention.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        expand_k: width of all keys over `d_model`; 1 as published.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V + 1).

    Raises:
        ValueError: `n_heads` that does not divide a width, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import LinearAttention
        >>> y, state = LinearAttention(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 17]))
    """

    State = LinearAttentionState
    only_scans = True

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        expand_k: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("LinearAttention", d_model, n_heads, expand_k)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * n_heads * self.d_key + d_model, **where)
        self.out_proj = nn.Linear(d_model, d_model, **where)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k (B, T, H, K), positive, and v with a one behind it (B, T, H, V + 1), in at least float32: sums grow."""
        qkv = self.in_proj(x).to(recurrent_dtype(x.dtype))
        q, k, v = by_heads(qkv, self.n_heads, self.d_key, self.d_key, self.d_value)
        return _features(q), _features(k), pad(v, (0, 1), value=1.0)

    def _mean(self, o: Tensor, x: Tensor) -> Tensor:
        """y (B, T, d_model) of sums and what they are divided by, o (B, T, H, V + 1)."""
        means = o[..., :-1] / (o[..., -1:] + 1e-6)  # (B, T, H, V)
        return self.out_proj(means.flatten(2).to(x.dtype))  # from (B, T, d_model)

    def mix(
        self, x: Tensor, state: LinearAttentionState, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, LinearAttentionState]:
        o, S = gated_linear_attention(*self._project(x), initial_state=state.S, cu_seqlens=cu_seqlens)
        return self._mean(o, x), LinearAttentionState(S)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> LinearAttentionState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value + 1)
        return LinearAttentionState(torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """H K (V + 1)."""
        return self.n_heads * self.d_key * (self.d_value + 1)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K), all one."""
        shape = (*x.shape[:2], self.n_heads, self.d_key)
        return {"eigenvalues": torch.ones(shape, dtype=recurrent_dtype(x.dtype), device=x.device)}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_t with a one behind them; M[t, s] = q_t . k_s, which the output divides by its sum over s."""
        q, k, v = self._project(x)
        return Recurrence(
            v.unsqueeze(-2),
            lambda o: self._mean(o.squeeze(-2), x),
            torch.ones_like(k),
            k.unsqueeze(-1),
            q.unsqueeze(-2),
        )

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}"
