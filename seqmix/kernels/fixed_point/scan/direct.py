"""The fixed-point RNN without hidden dependence: a linear recurrence, solved without iterating.

Woodbury turns every token into x_t = (diag(a_t) + P_t^T V_t) x_{t-1} + f_t with r rows in P and V. In a chunk of C
tokens the C r numbers V_t x_{t-1} solve one triangular system (the UT transform of delta rules, with a decay for every
channel), so chunks run in parallel and time is walked chunk by chunk:

    omega = (I - strict(V D P^T))^-1 (V D (f, x_in)),        D[t, s] = a_{s+1} ... a_t
    x_out = D[C, 0] x_in + sum_s D[C, s] (f_s + P_s^T omega_s)

D is built by multiplication only: no quotient of products, which would lose all digits where a decay is small.
A Kronecker mixing has no low rank and takes the dense recurrence A_t = M_t^-1 Lambda_t.
"""

import torch
from torch import Tensor

from seqmix.kernels import block_scan, diagonal_scan
from seqmix.kernels.fixed_point.kronecker import Kronecker
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.solvers import Adjoint, Forward

CHUNK = 16


def forward(problem: Forward) -> Tensor:
    """h (L, N), exactly."""
    g, mixing = problem.gates(problem.p), problem.cell.mixing
    if isinstance(mixing, Kronecker):
        inverse = _inverse(mixing.dense(g.factors), g.write)
        source = g.e - (inverse @ (g.decay * g.e).unsqueeze(-1)).squeeze(-1)
        return _dense_scan(inverse * g.decay.unsqueeze(-2), source, problem.h0, problem.rows)
    u = g.factors[0]
    left = u * g.write.unsqueeze(-2)
    right = mixing.gain(g.factors, left @ u.mT) @ u * g.decay.unsqueeze(-2)
    source = g.write * g.e - _twice(left, right, g.e)
    return low_rank_scan(g.decay, source, left, right, problem.h0, problem.rows)


def adjoint(problem: Adjoint) -> Tensor:
    """v (L, N), exactly: q_t = g_t + lambda_{t+1} M_{t+1}^-T q_{t+1} backwards, and v = M^-T q."""
    g, mixing, rows = problem.gates, problem.cell.mixing, problem.rows
    backward = Rows((rows.bounds[-1] - rows.bounds).flip(0))
    zeros = torch.zeros_like(problem.forward.h0)

    def reverse(x: Tensor) -> Tensor:
        return rows.following(x).flip(0)

    if isinstance(mixing, Kronecker):
        inverse = _inverse(mixing.dense(g.factors), g.write).mT
        q = _dense_scan(reverse(g.decay.unsqueeze(-1) * inverse), problem.cotangent.flip(0), zeros, backward).flip(0)
        return (inverse @ q.unsqueeze(-1)).squeeze(-1)
    u = g.factors[0]
    right = mixing.gain(g.factors, (u * g.write.unsqueeze(-2)) @ u.mT).mT @ u * g.write.unsqueeze(-2)
    left = u * g.decay.unsqueeze(-2)
    q = low_rank_scan(reverse(g.decay), problem.cotangent.flip(0), reverse(left), reverse(right), zeros, backward)
    q = q.flip(0)
    return q + _twice(u, right, q)


def low_rank_scan(a: Tensor, f: Tensor, left: Tensor, right: Tensor, initial: Tensor, rows: Rows) -> Tensor:
    """x_t = a_t x_{t-1} + left_t^T (right_t x_{t-1}) + f_t.

    Shapes: a, f (L, N), left and right (L, r, N), initial (S, N); returns x (L, N).
    """
    rank, width = left.shape[1:]
    chunks = -(-rows.lengths // CHUNK)
    first = chunks.cumsum(0) - chunks
    within = torch.arange(rows.total, device=a.device) - rows.bounds[rows.sequence]
    slot = first[rows.sequence] * CHUNK + within
    total = int(chunks.sum())

    def cut(x: Tensor, padding: float = 0) -> Tensor:
        padded = x.new_full((total * CHUNK, *x.shape[1:]), padding)
        padded[slot] = x
        return padded.unflatten(0, (total, CHUNK))

    decay = cut(a, 1)
    source, left_c, right_c = cut(f), cut(left), cut(right)
    # upto[:, s] = D[t, s] for the t of the loop; s = 0 stands for the state before the chunk.
    upto = a.new_zeros(total, CHUNK + 1, width)
    upto[:, 0] = 1
    local = a.new_zeros(total, width)
    system = torch.eye(CHUNK * rank, dtype=a.dtype, device=a.device).repeat(total, 1, 1)
    known = a.new_zeros(total, CHUNK * rank, width + 1)
    for t in range(CHUNK):
        span, right_t = slice(t * rank, (t + 1) * rank), right_c[:, t]
        known[:, span, :width] = right_t * upto[:, :1]
        known[:, span, width] = (right_t @ local.unsqueeze(-1)).squeeze(-1)
        if t:
            seen = (upto[:, 1 : t + 1].unsqueeze(2) * left_c[:, :t]).flatten(1, 2)
            system[:, span, : t * rank] = -right_t @ seen.mT
        upto[:, : t + 1] *= decay[:, t, None]
        upto[:, t + 1] = 1
        local = decay[:, t] * local + source[:, t]
    omega = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    out = (upto[:, 1:].unsqueeze(2) * left_c).flatten(1, 2).mT  # x_out = out omega + ...

    state, entering = initial.clone(), a.new_empty(total, width)
    for alive, chunk in Rows(torch.cat((first.new_zeros(1), chunks.cumsum(0)))).walk():
        x = state[alive]
        entering[chunk] = x
        inner = (omega[chunk, :, :width] @ x.unsqueeze(-1)).squeeze(-1) + omega[chunk, :, width]
        state[alive] = upto[chunk, 0] * x + local[chunk] + (out[chunk] @ inner.unsqueeze(-1)).squeeze(-1)
    inner = (omega[..., :width] @ entering.unsqueeze(-1)).squeeze(-1) + omega[..., width]
    written = (inner.view(total * CHUNK, 1, rank)[slot] @ left).squeeze(1)
    x, _ = diagonal_scan(a.unsqueeze(0), (f + written).unsqueeze(0), initial_state=initial, cu_seqlens=rows.cu_seqlens)
    return x.squeeze(0)


def _twice(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    return (left.mT @ (right @ x.unsqueeze(-1))).squeeze(-1)


def _inverse(k: Tensor, scale: Tensor) -> Tensor:
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    return torch.linalg.inv_ex(eye - scale.unsqueeze(-1) * k)[0]


def _dense_scan(a: Tensor, f: Tensor, initial: Tensor, rows: Rows) -> Tensor:
    x, _ = block_scan(
        a[None, :, None], f[None, :, None], initial_state=initial.unsqueeze(1), cu_seqlens=rows.cu_seqlens
    )
    return x[0, :, 0]
