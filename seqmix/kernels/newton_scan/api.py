"""`newton_scan`: any non-linear recurrence, solved for all tokens at once by Newton's method on linear scans.

The states are the root of h_t - f(h_{t-1}, x_t) = 0. From a guess h, with p_t = h_{t-1} and J_t = df/dh at p_t, a step
of Newton's method is a linear recurrence, and so is the adjoint of the root, which does not go through the iterations:

    h_t <- J_t h_{t-1} + f(p_t, x_t) - J_t p_t              `diagonal_scan`, `block_scan`
    s_t = g_t + J_{t+1}^T s_{t+1},    dL/dx_t = (df/dx_t)^T s_t        one scan in reverse, then f's own gradient

After i steps the first i states are exact; near the root the error is squared each time. Paper: DEER (Lim et al. 2024,
2309.12252) and, for cells whose Jacobian has small blocks, ParaRNN (2510.21450).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqmix._checks import positive
from seqmix.kernels import checks
from seqmix.kernels._backend import preferred
from seqmix.kernels._in_place import granting
from seqmix.kernels._loops import shifted
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.block_scan import block_scan
from seqmix.kernels.diagonal_scan import diagonal_scan
from seqmix.kernels.transforms import HOW, refuse_transforms

__all__ = ["NewtonScan", "newton_scan"]

OP = "newton_scan"
Step = Callable[[Tensor, Tensor], Tensor]


class NewtonScan(NamedTuple):
    """What `newton_scan` returns."""

    h: Tensor  # (B, T, D)
    final: Tensor  # (S, D)
    iterations: int  # linear scans that were solved
    residual: float  # the largest |f(h_{t-1}, x_t) - h_t| over the row's largest |h|, NaN where they diverged
    looped: bool  # whether h comes from the loop, because the residual stayed above the tolerance


def newton_scan(
    step: Step,
    x: Tensor,
    initial_state: Tensor,
    *,
    block_size: int = 1,
    quasi: bool = False,
    bound: float | None = None,
    tolerance: float | None = None,
    max_iterations: int = 16,
    cu_seqlens: Tensor | None = None,
) -> NewtonScan:
    """h_t = step(h_{t-1}, x_t) for all t, by Newton's method, or by a loop where that does not converge.

    Fast where the cell forgets (a negative largest Lyapunov exponent): a handful of iterations whatever T. A cell that
    keeps differences alive or makes them larger needs more with T, and a chaotic one as many as a loop. Gradients are
    those of the root, to x, the initial state, and whatever parameters `step` sees. The residual is read on the host
    once an iteration. Inside `seqmix.kernels.backend("reference")` it is a plain loop with derivatives of every kind.

    Args:
        step: from h (..., D) and x (..., E) to the next h (..., D), each row by itself; differentiable.
        x: input (B, T, E), float32 or float64.
        initial_state: h_0 (S, D) in the type of x; S is B, or the number of packed sequences.
        block_size: m, a divisor of D: channel i of the next state sees those channels of the state that share its
            block of m. 1 for a cell of single channels, D for one of all.
        quasi: iterate with the diagonal of the Jacobian alone, which is cheaper for large m and converges linearly; the
            gradient takes all of it.
        bound: iterates are cut to [-bound, bound], which must hold the solution; saves cells that overshoot.
        tolerance: largest residual, after which one more step squares what is left; 1e-5 in float32 and 1e-12 in
            float64 if None. States are off by the residual times what a cell makes of a disturbance: 1 / (1 - a) for
            one that keeps a share a of it.
        max_iterations: after so many the loop takes over.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.

    Returns:
        h (B, T, D), the final state (S, D), and `iterations`, `residual`, `looped`, which say what it took.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, a size below one, offsets that are not valid.
        NotImplementedError: second derivatives and forward-mode AD outside of the reference.

    Example:
        >>> import torch
        >>> from seqmix.kernels import newton_scan
        >>> x, weight = torch.randn(2, 1000, 3), torch.tensor([0.5, -0.8, 0.9], requires_grad=True)
        >>> solved = newton_scan(lambda h, x: torch.tanh(weight * h + x), x, torch.zeros(2, 3))
        >>> solved.looped, solved.iterations < 10, torch.autograd.grad(solved.h.sum(), weight)[0].shape
        (False, True, torch.Size([3]))
    """
    _check(x, initial_state, block_size, max_iterations, cu_seqlens)
    for name, value in (("bound", bound), ("tolerance", tolerance)):
        if value is not None and not value > 0:
            raise ValueError(f"{OP}: {name} must be positive or None, got {value!r}")

    def loop() -> tuple[Tensor, Tensor]:
        def recurrence(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            states = []
            for x_t in x.unbind(1):
                h = step(h, x_t)
                states.append(h)
            return torch.stack(states, 1), h

        return over_sequences(OP, recurrence, (x,), initial_state, cu_seqlens)

    if preferred() == "reference" or not len(x):
        return NewtonScan(*loop(), 0, 0.0, True)
    refuse_transforms(OP, x, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad(), granting(None):
            tolerance = tolerance or (1e-12 if x.dtype == torch.float64 else 1e-5)
            h, iterations, residual = _iterate(
                step, x, initial_state, block_size, quasi, bound, tolerance, max_iterations, cu_seqlens
            )
            looped = not residual <= tolerance
            if looped:
                h, _ = loop()
        before = shifted(h, initial_state, cu_seqlens).detach()
        once = step(before, x)  # carries the graph to x and to what step sees
        J = _linearised(step, before, x, block_size)[1] if torch.is_grad_enabled() else once
        h, final = _Root.apply(once, initial_state, J, h, cu_seqlens)
    return NewtonScan(h, final, iterations, residual, looped)


def _iterate(
    step: Step,
    x: Tensor,
    h0: Tensor,
    block_size: int,
    quasi: bool,
    bound: float | None,
    tolerance: float,
    max_iterations: int,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, int, float]:
    """The last iterate, how many there were, and its residual."""
    h = step(h0.new_zeros(*x.shape[:2], h0.shape[1]), x)
    for iterations in range(max_iterations + 1):
        before = shifted(h, h0, cu_seqlens)
        value, J = _linearised(step, before, x, block_size)
        residual = _residual(value, h)
        if not residual < torch.inf or iterations == max_iterations:
            break
        if quasi and block_size > 1:
            J = J.diagonal(dim1=-2, dim2=-1).flatten(2)
        after, _ = _scan(J, value - _times(J, before), h0, cu_seqlens)
        after = after if bound is None else after.clamp(-bound, bound)
        if residual <= tolerance:
            # The last step: what a small residual leaves of the error need not be small.
            last = _residual(step(shifted(after, h0, cu_seqlens), x), after)
            return (after, iterations + 1, last) if last <= tolerance else (h, iterations, residual)
        h = after
    return h, iterations, residual


def _residual(value: Tensor, h: Tensor) -> float:
    """In units of the largest state of each row of the batch, which may be small."""
    size = h.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(h.dtype).tiny)
    return float(((value - h).abs() / size).amax())


def _linearised(step: Step, before: Tensor, x: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """step (B, T, D) and its Jacobian in h, (B, T, D) or (B, T, N, m, m): a backward pass for each row of a block."""
    with torch.enable_grad():
        before = before.detach().requires_grad_()
        value = step(before, x.detach())
        rows = []
        for i in range(block_size):
            pick = torch.zeros_like(value).unflatten(-1, (-1, block_size))
            pick[..., i] = 1
            (row,) = torch.autograd.grad(
                value, before, pick.flatten(2), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(row.unflatten(-1, (-1, block_size)))
    J = torch.stack(rows, -2)
    return value.detach(), J.flatten(2) if block_size == 1 else J


def _times(J: Tensor, h: Tensor) -> Tensor:
    return J * h if J.ndim == 3 else (J @ h.unflatten(-1, J.shape[2:4]).unsqueeze(-1)).flatten(2)


def _scan(J: Tensor, x: Tensor, h0: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    if J.ndim == 3:
        return diagonal_scan(J, x, initial_state=h0, cu_seqlens=cu_seqlens)
    blocks = J.shape[2:4]
    h, final = block_scan(J, x.unflatten(-1, blocks), initial_state=h0.unflatten(-1, blocks), cu_seqlens=cu_seqlens)
    return h.flatten(2), final.flatten(1)


class _Root(torch.autograd.Function):
    """The root h and its last rows, whose adjoint is one scan in reverse."""

    @staticmethod
    def forward(ctx: Any, once: Tensor, h0: Tensor, J: Tensor, h: Tensor, cu_seqlens: Tensor | None) -> Any:
        ctx.save_for_backward(J)
        ctx.cu_seqlens = cu_seqlens
        if cu_seqlens is None:
            return h.clone(), h[:, -1].clone()
        ends = (cu_seqlens[1:].long() - 1).clamp_min(0)
        return h.clone(), torch.where((cu_seqlens.diff() > 0).unsqueeze(-1), h[0, ends], h0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (J,) = ctx.saved_tensors
        with torch.enable_grad():
            x, h0 = (torch.zeros_like(gradient, requires_grad=True) for gradient in gradients)
            found = torch.autograd.grad(_scan(J, x, h0, ctx.cu_seqlens), (x, h0), [g.detach() for g in gradients])
        return *(_Once.apply(g, *gradients) for g in found), None, None, None


class _Once(torch.autograd.Function):
    """A gradient that has none itself."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, *gradients: Tensor) -> Tensor:
        return found.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(f"{OP}: second derivatives need {HOW}")


def _check(x: Tensor, h0: Tensor, block_size: int, max_iterations: int, cu_seqlens: Tensor | None) -> None:
    for name, tensor, dims in (("x", x, "B T E"), ("initial_state", h0, "S D")):
        checks.check_tensor(OP, name, tensor, dims)
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{OP}: x must be float32 or float64, got {x.dtype}")
    if h0.dtype != x.dtype or h0.device != x.device:
        raise ValueError(f"{OP}: initial_state must be {x.dtype} on {x.device} like x, got {checks.describe(h0)}")
    checks.check_time(OP, x.shape[1])
    checks.check_cu_seqlens(OP, cu_seqlens, x.shape[0], x.device)
    if cu_seqlens is not None and checks.has_values(cu_seqlens):
        checks.check_offsets(OP, cu_seqlens, x.shape[1])
    sequences, channels = checks.n_sequences(x.shape[0], cu_seqlens), h0.shape[1]
    checks.check_shape(OP, "initial_state", h0, (sequences, channels), "a row for each sequence")
    positive(OP, "max_iterations", max_iterations)
    if channels % positive(OP, "block_size", block_size) or channels == 0:
        raise ValueError(f"{OP}: block_size must divide D = {channels}, got {block_size}")
