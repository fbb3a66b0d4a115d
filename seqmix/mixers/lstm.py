"""LSTM (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000): the recurrent baseline that tracks state.

    i, f, g, o = W_ih x_t + W_hh h_{t-1} + b         sigmoid on i, f, o; tanh on g
    c_t = f c_{t-1} + i g,    h_t = o tanh(c_t),    y_t = W_out h_t

The recurrence is not linear, so time is a loop: torch's own in the forward pass, ours in the backward pass.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqmix.kernels import diagonal_scan
from seqmix.kernels._backend import has_tangents
from seqmix.kernels._checks import check_offsets, describe
from seqmix.mixers.base import TokenMixer, positive, recurrent_dtype
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import mixer_state

__all__ = ["LSTM", "LSTMState"]

OP = "lstm"


@mixer_state
class LSTMState(NamedTuple):
    """h and c, each (S, d_state), in float32 (float64 for double activations)."""

    h: Tensor
    c: Tensor


@register_mixer(
    "lstm",
    description="LSTM with an output projection: nonlinear, sequential, state 2 d.",
    source="Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000",
)
class LSTM(TokenMixer):
    """One LSTM layer and an output projection (always there, also where `d_state` equals `d_model`).

    Weights are uniform in +-1/sqrt(d_state) as in `nn.LSTM`, in the gate order i, f, g, o. There is one bias: one on
    the forget gate, so that memory is kept at first, and zero elsewhere. The recurrence is computed in float32
    (float64 for double input) whatever the type of the activations. Packed sequences read `cu_seqlens` on the host.

    Args:
        d_model: width of input and output.
        d_state: width of h and of c; `d_model` if None.

    Raises:
        ValueError: a width that is not a positive integer; see `TokenMixer.forward` for what is checked in calls.
        NotImplementedError: second derivatives and forward-mode AD.

    Example:
        >>> import torch
        >>> from seqmix.mixers import LSTM
        >>> y, state = LSTM(16)(torch.randn(2, 5, 16))
        >>> y.shape, state.c.shape
        (torch.Size([2, 5, 16]), torch.Size([2, 16]))
    """

    State = LSTMState

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.d_state = d_model if d_state is None else positive("LSTM", "d_state", d_state)
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.weight_ih = nn.Parameter(torch.empty(4 * self.d_state, d_model, **like))
        self.weight_hh = nn.Parameter(torch.empty(4 * self.d_state, self.d_state, **like))
        self.bias = nn.Parameter(torch.zeros(4 * self.d_state, **like))
        self.out_proj = nn.Linear(self.d_state, d_model, bias=False, **like)
        bound = 1 / math.sqrt(self.d_state)
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)
        with torch.no_grad():
            self.bias[self.d_state : 2 * self.d_state] = 1

    def mix(self, x: Tensor, state: LSTMState, cu_seqlens: Tensor | None) -> tuple[Tensor, LSTMState]:
        dtype = recurrent_dtype(x.dtype)
        operands = (x, state.h, state.c, self.weight_ih, self.weight_hh, self.bias)
        if has_tangents(*operands):
            raise NotImplementedError("LSTM: forward-mode AD is not available")
        h, last_h, last_c = _lstm(*(operand.to(dtype) for operand in operands), cu_seqlens)
        return self.out_proj(h.to(x.dtype)), LSTMState(last_h, last_c)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> LSTMState:
        device, dtype = self._like(device, dtype)
        shape = (positive("LSTM.init_state", "batch_size", batch_size), self.d_state)
        zeros = (torch.zeros(shape, device=device, dtype=recurrent_dtype(dtype)) for _ in range(2))
        return LSTMState(*zeros)

    def state_size(self, sequence_length: int = 1) -> int:
        return 2 * self.d_state

    def extra_repr(self) -> str:
        return f"{self.d_model}, d_state={self.d_state}"

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        shape, dtype = (sequences, self.d_state), recurrent_dtype(self.weight_ih.dtype)
        for name, leaf in (("h", state.h), ("c", state.c)):
            if leaf.shape != shape or leaf.dtype != dtype:
                raise ValueError(f"LSTM: state.{name} must be {dtype} of shape {shape}, got {describe(leaf)}")


# Dynamo refuses nn.LSTM, and its decomposition would unroll time: to the compiler the whole loop is one op.
@torch.library.custom_op("seqmix::lstm", mutates_args=())
def _lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    weights = [weight_ih, weight_hh, bias, torch.zeros_like(bias)]
    options = (True, 1, 0.0, False, False)  # biases, layers, dropout, training, bidirectional
    with torch.autocast(x.device.type, enabled=False):
        if cu_seqlens is None:
            hx = (h0.unsqueeze(0), c0.unsqueeze(0))
            h, last_h, last_c = torch._VF.lstm(x.contiguous(), hx, weights, *options, True)
            return h.clone(memory_format=torch.contiguous_format), last_h[0].clone(), last_c[0].clone()
        lengths = _lengths(cu_seqlens, x.shape[1])
        # torch wants time-major rows of the sequences by falling length, without the empty ones.
        order = torch.argsort(lengths, descending=True, stable=True)
        order = order[: int((lengths > 0).sum())]
        lengths = lengths[order]
        running = lengths > torch.arange(int(lengths[0])).unsqueeze(1)
        starts = cu_seqlens.cpu().long()[order]
        packed = (starts + torch.arange(len(running)).unsqueeze(1))[running].to(x.device)
        order = order.to(x.device)
        hx = (h0[order].unsqueeze(0), c0[order].unsqueeze(0))
        rows, last_h, last_c = torch._VF.lstm(x[0, packed], running.sum(1), hx, weights, *options)
        h = torch.empty_like(rows).index_copy_(0, packed, rows)
        return h.unsqueeze(0), h0.index_copy(0, order, last_h[0]), c0.index_copy(0, order, last_c[0])


@torch.library.custom_op("seqmix::lstm_backward", mutates_args=())
def _lstm_backward(
    dh: Tensor,
    dlast_h: Tensor,
    dlast_c: Tensor,
    h: Tensor,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    # Gates and cells come back for all steps at once; only the adjoint of h needs the loop.
    with torch.autocast(x.device.type, enabled=False):
        previous_h = _shift(h, h0, cu_seqlens)
        gates = torch.addmm(bias, x.flatten(0, 1), weight_ih.mT) + previous_h.flatten(0, 1) @ weight_hh.mT
        i, f, g, o = gates.unflatten(0, x.shape[:2]).chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c, _ = diagonal_scan(f, i * g, initial_state=c0, cu_seqlens=cu_seqlens)
        tanh_c = c.tanh()
        from_c = torch.stack((g * i * (1 - i), _shift(c, c0, cu_seqlens) * f * (1 - f), i * (1 - g * g)), dim=2)
        from_h = tanh_c * o * (1 - o)
        into_c = o * (1 - tanh_c * tanh_c)
        steps = [dh, from_c, from_h, into_c, f]
        if cu_seqlens is not None:
            lengths = _lengths(cu_seqlens, x.shape[1]).to(x.device)
            longest = int(lengths.max())
            # Sequences are aligned at their ends; in the padding before them c passes through (f = 1).
            inside = torch.arange(longest, device=x.device) >= (longest - lengths).unsqueeze(1)
            steps = [_align(step, inside, float(step is f)) for step in steps]
        adjoint_h, adjoint_c, dgates = dlast_h, dlast_c, []
        for dh_t, from_c_t, from_h_t, into_c_t, f_t in zip(*(reversed(s.unbind(1)) for s in steps), strict=True):
            adjoint_h = adjoint_h + dh_t
            adjoint_c = torch.addcmul(adjoint_c, adjoint_h, into_c_t)
            dgate = torch.cat(((adjoint_c.unsqueeze(1) * from_c_t).flatten(1), adjoint_h * from_h_t), dim=1)
            dgates.append(dgate)
            adjoint_h, adjoint_c = dgate @ weight_hh, adjoint_c * f_t
        dgate = torch.stack(dgates[::-1], dim=1)
        if cu_seqlens is not None:
            first = dgate[torch.arange(len(lengths), device=x.device), (longest - lengths).clamp(max=longest - 1)]
            adjoint_h = torch.where((lengths > 0).unsqueeze(1), first @ weight_hh, dlast_h)
            dgate = dgate[inside].unsqueeze(0)
        rows = dgate.flatten(0, 1)
        dweight_ih, dweight_hh = rows.mT @ x.flatten(0, 1), rows.mT @ previous_h.flatten(0, 1)
        return dgate @ weight_ih, adjoint_h, adjoint_c.clone(), dweight_ih, dweight_hh, rows.sum(0)


def _lengths(cu_seqlens: Tensor, total: int) -> Tensor:
    check_offsets(OP, cu_seqlens, total)
    return cu_seqlens.cpu().long().diff()


def _shift(rows: Tensor, first: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    # What the recurrence saw: the previous row, and at the start of a sequence its initial state.
    if cu_seqlens is None:
        return torch.cat((first.unsqueeze(1), rows[:, :-1]), dim=1)
    filled = cu_seqlens.diff() > 0
    shifted = rows.roll(1, dims=1)
    shifted[0, cu_seqlens[:-1][filled].long()] = first[filled]
    return shifted


def _align(rows: Tensor, inside: Tensor, padding: float) -> Tensor:
    batch = rows.new_full((*inside.shape, *rows.shape[2:]), padding)
    batch[inside] = rows[0]
    return batch


@_lstm.register_fake
def _(x, h0, c0, weight_ih, weight_hh, bias, cu_seqlens):  # type: ignore[no-untyped-def]
    return x.new_empty(*x.shape[:2], h0.shape[1]), torch.empty_like(h0), torch.empty_like(c0)


@_lstm_backward.register_fake
def _(dh, dlast_h, dlast_c, h, x, h0, c0, weight_ih, weight_hh, bias, cu_seqlens):  # type: ignore[no-untyped-def]
    return tuple(t.new_empty(t.shape) for t in (x, h0, c0, weight_ih, weight_hh, bias))


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(output[0], *inputs)


def _backward(ctx, *grads):  # type: ignore[no-untyped-def]
    return *_lstm_backward(*grads, *ctx.saved_tensors), None


def _refuse(ctx, *grads):  # type: ignore[no-untyped-def]
    raise NotImplementedError("LSTM: second derivatives are not available")


_lstm.register_autograd(_backward, setup_context=_setup_context)
_lstm_backward.register_autograd(_refuse)
