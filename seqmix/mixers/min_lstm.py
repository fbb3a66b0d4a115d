"""minLSTM: an LSTM whose gates do not see the state, in the form whose two gates sum to one (2410.01201).

    f_t, i_t = sigmoid(W_f x_t), sigmoid(W_i x_t)    (N,) each
    h_t = f_t / (f_t + i_t) * h_{t-1} + i_t / (f_t + i_t) * h~_t
    y_t = W_o h_t                                    h~ as in `min_gru`

The two parts are sigmoids of the difference of the gates' logarithms, so that nothing is divided by. Eigenvalues are in
(0, 1) and h stays positive. Parallel form and state: `min_gru`.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from seqmix.mixers.min_gru import MinGRU
from seqmix.mixers.registry import register_mixer


@register_mixer("min-lstm", description="LSTM whose gates do not see the state.", source="2410.01201")
class MinLSTM(MinGRU):
    """minLSTM; arguments, shapes and errors as `MinGRU`.

    Example:
        >>> import torch
        >>> from seqmix import MinLSTM
        >>> y, state = MinLSTM(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64]))
    """

    _n_gates = 2

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f / (f + i) and i / (f + i), both (B, T, N) in at least float32, for x (B, T, d_model)."""
        f, i = self.gate_proj(x).chunk(2, dim=-1)
        ratio = logsigmoid(f) - logsigmoid(i)
        return ratio.sigmoid(), (-ratio).sigmoid()
