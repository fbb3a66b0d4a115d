"""A selective dense linear RNN: the upper control for state tracking (its transition is any matrix of the token).

    A_t = clip(I + W_A x_t)         (n, n), scaled down where the power mean of its singular values exceeds one
    h_t = A_t h_{t-1} + W_b x_t     h_t (n,)
    y_t = W_o h_t

The mean is (sum_i sigma_i^32 / n)^(1/32) = (|(A^T A)^8|_F / sqrt(n))^(1/16): close to the largest singular value, one
for every orthogonal matrix, permutations included, and it needs products only. So rotations stay in reach, |det A_t|
is at most one, and no direction grows by more than n^(1/32) a step (the Frobenius norm alone would allow sqrt(n), and
long words overflow). Parallel form: (A, b) o (A', b') = (A' A, A' b + b'), associative but n^3 a step; time is walked
in order. State: h, n numbers. Compare Merrill et al. 2024 (2404.08819), the input-dependent S4.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import block_scan
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class DenseRNNState(NamedTuple):
    h: Tensor  # (S, n)


@register_mixer("dense", description="Selective dense linear RNN: A_t a full matrix.", source="2404.08819")
class DenseRNN(TokenMixer):
    """Dense linear RNN.

    Args:
        d_model: width of input and output.
        d_state: n, numbers in the state; the gates cost d_model n^2 parameters.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, n).

    Raises:
        ValueError: a size below one.

    Example:
        >>> import torch
        >>> from seqmix import DenseRNN
        >>> y, state = DenseRNN(d_model=64, d_state=12)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 12]))
    """

    State = DenseRNNState
    only_scans = True

    def __init__(
        self,
        d_model: int,
        d_state: int = 12,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = positive("DenseRNN", "d_state", d_state)
        self.proj_transition = WideLinear(d_model, d_state * d_state, device=device, dtype=dtype)
        self.proj_in = nn.Linear(d_model, d_state, bias=False, device=device, dtype=dtype)
        self.proj_out = nn.Linear(d_state, d_model, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Transitions start near the identity: memory first, selection later."""
        nn.init.normal_(self.proj_transition.weight, std=0.5 * self.d_model**-0.5)
        self.proj_transition.bias.copy_(torch.eye(self.d_state).flatten())
        nn.init.normal_(self.proj_in.weight, std=self.d_model**-0.5)
        nn.init.normal_(self.proj_out.weight, std=self.d_state**-0.5)

    def transition(self, x: Tensor) -> Tensor:
        """A_t (B, T, n, n), at least float32."""
        a = self.proj_transition(x).unflatten(-1, (self.d_state, self.d_state))  # (B, T, n, n)
        # Outside autocast, whose half precision holds no sixteenth power of anything.
        with torch.autocast(x.device.type, enabled=False):
            largest = a.detach().abs().amax((-2, -1), keepdim=True).clamp_min(1)
            a = a / largest
            return a / self._mean(a).clamp_min(1 / largest)  # with an entry of one, the mean is n^(-1/32) or more

    def _mean(self, a: Tensor) -> Tensor:
        """The power mean of the singular values, (B, T, 1, 1): every product is scaled to norm one before the next."""
        mean, product = self.d_state ** (-1 / 32), a
        for root in (1 / 2, 1 / 4, 1 / 8, 1 / 16):
            product = product.mT @ product
            # Clamped before the root, whose slope is infinite at zero.
            size = torch.linalg.matrix_norm(product, keepdim=True).clamp_min(1e-12)
            mean, product = mean * size**root, product / size
        return mean

    def mix(self, x: Tensor, state: DenseRNNState, cu_seqlens: Tensor | None) -> tuple[Tensor, DenseRNNState]:
        a, b = self.transition(x), self.proj_in(x)
        # One block, of all: a (B, T, 1, n, n), b (B, T, 1, n).
        h, final = block_scan(a.unsqueeze(2), b.unsqueeze(2), initial_state=state.h.unsqueeze(1), cu_seqlens=cu_seqlens)
        return self.proj_out(h.squeeze(2)), DenseRNNState(final.squeeze(1))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> DenseRNNState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return DenseRNNState(torch.zeros(batch_size, self.d_state, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """n."""
        return self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` of A_t (B, T, n), complex."""
        return {"eigenvalues": torch.linalg.eigvals(self.transition(x))}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values W_b x_t (n,); M[t, s] = A_t ... A_{s+1}."""
        a = self.transition(x).unsqueeze(2)  # (B, T, 1, n, n)
        v = self.proj_in(x).to(a.dtype)[:, :, None, :, None]
        write = torch.eye(self.d_state, dtype=a.dtype, device=x.device).expand_as(a)
        return Recurrence(v, lambda o: self.proj_out(o.flatten(2).to(x.dtype)), a, write)

    def extra_repr(self) -> str:
        return f"d_state={self.d_state}"
