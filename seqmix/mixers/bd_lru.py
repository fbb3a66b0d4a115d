"""BD-LRU: a selective linear RNN with a block-diagonal transition (Dubinin, Orvieto, Effenberger 2026, 2602.12021).

For each of N = d_state / m blocks of size m, with row-wise normalised gates that see the current token:

    [A_t, a0_t] = softmax(W_g x_t + b_g)        A_t (m, m), a0_t (m,): every row sums to one over its m + 1 slots
    h_t = A_t h_{t-1} + a0_t * (W_v x_t)        h_t (m,)
    y_t = W_o h_t                               over all blocks together

Parallel form: (A, b) o (A', b') = (A' A, A' b + b'), associative; on a CPU time is walked in order instead, since
m x m products cost more than steps. State: h, N x m numbers. A row is a convex combination, so |h| never exceeds
the largest |v|; permutation matrices are limits of A_t, which is how a block of size m tracks subgroups of S_m.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import block_scan, gated_block_scan
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import mixer_state

# What signed gates are divided by at least: a row of zeros stays zero, and gradients grow by 1,000 at most. The
# official code adds .001 to the sum of rectified gates and nothing to that of signed ones, where 0 / 0 comes of it.
SMALLEST_SUM = 1e-3


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
        normalization: `"softmax"`, or `"l1"`: gates divided by the sum of their absolute values, so that entries
            may be negative (m = 1 then does parity).

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

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        block_size: int = 4,
        *,
        normalization: str = "softmax",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        m = self.block_size = positive("BDLRU", "block_size", block_size)
        self.d_state = positive("BDLRU", "d_state", max(m, d_model - d_model % m) if d_state is None else d_state)
        if self.d_state % m:
            raise ValueError(f"BDLRU: d_state must be a multiple of block_size = {m}, got {self.d_state}")
        self.normalization = one_of("BDLRU", "normalization", normalization, ("softmax", "l1"))
        self.n_blocks = self.d_state // m
        self.proj_gates = nn.Linear(d_model, self.d_state * (m + 1), device=device, dtype=dtype)
        self.proj_v = nn.Linear(d_model, self.d_state, bias=False, device=device, dtype=dtype)
        self.proj_out = nn.Linear(self.d_state, d_model, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official initialisation: N(0, 0.02) weights, zero bias, so that every gate starts near 1 / (m + 1)."""
        for projection in (self.proj_gates, self.proj_v, self.proj_out):
            nn.init.normal_(projection.weight, std=0.02)
        nn.init.zeros_(self.proj_gates.bias)

    def logits(self, x: Tensor) -> Tensor:
        """Gates before normalisation (B, T, N, m, m + 1); the input gate is the last slot of every row."""
        return self.proj_gates(x).unflatten(-1, (self.n_blocks, self.block_size, self.block_size + 1))

    def gates(self, x: Tensor) -> Tensor:
        """[A_t, a0_t] (B, T, N, m, m + 1) for x (B, T, d_model)."""
        logits = self.logits(x)
        # In float32 at least, also under autocast: decays above 0.99 do not survive bf16.
        logits = logits.to(recurrent_dtype(logits.dtype))
        with torch.autocast(x.device.type, enabled=False):
            if self.normalization == "softmax":
                return logits.softmax(-1)
            return logits / logits.abs().sum(-1, keepdim=True).clamp_min(SMALLEST_SUM)

    def mix(self, x: Tensor, state: BDLRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, BDLRUState]:
        v = self.proj_v(x).unflatten(-1, (self.n_blocks, self.block_size))  # (B, T, N, m)
        if self.normalization == "softmax":
            h, final = gated_block_scan(self.logits(x), v, initial_state=state.h, cu_seqlens=cu_seqlens)
        else:
            gates = self.gates(x)
            a, a0 = gates[..., :-1], gates[..., -1]
            h, final = block_scan(a, a0 * v, initial_state=state.h, cu_seqlens=cu_seqlens)
            h = h.to(v.dtype)
        return self.proj_out(h.flatten(2)), BDLRUState(final)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BDLRUState:
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
        return f"d_state={self.d_state}, block_size={self.block_size}, normalization={self.normalization!r}"
