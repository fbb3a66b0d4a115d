"""BD-LRU: a selective linear RNN with a block-diagonal transition (Dubinin, Orvieto, Effenberger 2026, 2602.12021).

For each of N = d_state / m blocks of size m, with row-wise normalised gates that see the current token:

    [A_t, a0_t] = softmax(W_g x_t + b_g)        A_t (m, m), a0_t (m,): every row sums to one over its m + 1 slots
    h_t = A_t h_{t-1} + a0_t * (W_v x_t)        h_t (m,)
    y_t = W_o h_t                               over all blocks together

Parallel form: (A, b) o (A', b') = (A' A, A' b + b'), associative; on a CPU time is walked in order instead, since
m x m products cost more than steps. State: h, N x m numbers. A row is a convex combination, so |h| never exceeds
the largest |v|; permutation matrices are limits of A_t, which is how a block of size m tracks subgroups of S_m.

Paper, released code (IgorDn8/mad-lab, mad/model/layers/bdlru_sel.py, bdlru_nonsel.py) and this layer, line by line:

- gates: a linear map with bias to N m (m + 1) numbers, the input gate last in its row; v and the read-out without bias;
  no convolution, skip, gate or norm around them: in all.
- normalisation: softmax in all by default; the code's others are in `_gates`. Where a row of signed gates sums to less
  than 0.001 it is divided by that here, 0 / 0 in the code. Its `nonorm` is not here.
- gates that no token changes (`selective=False`): the code's A_w, uniform in [0, 1) at first; there without the 0.001.
- initialisation: N(0, 0.02), zero biases, which in the code its model does. The state begins at zero in all.
- type: float32 for gates and state here, whatever the type of x; the code is run in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import block_scan, gated_block_scan
from seqmix.mixers._gates import gates_projection, normalization_of, normalized, reset_projections, softmax_logits
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class BDLRUState(NamedTuple):
    h: Tensor  # (S, N, m)


@register_mixer("bd-lru", description="Selective block-diagonal linear RNN, softmax gates.", source="2602.12021")
class BDLRU(TokenMixer):
    """Block-diagonal LRU.

    Args:
        d_model: width of input and output.
        d_state: numbers in the state, a multiple of `block_size`; the largest one up to d_model if None.
        block_size: m. With softmax gates, m = 2 does parity and m = 5 does A5; m = 1 does neither.
        normalization: `"softmax"`; `"sigmoid"` or `"relu"`, divided by their sums; `"tanh"`, or `"l1"` (`"linear"` in
            the released code), divided by the sum of absolute values, so that entries may be negative (m = 1 then does
            parity).
        selective: whether gates see the token; without, the layer is linear and time-invariant.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N, m).

    Raises:
        ValueError: a size below one, a `d_state` that `block_size` does not divide, an unknown normalization.

    Example:
        >>> import torch
        >>> from seqmix import BDLRU
        >>> y, state = BDLRU(d_model=64, block_size=4)(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 16, 4]))
    """

    State = BDLRUState
    only_scans = True

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        block_size: int = 4,
        *,
        normalization: str = "softmax",
        selective: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        m = self.block_size = positive("BDLRU", "block_size", block_size)
        self.d_state = positive("BDLRU", "d_state", max(m, d_model - d_model % m) if d_state is None else d_state)
        if self.d_state % m:
            raise ValueError(f"BDLRU: d_state must be a multiple of block_size = {m}, got {self.d_state}")
        self.normalization = normalization_of("BDLRU", normalization)
        self.selective = one_of("BDLRU", "selective", selective, (True, False))
        self.n_blocks = self.d_state // m
        self.proj_gates = gates_projection(d_model, (self.n_blocks, m, m + 1), selective, device, dtype)
        self.proj_v = nn.Linear(d_model, self.d_state, bias=False, device=device, dtype=dtype)
        self.proj_out = nn.Linear(self.d_state, d_model, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official initialisation: N(0, 0.02) weights, zero bias, so that every gate starts near 1 / (m + 1)."""
        reset_projections(self.proj_gates, self.proj_v, self.proj_out)

    def logits(self, x: Tensor) -> Tensor:
        """Gates before normalisation (B, T, N, m, m + 1); the input gate is the last slot of every row."""
        m = self.block_size
        return self.proj_gates(x).unflatten(-1, (self.n_blocks, m, m + 1))  # (B, T, N, m, m + 1)

    def gates(self, x: Tensor) -> Tensor:
        """[A_t, a0_t] (B, T, N, m, m + 1) for x (B, T, d_model)."""
        return normalized(self.logits(x), self.normalization)

    def mix(self, x: Tensor, state: BDLRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, BDLRUState]:
        v = self.proj_v(x).unflatten(-1, (self.n_blocks, self.block_size))  # (B, T, N, m)
        logits = softmax_logits(self.logits(x), self.normalization)
        if logits is not None:
            h, final = gated_block_scan(logits, v, initial_state=state.h, cu_seqlens=cu_seqlens)
        else:
            gates = self.gates(x)
            a, a0 = gates[..., :-1], gates[..., -1]
            h, final = block_scan(a, a0 * v, initial_state=state.h, cu_seqlens=cu_seqlens)
            h = h.to(v.dtype)
        return self.proj_out(h.flatten(2)), BDLRUState(final)  # of (B, T, N m)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> BDLRUState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        shape = (batch_size, self.n_blocks, self.block_size)
        return BDLRUState(torch.zeros(shape, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N m."""
        return self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` of A_t (B, T, N, m), complex, and `gates` (B, T, N, m, m + 1)."""
        gates = self.gates(x)
        a = gates[..., :-1].to(recurrent_dtype(gates.dtype))
        return {"eigenvalues": torch.linalg.eigvals(a), "gates": gates}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values W_v x_t, m for each block; M[t, s] = A_t ... A_{s+1} diag(a0_s)."""
        gates = self.gates(x)
        v = self.proj_v(x).to(gates.dtype).unflatten(-1, (self.n_blocks, self.block_size))  # (B, T, N, m)
        return Recurrence(
            v.unsqueeze(-1),
            lambda o: self.proj_out(o.flatten(2).to(x.dtype)),
            gates[..., :-1],
            torch.diag_embed(gates[..., -1]),
        )

    def extra_repr(self) -> str:
        static = "" if self.selective else ", selective=False"
        return f"d_state={self.d_state}, block_size={self.block_size}, normalization={self.normalization!r}{static}"
