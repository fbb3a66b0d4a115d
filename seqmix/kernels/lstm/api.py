"""The loop of the LSTM over time: torch's own in the forward pass, ours in the backward pass, and a plain one."""

import torch
from torch import Tensor

from seqmix.kernels import diagonal_scan
from seqmix.kernels._backend import preferred
from seqmix.kernels._invariant import is_batch_invariant
from seqmix.kernels._loops import aligned, lengths_of, shifted, torch_loop
from seqmix.kernels._recurrent_op import recurrent_op, same
from seqmix.kernels._sequences import over_sequences

__all__ = ["lstm"]

OP = "LSTM"


def lstm(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """h (B, T, N) and the last h and c (S, N) of x (B, T, D), all in one type; gates in the order i, f, g, o.

    `NotImplementedError` for second derivatives and forward-mode AD, but under the reference.
    """
    # torch's loop multiplies all sequences at once.
    if preferred() != "reference" and not is_batch_invariant():
        return _lstm(x, h0, c0, weight_ih, weight_hh, bias, cu_seqlens)

    def recurrence(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        (h, c), rows = state.chunk(2, -1), []
        for x_t in (x @ weight_ih.mT + bias).unbind(1):
            i, f, g, o = (x_t + h @ weight_hh.mT).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            rows.append(h)
        return torch.stack(rows, 1), torch.cat((h, c), -1)

    with torch.autocast(x.device.type, enabled=False):
        h, last = over_sequences(OP, recurrence, (x,), torch.cat((h0, c0), -1), cu_seqlens)
    last_h, last_c = (part.clone() for part in last.chunk(2, -1))
    return h, last_h, last_c


# Dynamo refuses nn.LSTM, and its decomposition would unroll time: to the compiler the whole loop is one op.
def _forward(
    x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    weights = [weight_ih, weight_hh, bias, torch.zeros_like(bias)]
    with torch.autocast(x.device.type, enabled=False):
        if x.is_cpu and x.shape[1] == 1 and cu_seqlens is None:
            # oneDNN's LSTM orders all weights anew at every call, which takes several times as long as one step.
            last_h, last_c = torch.lstm_cell(x[:, 0], (h0, c0), *weights)
            return last_h.unsqueeze(1).clone(), last_h, last_c
        h, last_h, last_c = torch_loop(OP, torch._VF.lstm, x, (h0, c0), weights, cu_seqlens)
    return h, last_h, last_c


def _backward(
    dh: Tensor, dlast_h: Tensor, dlast_c: Tensor, h: Tensor, x: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor,
    weight_hh: Tensor, bias: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    # Gates and cells come back for all steps at once; only the adjoint of h needs the loop.
    with torch.autocast(x.device.type, enabled=False):
        previous_h = shifted(h, h0, cu_seqlens)
        gates = torch.addmm(bias, x.flatten(0, 1), weight_ih.mT) + previous_h.flatten(0, 1) @ weight_hh.mT
        i, f, g, o = gates.unflatten(0, x.shape[:2]).chunk(4, dim=-1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c, _ = diagonal_scan(f, i * g, initial_state=c0, cu_seqlens=cu_seqlens)
        tanh_c = c.tanh()
        from_c = torch.stack((g * i * (1 - i), shifted(c, c0, cu_seqlens) * f * (1 - f), i * (1 - g * g)), dim=2)
        from_h = tanh_c * o * (1 - o)
        into_c = o * (1 - tanh_c * tanh_c)
        steps = [dh, from_c, from_h, into_c, f]
        if cu_seqlens is not None:
            lengths = lengths_of(OP, cu_seqlens, x.shape[1]).to(x.device)
            longest = int(lengths.max())
            # Sequences are aligned at their ends; in the padding before them c passes through (f = 1).
            inside = torch.arange(longest, device=x.device) >= (longest - lengths).unsqueeze(1)
            steps = [aligned(step, inside, float(step is f)) for step in steps]
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


_lstm = recurrent_op(
    "lstm",
    OP,
    _forward,
    _backward,
    inputs="x h0 c0 weight_ih weight_hh bias",
    outputs="h last_h last_c",
    fakes=lambda given: [given["x"].new_empty(*given["x"].shape[:2], given["h0"].shape[1]), *same("h0", "c0")(given)],
    kept="h x h0 c0 weight_ih weight_hh bias",
)
