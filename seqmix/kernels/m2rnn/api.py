"""`m2rnn`: the loop of M2RNN, a matrix state with a non-linear transition from the right."""

from functools import partial

from torch import Tensor

from seqmix.kernels._backend import choose_backend, preferred
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, with_borders
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.m2rnn import reference

__all__ = ["m2rnn"]

OP = "M2RNN"
WIDEST = 64  # keys and values of a head, in Triton kernels, whose registers hold the state, its gradient and W


def m2rnn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    f: Tensor,
    W: Tensor,
    state: Tensor,
    cu_seqlens: Tensor | None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) and the last state (S, H, K, V) of H_t = f H_{t-1} + (1 - f) tanh(H_{t-1} W + k v^T), in one type.

    Shapes: q, k (B, T, H, K), v (B, T, H, V), f (B, T, H), W (H, V, V), state (S, H, K, V). With `clip` every number of
    the gradient of each H_t is cut to [-clip, clip]. `NotImplementedError` for second derivatives and forward-mode AD,
    but under the reference.
    """
    backend = choose_backend(OP, __package__, None, q)
    if backend == "triton" and max(state.shape[2:]) > WIDEST:
        if preferred() == "triton":
            sizes = tuple(state.shape[2:])
            raise NotImplementedError(f"{OP}: Triton kernels take up to {WIDEST} keys and values, got {sizes}")
        backend = "reference"
    if backend == "reference":
        recurrence = partial(reference.m2rnn, W=W, clip=clip)
        return over_sequences(OP, recurrence, (q, k, v, f), state, cu_seqlens)
    o, final, _ = _m2rnn(q, k, v, f, W, state, cu_seqlens, float("inf") if clip is None else clip, backend)
    return o, final


# The last output holds states before every 32nd step, from where the backward pass computes the others again.
_m2rnn = recurrent_op_of_kernels(
    "m2rnn",
    __package__,
    owner=OP,
    inputs="q k v f W state",
    outputs="o final",
    extra="borders",
    fakes=with_borders(__package__, "v", state="state"),
    kept="q k v f W state borders",
    gradients="q k v f W state",
    options="float clip",
    in_place="state",
)
