"""The loop of the GRU over time: torch's own in the forward pass, ours in the backward pass, and a plain one."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from seqmix.kernels._backend import preferred
from seqmix.kernels._invariant import is_batch_invariant
from seqmix.kernels._loops import aligned, lengths_of, shifted, torch_loop
from seqmix.kernels._recurrent_op import recurrent_op, same
from seqmix.kernels._sequences import over_sequences

__all__ = ["gru"]

OP = "GRU"


def gru(
    x: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    bias_n: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) and the last h (S, N) of x (B, T, D), all in one type; gates in the order r, z, n.

    `bias` (3 N) is the input's, `bias_n` (N) is added to what r multiplies. `NotImplementedError` for second
    derivatives and forward-mode AD, but under the reference.
    """
    # torch's loop multiplies all sequences at once.
    if preferred() != "reference" and not is_batch_invariant():
        return _gru(x, h0, weight_ih, weight_hh, bias, bias_n, cu_seqlens)

    def recurrence(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for x_t in (x @ weight_ih.mT + bias).unbind(1):
            (r, z, n), (u_r, u_z, u) = x_t.chunk(3, -1), (h @ weight_hh.mT).chunk(3, -1)
            z = (z + u_z).sigmoid()
            h = (1 - z) * (n + (r + u_r).sigmoid() * (u + bias_n)).tanh() + z * h
            rows.append(h)
        return torch.stack(rows, 1), h

    return over_sequences(OP, recurrence, (x,), h0, cu_seqlens)


# As for the LSTM, the whole loop is one op to the compiler.
def _forward(
    x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, bias_n: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    weights = [weight_ih, weight_hh, bias, pad(bias_n, (2 * len(bias_n), 0))]
    with torch.autocast(x.device.type, enabled=False):
        h, last = torch_loop(OP, torch._VF.gru, x, (h0,), weights, cu_seqlens)
    return h, last


def _backward(
    dh: Tensor, dlast: Tensor, h: Tensor, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor,
    bias_n: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    # Gates come back for all steps at once; only the adjoint of h needs the loop.
    with torch.autocast(x.device.type, enabled=False):
        previous, units = shifted(h, h0, cu_seqlens), h0.shape[1]
        from_x = torch.addmm(bias, x.flatten(0, 1), weight_ih.mT).unflatten(0, x.shape[:2])
        from_h = previous @ weight_hh.mT
        u = from_h[..., 2 * units :] + bias_n
        r, z = (from_x + from_h)[..., : 2 * units].sigmoid().chunk(2, -1)
        n = (from_x[..., 2 * units :] + r * u).tanh()
        into_n = (1 - z) * (1 - n * n)
        # What one unit of the adjoint of h_t is to r, z and r u + ..., and to the sums that W_hh makes.
        factors = torch.stack((into_n * u * r * (1 - r), (previous - n) * z * (1 - z), into_n * r), dim=2)
        steps = [dh, factors, z]
        if cu_seqlens is not None:
            lengths = lengths_of(OP, cu_seqlens, x.shape[1]).to(x.device)
            longest = int(lengths.max())
            # Sequences are aligned at their ends; the padding before them hands h through (z = 1).
            inside = torch.arange(longest, device=x.device) >= (longest - lengths).unsqueeze(1)
            steps = [aligned(step, inside, float(step is z)) for step in steps]
        adjoint, adjoints = dlast, []
        for dh_t, factor_t, z_t in zip(*(reversed(s.unbind(1)) for s in steps), strict=True):
            adjoint = adjoint + dh_t
            adjoints.append(adjoint)
            adjoint = torch.addmm(adjoint * z_t, (adjoint.unsqueeze(1) * factor_t).flatten(1), weight_hh)
        total = torch.stack(adjoints[::-1], dim=1)
        if cu_seqlens is not None:
            total = total[inside].unsqueeze(0)
        dhidden = (total.unsqueeze(2) * factors).flatten(2)  # (B, T, 3 N), of what W_hh makes
        dinput = torch.cat((dhidden[..., : 2 * units], total * into_n), -1)
        rows, hidden = dinput.flatten(0, 1), dhidden.flatten(0, 1)
        dweights = rows.mT @ x.flatten(0, 1), hidden.mT @ previous.flatten(0, 1)
        return dinput @ weight_ih, adjoint.clone(), *dweights, rows.sum(0), hidden[:, 2 * units :].sum(0)


_gru = recurrent_op(
    "gru",
    OP,
    _forward,
    _backward,
    inputs="x h0 weight_ih weight_hh bias bias_n",
    outputs="h last",
    fakes=lambda given: [given["x"].new_empty(*given["x"].shape[:2], given["h0"].shape[1]), *same("h0")(given)],
    kept="h x h0 weight_ih weight_hh bias bias_n",
)
