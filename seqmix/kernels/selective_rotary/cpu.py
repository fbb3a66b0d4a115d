"""Numba kernels for the selective rotation: one pass over rows in order of time, vectorised over angles.

A work item is one sequence times one range of heads. The running angle lives in double precision in [-pi, pi]; what is
left of it after taking off quarter turns is small and exact, so that polynomials in the type of q do for cosine and
sine. Nothing is kept for the backward pass but the last angle: it walks back from there, subtracting increments.
Letters: L rows of all sequences, S sequences, H heads, K width, K/2 angles for each head.
"""

import math

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import jit, use_wide_vectors
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import channel_chunks, run

OP = "selective_rotary"

_TURN, _QUARTER = 2 * math.pi, math.pi / 2
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to an integer


def _sin_quarter(x):
    raise NotImplementedError("compiled code only")


def _cos_quarter(x):
    raise NotImplementedError("compiled code only")


@overload(_sin_quarter, inline="always")
def _sin_quarter_for(x):
    # Cephes' sinf and cosf on [-pi/4, pi/4], to one unit in the last place; Numba's own calls do not vectorise.
    if x == types.float32:

        def sin_float32(x):
            z = x * x
            p = np.float32(-1.9515295891e-4) * z + np.float32(8.3321608736e-3)
            return (p * z + np.float32(-1.6666654611e-1)) * z * x + x

        return sin_float32
    return lambda x: np.sin(x)


@overload(_cos_quarter, inline="always")
def _cos_quarter_for(x):
    if x == types.float32:

        def cos_float32(x):
            z = x * x
            p = np.float32(2.443315711809948e-5) * z + np.float32(-1.388731625493765e-3)
            p = (p * z + np.float32(4.166664568298827e-2)) * (z * z)
            return (p + np.float32(-0.5) * z) + np.float32(1.0)

        return cos_float32
    return lambda x: np.cos(x)


@jit()
def _advance(theta, omega, sign):
    """theta += sign omega, modulo one turn; all in double precision."""
    use_wide_vectors()
    for c in range(len(theta)):
        x = theta[c] + sign * np.float64(omega[c])
        turns = (x * (1 / _TURN) + _ROUND) - _ROUND
        theta[c] = x - turns * _TURN


@jit()
def _turn(theta, cos, sin):
    """cos theta and sin theta, in the type of the two that receive them."""
    use_wide_vectors()
    one, two = cos.dtype.type(1), cos.dtype.type(2)
    for c in range(len(theta)):
        quarters = (theta[c] * (1 / _QUARTER) + _ROUND) - _ROUND
        x, n = cos.dtype.type(theta[c] - quarters * _QUARTER), cos.dtype.type(quarters)
        # n in {-2, ..., 2} quarter turns: their cosine is 1 - |n|, their sine n (2 - |n|).
        c0, s0 = _cos_quarter(x), _sin_quarter(x)
        cn, sn = one - abs(n), n * (two - abs(n))
        cos[c] = c0 * cn - s0 * sn
        sin[c] = s0 * cn + c0 * sn


@jit()
def _rotate(x, cos, sin, y):
    """y = x turned by the angles, for some heads: x and y (h, K), cos and sin (h K/2,)."""
    use_wide_vectors()
    half = x.shape[1] // 2
    for h in range(len(x)):
        x_h, y_h, j = x[h], y[h], h * half
        for c in range(half):
            a, b = x_h[c], x_h[c + half]
            y_h[c] = a * cos[j + c] - b * sin[j + c]
            y_h[c + half] = a * sin[j + c] + b * cos[j + c]


@jit()
def _rotate_back(x, dy, cos, sin, dx, dtheta):
    """dx = dy turned back, and dtheta += dx1 x0 - dx0 x1."""
    use_wide_vectors()
    half = x.shape[1] // 2
    for h in range(len(x)):
        x_h, u_h, d_h, j = x[h], dy[h], dx[h], h * half
        for c in range(half):
            a = u_h[c] * cos[j + c] + u_h[c + half] * sin[j + c]
            b = u_h[c + half] * cos[j + c] - u_h[c] * sin[j + c]
            d_h[c] = a
            d_h[c + half] = b
            dtheta[j + c] += b * x_h[c] - a * x_h[c + half]


# In what follows an axis of H K/2 angles is flat, and c0 to c1 are those of the heads h0 to h1.
@jit()
def _forward(first, last, chunks, width, bounds, q, k, omega, initial, turned_q, turned_k, final, end_angle):
    heads, half = q.shape[1], q.shape[2] // 2
    theta = np.zeros(width * half, np.float64)
    angle = np.zeros((2, width * half), q.dtype)  # cos, sin
    for item in range(first, last):
        s = item // chunks
        h0 = (item % chunks) * width
        h1 = min(h0 + width, heads)
        c0, n = h0 * half, (h1 - h0) * half
        here, cos, sin = theta[:n], angle[0, :n], angle[1, :n]
        for c in range(n):
            here[c] = initial[s, c0 + c]
        for t in range(bounds[s], bounds[s + 1]):
            _advance(here, omega[t, c0 : c0 + n], 1.0)
            _turn(here, cos, sin)
            _rotate(q[t, h0:h1], cos, sin, turned_q[t, h0:h1])
            _rotate(k[t, h0:h1], cos, sin, turned_k[t, h0:h1])
        for c in range(n):
            final[s, c0 + c] = here[c]
            end_angle[s, c0 + c] = here[c]


@jit()
def _backward(
    first, last, chunks, width, bounds,
    dq_out, dk_out, dfinal, q, k, omega, end_angle, dq, dk, domega, dinitial,
):  # fmt: skip
    heads, half = q.shape[1], q.shape[2] // 2
    theta = np.zeros(width * half, np.float64)
    total = np.zeros(width * half, np.float64)  # the gradients of this and of every later angle, summed
    angle = np.zeros((3, width * half), q.dtype)  # cos, sin, and the gradient of this step's angle
    for item in range(first, last):
        s = item // chunks
        h0 = (item % chunks) * width
        h1 = min(h0 + width, heads)
        c0, n = h0 * half, (h1 - h0) * half
        here, summed = theta[:n], total[:n]
        cos, sin, part = angle[0, :n], angle[1, :n], angle[2, :n]
        for c in range(n):
            here[c] = end_angle[s, c0 + c]
            summed[c] = dfinal[s, c0 + c]
        for t in range(bounds[s + 1] - 1, bounds[s] - 1, -1):
            _turn(here, cos, sin)
            for c in range(n):
                part[c] = 0
            _rotate_back(q[t, h0:h1], dq_out[t, h0:h1], cos, sin, dq[t, h0:h1], part)
            _rotate_back(k[t, h0:h1], dk_out[t, h0:h1], cos, sin, dk[t, h0:h1], part)
            target = domega[t, c0 : c0 + n]
            for c in range(n):
                summed[c] += part[c]
                target[c] = summed[c]
            _advance(here, omega[t, c0 : c0 + n], -1.0)
        for c in range(n):
            dinitial[s, c0 + c] = summed[c]


def forward(
    q: Tensor, k: Tensor, increment: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q and k turned, the final angle (S, H, K/2), and the same in float64; all inputs of one type."""
    bounds = offsets(OP, q, cu_seqlens)
    inputs = (q, k, initial_state)
    turned_q, turned_k, final = (empty_like(t) for t in inputs)
    end_angle = torch.empty_like(final, dtype=torch.float64)
    chunks, width = channel_chunks(len(bounds) - 1, q.shape[2], multiple=1)
    run(
        _forward,
        (len(bounds) - 1) * chunks,
        8 * q.numel(),
        chunks,
        width,
        bounds,
        *(rows(t) for t in (q, k, increment.flatten(2))),
        array(initial_state.flatten(1)),
        turned_q.flatten(0, 1).numpy(),
        turned_k.flatten(0, 1).numpy(),
        final.flatten(1).numpy(),
        end_angle.flatten(1).numpy(),
    )
    return turned_q, turned_k, final, end_angle


def backward(
    dq_out: Tensor, dk_out: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, increment: Tensor, end_angle: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, the increments and the initial angle.

    q and k are turned back; an increment collects the gradients of its own and of every later angle.
    """
    bounds = offsets(OP, q, cu_seqlens)
    inputs = (q, k, increment, dfinal)
    dq, dk, domega, dinitial = (empty_like(t) for t in inputs)
    chunks, width = channel_chunks(len(bounds) - 1, q.shape[2], multiple=1)
    run(
        _backward,
        (len(bounds) - 1) * chunks,
        16 * q.numel(),
        chunks,
        width,
        bounds,
        rows(dq_out),
        rows(dk_out),
        array(dfinal.flatten(1)),
        *(rows(t) for t in (q, k, increment.flatten(2))),
        array(end_angle.flatten(1)),
        dq.flatten(0, 1).numpy(),
        dk.flatten(0, 1).numpy(),
        domega.flatten(2).flatten(0, 1).numpy(),
        dinitial.flatten(1).numpy(),
    )
    return dq, dk, domega, dinitial
