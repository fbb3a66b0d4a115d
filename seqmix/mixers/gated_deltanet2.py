"""Gated DeltaNet-2: KDA whose erasing and writing have gates for each channel (2605.22791).

For each head, with q, k, v, g and the output as in `kda`:

    e_t = sigmoid(W_e x_t)  (K,),    w_t = sigmoid(W_w x_t)  (V,)        signed: e_t twice that, in (0, 2)
    S_t = (I - k_t (e_t * k_t)^T) Diag(e^{g_t}) S_{t-1} + k_t (w_t * v_t)^T
    o_t = S_t^T q_t / sqrt(K)

In `dplr_delta_rule` a = -k and b = e^g e k. Eigenvalues are in [0, 1], signed in [-1, 1], but a gate on one side only
does not contract: norms reach 2 / sqrt(3), signed sqrt(2), and alternating steps may grow. With keys (1, -1) / sqrt(2)
a signed step swaps two channels (e = 2) or sends one into the other (e = (2, 0)), so that a token does any exchange or
elementary collapse. State: S (K, V) for each head and the window of the convolution.
"""

from typing import Any

from torch import Tensor

from seqmix.mixers._projections import WideLinear
from seqmix.mixers.kda import KDA
from seqmix.mixers.registry import register_mixer


@register_mixer("gated-deltanet-2", description="KDA with erase and write gates by channel.", source="2605.22791")
class GatedDeltaNet2(KDA):
    """Gated DeltaNet-2; arguments, shapes and errors as `KDA`.

    Example:
        >>> import torch
        >>> from seqmix import GatedDeltaNet2
        >>> y, state = GatedDeltaNet2(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    def _make_strengths(self, where: dict[str, Any]) -> None:
        self.erase_proj = WideLinear(self.d_model, self.n_heads * self.d_key, bias=False, **where)
        self.write_proj = WideLinear(self.d_model, self.n_heads * self.d_value, bias=False, **where)

    def _pairs(self, x: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        erase = self._strength(self.erase_proj(x), self.d_key)
        write = self.write_proj(x).sigmoid().unflatten(-1, (self.n_heads, self.d_value))  # (B, T, H, V)
        return k, (write * v).to(v.dtype), -k, decay * erase * k
