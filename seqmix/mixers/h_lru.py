"""H-LRU: a selective linear difference equation of order m (Dubinin, Orvieto, Effenberger 2026, 2602.12021).

For each of N = d_state channels, with gates that see the current token:

    [a_{t,1}, ..., a_{t,m}, a_{t,0}] = softmax(W_g x_t + b_g)
    h_t = sum_i a_{t,i} h_{t-i} + a_{t,0} (W_v x_t)
    y_t = W_o (h_t, h_{t-1}, ..., h_{t-m+1})                 all lags are read out

Parallel form: companion matrices, with gates in the first row and ones below the diagonal, and input into the first
slot; in time order a step costs m multiplies instead of their m^3. State: the last m values of every channel. Each
row of a companion matrix sums to at most one and is non-negative, so |h| never exceeds the largest |v|; it fixes
the constant vector, and so no order can flip a sign (no parity). Signed gates can.

Paper, released code (IgorDn8/mad-lab, mad/model/layers/hlru_sel.py, hlru_nonsel.py) and this layer, line by line:

- gates: a linear map with bias to N (m + 1) numbers, lags newest first and the input gate last: in all.
- recurrence: the code's loop is this one; its first scan multiplied by the transpose, which is another system, and
  agrees with the loop since.
- normalisation, initialisation and types: as in `bd_lru`.
- read-out: of all lags, without bias, in the code and here; its layer without tokens reads the newest lag alone, has no
  W_o, and so as many channels as d_model. Here that one (`selective=False`) reads as the other.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import gated_higher_order_scan, higher_order_scan
from seqmix.kernels._handing import handed_on
from seqmix.mixers._gates import gates_projection, normalization_of, normalized, reset_projections, softmax_logits
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class HLRUState(NamedTuple):
    lags: Tensor  # (S, N, m), newest first


@register_mixer("h-lru", description="Selective linear RNN of order m, softmax gates.", source="2602.12021")
class HLRU(TokenMixer):
    """Higher-order LRU.

    Args:
        d_model: width of input and output.
        d_state: N, the channels; each remembers its last `order` values. d_model if None.
        order: m. Order 1 is `BDLRU` with block size 1.
        normalization: of gates, `"softmax"`, `"sigmoid"`, `"relu"`, `"tanh"` or `"l1"`, as in `BDLRU`.
        selective: whether gates see the token; without, the layer is linear and time-invariant.

    Shapes: x (B, T, d_model), y (B, T, d_model), state lags (S, N, m).

    Raises:
        ValueError: a size or an order below one, an unknown normalization.

    Example:
        >>> import torch
        >>> from seqmix import HLRU
        >>> y, state = HLRU(d_model=64, order=3)(torch.randn(2, 10, 64))
        >>> y.shape, state.lags.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 64, 3]))
    """

    State = HLRUState
    only_scans = True

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        order: int = 2,
        *,
        normalization: str = "softmax",
        selective: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.order = positive("HLRU", "order", order)
        self.d_state = positive("HLRU", "d_state", d_model if d_state is None else d_state)
        self.normalization = normalization_of("HLRU", normalization)
        self.selective = one_of("HLRU", "selective", selective, (True, False))
        self.proj_gates = gates_projection(d_model, (self.d_state, order + 1), selective, device, dtype)
        self.proj_v = nn.Linear(d_model, self.d_state, bias=False, device=device, dtype=dtype)
        self.proj_out = nn.Linear(self.d_state * order, d_model, bias=False, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official initialisation: N(0, 0.02) weights, zero bias, so that every gate starts near 1 / (m + 1)."""
        reset_projections(self.proj_gates, self.proj_v, self.proj_out)

    def logits(self, x: Tensor) -> Tensor:
        """Gates before normalisation (B, T, N, m + 1): lags newest first, the input gate last."""
        return self.proj_gates(x).unflatten(-1, (self.d_state, self.order + 1))  # (B, T, N, m + 1)

    def gates(self, x: Tensor) -> Tensor:
        """(a_{t,1}, ..., a_{t,m}, a_{t,0}) (B, T, N, m + 1) for x (B, T, d_model)."""
        return normalized(self.logits(x), self.normalization)

    def mix(self, x: Tensor, state: HLRUState, cu_seqlens: Tensor | None) -> tuple[Tensor, HLRUState]:
        v, logits = self.proj_v(x), softmax_logits(self.logits(x), self.normalization)
        if logits is not None:
            h, final = gated_higher_order_scan(logits, v, initial_state=state.lags, cu_seqlens=cu_seqlens)
        else:
            gates = self.gates(x)
            a, a0 = gates[..., :-1], gates[..., -1]
            h, final = higher_order_scan(a, a0 * v, initial_state=state.lags, cu_seqlens=cu_seqlens)
            h = h.to(v.dtype)
        window = state.lags[..., : self.order - 1].flip(-1).transpose(1, 2).to(h.dtype)  # (S, m - 1, N)
        read, _ = lags(h, initial_state=window, cu_seqlens=cu_seqlens)
        return self.proj_out(read.flatten(2)), HLRUState(final)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> HLRUState:
        """All lags zero."""
        device, dtype = self._like(device, dtype)
        shape = (batch_size, self.d_state, self.order)
        return HLRUState(torch.zeros(shape, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N m."""
        return self.d_state * self.order

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` of the companion matrices (B, T, N, m), complex, and `gates` (B, T, N, m + 1)."""
        gates = self.gates(x)
        first_row = gates[..., :-1].to(recurrent_dtype(gates.dtype)).unsqueeze(-2)
        shift = torch.eye(self.order, device=x.device, dtype=first_row.dtype)[:-1]
        companion = torch.cat([first_row, shift.expand(*first_row.shape[:-2], -1, -1)], dim=-2)
        return {"eigenvalues": torch.linalg.eigvals(companion), "gates": gates}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values W_v x_t; states, and what is read, are (h_t, ..., h_{t-m+1}): A is a companion matrix."""
        gates, m = self.gates(x), self.order
        v = self.proj_v(x).to(gates.dtype)  # (B, T, N)
        eye = torch.eye(m, dtype=gates.dtype, device=x.device)
        companion = torch.cat((gates[..., None, :-1], eye[:-1].expand(*v.shape, -1, -1)), dim=-2)  # (B, T, N, m, m)
        return Recurrence(
            v[..., None, None],
            lambda o: self.proj_out(o.flatten(2).to(x.dtype)),
            companion,
            gates[..., -1:, None] * eye[:, :1],
        )

    def extra_repr(self) -> str:
        static = "" if self.selective else ", selective=False"
        return f"d_state={self.d_state}, order={self.order}, normalization={self.normalization!r}{static}"


@handed_on
def lags(h: Tensor, *, initial_state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, None]:
    """(h_t, h_{t-1}, ..., h_{t-m+1}) (B, T, N, m) of h (B, T, N), after `initial_state` (S, m - 1, N), oldest first."""
    order, length = initial_state.shape[1] + 1, h.shape[1]
    if cu_seqlens is None:
        return torch.cat([initial_state, h], dim=1).unfold(1, order, 1).flip(-1), None  # (B, T, N, m)
    # Packed: lag i of step t is row t - i, or one of its own sequence's window where that lies before the start.
    t = torch.arange(length, device=h.device)
    sequence = torch.bucketize(t, cu_seqlens[1:], right=True)
    age = t - cu_seqlens[sequence]
    lag = torch.arange(order, device=h.device)
    missing = length + (sequence + 1)[:, None] * (order - 1) + age[:, None] - lag
    rows = torch.where(age[:, None] >= lag, t[:, None] - lag, missing)
    table = torch.cat([h[0], rearrange(initial_state, "s l n -> (s l) n")])  # (T + S (m - 1), N)
    return rearrange(table[rows], "t m n -> 1 t n m"), None
