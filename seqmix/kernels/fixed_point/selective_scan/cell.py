"""One token of the fixed-point Mamba and its derivatives, for any leading axes.

    b_t = unit(p_b + W_b y_{t-1}),  c_t = unit(p_c + W_c y_{t-1}),  K_t from p_k + W_k y_{t-1}
    x_t = u_t + K_t (y_t - u_t)
    s_t = e^{dt_t A} s_{t-1} + dt_t x_t b_t^T,    o_t = s_t c_t + D x_t,    y_t = norm(o_t)

For given s_{t-1} the map y -> norm(o) has the derivative B_t K_t with B_t = norm'(o_t) diag(dt_t b_t.c_t + D), so
Newton steps and adjoints are solves with I - B K, of size r for a mixing of rank r.
Letters: D channels (d_inner), N states of each, R rows of W.
"""

from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix.kernels.checks import has_values
from seqmix.kernels.fixed_point.low_rank import Linear, solve_small
from seqmix.kernels.fixed_point.problem import Stop, capturing
from seqmix.kernels.fixed_point.scan.cell import Mixing

EPS = 1e-5
_IDLE = 4  # steps without a smaller residual after which the bracket is halved
_BLIND = 32  # steps of a root where nobody looks whether they are enough: they take some ten
PARTS = ("b", "c", "mixing")  # in the order of the pre-activations


class Gates(NamedTuple):
    pre: Tensor  # (..., M)
    b: Tensor  # (..., N), of unit length
    c: Tensor  # (..., N)
    factors: Any  # of K, as `Mixing.factors` gives them


class Normed(NamedTuple):
    unit: Tensor  # (o - mean) / deviation (..., D)
    inverse: Tensor  # 1 / deviation (..., 1)
    scale: Tensor  # weight and bias (2, D)

    @property
    def weight(self) -> Tensor:
        return self.scale[0]

    @property
    def y(self) -> Tensor:
        return self.scale[0] * self.unit + self.scale[1]

    def back(self, dy: Tensor) -> Tensor:
        """norm'(o)^T dy for dy (..., D)."""
        g = self.weight * dy
        return self.inverse * (g - g.mean(-1, keepdim=True) - self.unit * (self.unit * g).mean(-1, keepdim=True))

    def forward(self, do: Tensor) -> Tensor:
        """norm'(o) do."""
        g = do - do.mean(-1, keepdim=True) - self.unit * (self.unit * do).mean(-1, keepdim=True)
        return self.weight * self.inverse * g


def _can_look(x: Tensor) -> bool:
    """Whether to look at numbers costs nothing: on a GPU it waits, and cannot be part of a CUDA graph.

    Under `vmap` there is not one number to look at.
    """
    return not x.is_cuda and has_values(x)


def _first_pole(system: Tensor) -> Tensor:
    """The largest real eigenvalue, at least zero: the deviation at which y has its first pole, (...)."""
    system = torch.where(system.isfinite(), system, 0)
    if system.shape[-1] > 2:
        if capturing(system.device):
            raise NotImplementedError(
                "FixedPointMamba: a mixing of rank above 2 cannot be part of a CUDA graph: "
                "its tokens need eigenvalues, which PyTorch finds on the host"
            )
        values = torch.linalg.eigvals(system)
        return torch.where(values.imag.abs() <= 1e-7 * values.abs(), values.real, 0).amax(-1).clamp_min(0)
    if system.shape[-1] == 1:
        return system[..., 0, 0].clamp_min(0)
    # In closed form, for which a GPU need not be waited for.
    half = (system[..., 0, 0] - system[..., 1, 1]) / 2
    square = half.square() + system[..., 0, 1] * system[..., 1, 0]
    mean, root = (system[..., 0, 0] + system[..., 1, 1]) / 2, square.clamp_min(0).sqrt()
    product = system[..., 0, 0] * system[..., 1, 1] - system[..., 0, 1] * system[..., 1, 0]
    # The larger eigenvalue without a difference: the smaller one is known better where the mean is negative.
    top = torch.where(mean >= 0, mean + root, product / (mean - root))
    return torch.where(square >= -1e-14 * top.square(), top, 0).clamp_min(0)


def _centre(o: Tensor) -> Tensor:
    return o - o.mean(-1, keepdim=True)


def norm(o: Tensor, scale: Tensor) -> Normed:
    """LayerNorm with weight and bias (2, D)."""
    centred = _centre(o)
    inverse = (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return Normed(centred * inverse, inverse, scale)


class Cell:
    """The equations above; `hidden` names the parts that see y_{t-1}."""

    def __init__(self, mixing: Mixing, states: int, hidden: tuple[str, ...]) -> None:
        self.mixing, self.states, self.hidden = mixing, states, hidden
        sizes = {"b": states, "c": states, "mixing": mixing.size}
        self.size = sum(sizes.values())  # M
        ends = accumulate(sizes.values())
        spans = {part: slice(end - sizes[part], end) for part, end in zip(PARTS, ends, strict=True)}
        self.spans = [spans[part] for part in PARTS if part in hidden]
        self.recurrent = sum(sizes[part] for part in hidden)  # R

    @cached_property
    def where(self) -> NDArray[np.int64]:
        """The numbers (R,) of the rows of W among all M."""
        return np.array([m for span in self.spans for m in range(span.start, span.stop)], np.int64)

    def gates(self, p: Tensor, weight: Tensor, y_prev: Tensor) -> Gates:
        """The gates for p (..., M), W (R, D) and y_{t-1} (..., D)."""
        pre, n = p, self.states
        if self.spans:
            pre, more = p.clone(), y_prev @ weight.mT
            for span, part in zip(self.spans, more.split([s.stop - s.start for s in self.spans], -1), strict=True):
                pre[..., span] += part
        return Gates(pre, _unit(pre[..., :n]), _unit(pre[..., n : 2 * n]), self.mixing.factors(pre[..., 2 * n :]))

    def mixed(self, g: Gates, u: Tensor, y: Tensor) -> Tensor:
        """x = u + K (y - u)."""
        return u + self.mixing.apply(g.factors, y - u)

    def mixed_back(self, g: Gates, dx: Tensor) -> Tensor:
        """K^T dx."""
        return self.mixing.apply_transposed(g.factors, dx)

    def gain(self, g: Gates, dt: Tensor, D: Tensor) -> Tensor:
        """dt b.c + D: what a change of x_t does to o_t, channel by channel."""
        return dt * (g.b * g.c).sum(-1, keepdim=True) + D

    def solve(self, g: Gates, rest: Tensor, gain: Tensor, weight: Tensor, stop: Stop) -> tuple[Tensor, Tensor]:
        """y = norm(rest + gain K y), a norm without bias, and the steps (S,) that it took; rest, gain (S, D).

        For a given deviation 1 / tau of o the equation is linear, y(tau) = tau (I - tau B K)^-1 w P rest with P that
        subtracts the mean, so only the root of 1 / deviation(tau) - tau is looked for. It changes sign between zero and
        the first pole of y(tau); that root is the branch which grows out of K = 0, where sweeps from zero go as well.
        """
        u, s = self.mixing.as_product(g.factors)
        centred, columns = _centre(rest), _centre(gain.unsqueeze(-2) * u)
        width = rest.shape[-1]
        system = s @ (u * weight) @ columns.mT
        source = (s @ (u @ (weight * centred).unsqueeze(-1))).squeeze(-1)
        square = centred.square().mean(-1)
        cross = (columns @ centred.unsqueeze(-1)).squeeze(-1) / width
        gram = columns @ columns.mT / width
        eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)

        def mixed(tau: Tensor) -> Tensor:
            """omega with K y(tau) = U^T omega."""
            return tau[:, None] * solve_small(eye - tau[:, None, None] * system, source.unsqueeze(-1)).squeeze(-1)

        def excess(tau: Tensor) -> Tensor:
            omega = mixed(tau)
            rest_of = (omega * (2 * cross + (gram @ omega.unsqueeze(-1)).squeeze(-1))).sum(-1)
            return ((square + rest_of).clamp_min(0) + EPS).rsqrt() - tau

        low, high = torch.zeros_like(square), 1 / _first_pole(system).clamp_min(0.5 * EPS**0.5)
        f_low, f_high = excess(low), -high  # at a pole the deviation is infinite
        best, least, side = low, f_low, torch.zeros_like(low)
        steps, idle = (torch.zeros_like(low, dtype=torch.long) for _ in range(2))
        watched, narrow = _can_look(rest), torch.finfo(rest.dtype).eps

        def unsettled() -> Tensor:
            return (least > stop.tolerance * best) & (high - low > narrow * high)

        for _ in range(stop.cap or 1000 if watched else min(stop.cap or _BLIND, _BLIND)):
            # Regula falsi with the Illinois rule: the value at an end that stays twice counts half. Where that does not
            # get nearer, beside a pole, halving does, until the bracket is as narrow as a rounding error.
            share = torch.where(idle < _IDLE, f_low / (f_low - f_high), 0.5)
            tau = low + (high - low) * share
            f = excess(tau)
            better = f.abs() < least
            busy = unsettled()
            best, least = torch.where(better, tau, best), torch.where(better, f.abs(), least)
            steps, idle = steps + busy, torch.where(better, 0, idle + 1)
            if watched and not bool(unsettled().any()):
                break
            right = f < 0
            f_low, f_high = (
                torch.where(right, torch.where(side > 0, 0.5 * f_low, f_low), f),
                torch.where(right, f, torch.where(side < 0, 0.5 * f_high, f_high)),
            )
            low, high = torch.where(right, low, tau), torch.where(right, tau, high)
            side = torch.where(right, 1.0, -1.0).to(f.dtype)
        tau = best
        y = tau[:, None] * weight * (centred + (mixed(tau).unsqueeze(-2) @ columns).squeeze(-2))
        return y, steps

    def beyond_pole(self, g: Gates, normed: Normed, gain: Tensor) -> Tensor:
        """Where o has a deviation below the pole, so that y is not on the branch that `solve` takes (...)."""
        u, s = self.mixing.as_product(g.factors)
        system = s @ (u * normed.weight) @ _centre(gain.unsqueeze(-2) * u).mT
        return _first_pole(system) * normed.inverse.squeeze(-1) >= 1

    def adjoint(self, g: Gates, normed: Normed, gain: Tensor, cotangent: Tensor) -> Tensor:
        """(I - K^T B^T)^-1 cotangent."""
        spread = _spread(normed)
        back: Linear = lambda v: gain.unsqueeze(-2) * spread.back(v)  # noqa: E731
        return self.mixing.solve_transposed(g.factors, back, cotangent)

    def radius(self, g: Gates, normed: Normed, gain: Tensor) -> Tensor:
        """The spectral radius of B K (...)."""
        return self.mixing.radius(g.factors, slope_of(normed, gain))

    def vjp(self, g: Gates, db: Tensor, dc: Tensor, dx: Tensor, difference: Tensor) -> Tensor:
        """The gradient in p_t (..., M); `difference` is y_t - u_t."""
        n = self.states
        dmixing = self.mixing.vjp(g.pre[..., 2 * n :], g.factors, dx, difference)
        return torch.cat((_unit_vjp(g.pre[..., :n], db), _unit_vjp(g.pre[..., n : 2 * n], dc), dmixing), -1)

    def recurrent_rows(self, dpre: Tensor) -> Tensor:
        """The columns of dpre that belong to the rows of W, (..., R)."""
        return torch.cat([dpre[..., span] for span in self.spans], -1)


def _spread(normed: Normed) -> Normed:
    """`normed` for several vectors at once, (..., k, D)."""
    return Normed(normed.unit.unsqueeze(-2), normed.inverse.unsqueeze(-2), normed.scale)


def slope_of(normed: Normed, gain: Tensor) -> Linear:
    """B = norm'(o) diag(gain), for vectors (..., k, D)."""
    spread = _spread(normed)
    return lambda v: spread.forward(gain.unsqueeze(-2) * v)


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()


def _unit_vjp(x: Tensor, dunit: Tensor) -> Tensor:
    inverse = (x.square().sum(-1, keepdim=True) + EPS).rsqrt()
    unit = x * inverse
    return inverse * (dunit - unit * (unit * dunit).sum(-1, keepdim=True))
