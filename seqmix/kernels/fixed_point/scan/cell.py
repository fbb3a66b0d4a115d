"""One token of the fixed-point RNN and its derivatives, for any leading axes.

    lambda = sigmoid(.), b = silu(.), Q = I - K from the pre-activations p_t + W s_{t-1}
    h_t = lambda h_{t-1} + (1 - lambda) (e + K (h_t - e))

with s = rms(h) or h and e = b v or b, where v are more numbers of p_t. That is
M h_t = lambda h_{t-1} + (1 - lambda) Q e with M = I - (1 - lambda) K.

Every gradient is written out, because the solvers run inside a custom op, where autograd does not.
"""

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from seqmix.kernels.fixed_point.kronecker import Kronecker
from seqmix.kernels.fixed_point.low_rank import Linear, LowRank, silu_grad

EPS = 0.0625  # of rms: a slope of 4 at zero, where 316 let gradients grow from zero token to zero token
PARTS = ("lambda", "b", "mixing")  # in the order of the pre-activations, v before the mixing
Mixing = LowRank | Kronecker


class Gates(NamedTuple):
    pre: Tensor  # (..., M)
    decay: Tensor  # lambda (..., N)
    write: Tensor  # 1 - lambda
    e: Tensor  # b v or b, (..., N)
    factors: Any  # of K, as `Mixing.factors` gives them


class Cell:
    """The equations above with N = `mixing.width` channels.

    Args:
        mixing: K.
        hidden: names of the parts that see s_{t-1}.
        gated: e = b v; without it e = b and there is no v.
        normed: s = rms(h); without it s = h.
    """

    def __init__(self, mixing: Mixing, hidden: tuple[str, ...], gated: bool, normed: bool) -> None:
        self.mixing, self.hidden, self.gated, self.normed = mixing, hidden, gated, normed
        n = mixing.width
        sizes = {"lambda": n, "b": n, "v": n * gated, "mixing": mixing.size}
        self.size = sum(sizes.values())  # M
        ends = accumulate(sizes.values())
        spans = {part: slice(end - sizes[part], end) for part, end in zip(sizes, ends, strict=True)}
        self.at_mixing = spans["mixing"].start
        self.spans = [spans[part] for part in PARTS if part in hidden]
        self.recurrent = sum(sizes[part] for part in hidden)  # rows of W

    def gates(self, p: Tensor, weight: Tensor, h_prev: Tensor) -> Gates:
        """The gates for p (..., M), W (recurrent, N) and h_{t-1} (..., N)."""
        return self.gates_of(self.preactivations(p, weight, h_prev))

    def gates_of(self, pre: Tensor) -> Gates:
        """The gates from all that makes them (..., M)."""
        n = self.mixing.width
        decay = pre[..., :n].sigmoid()
        # 1 - lambda would lose the small digits of a long memory.
        e = silu(pre[..., n : 2 * n])
        if self.gated:
            e = e * pre[..., 2 * n : 3 * n]
        return Gates(pre, decay, (-pre[..., :n]).sigmoid(), e, self._factors(pre))

    def preactivations(self, p: Tensor, weight: Tensor, h_prev: Tensor) -> Tensor:
        """p_t + W s_{t-1}, for the parts that see it."""
        if not self.spans:
            return p
        pre, more = p.clone(), self.seen(h_prev) @ weight.mT
        for span, part in zip(self.spans, self._split(more), strict=True):
            pre[..., span] += part
        return pre

    def _factors(self, pre: Tensor) -> Any:
        return self.mixing.factors(pre[..., self.at_mixing :])

    def seen(self, h: Tensor) -> Tensor:
        """s, what the gates of the next token see of h."""
        return rms(h) if self.normed else h

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split([span.stop - span.start for span in self.spans], -1)

    def solve(self, g: Gates, h_prev: Tensor) -> Tensor:
        """h_t, exactly."""
        # In h - e: M (h - e) = lambda (h_prev - e), which has no cancelling terms.
        return g.e + self.mixing.solve(g.factors, scaled(g.write), g.decay * (h_prev - g.e))

    def target(self, g: Gates, h: Tensor) -> Tensor:
        """e + K (h - e): what a sweep writes."""
        return g.e + self.mixing.apply(g.factors, h - g.e)

    def solve_transposed(self, g: Gates, cotangent: Tensor) -> Tensor:
        """v = M^-T of the cotangent of h_t."""
        return self.mixing.solve_transposed(g.factors, scaled(g.write), cotangent)

    def radius(self, g: Gates) -> Tensor:
        """The spectral radius of (I - Lambda)(I - Q), (...): a sweep contracts at a token where it is below one."""
        return self.mixing.radius(g.factors, scaled(g.write))

    def mixed_back(self, g: Gates, v: Tensor) -> Tensor:
        """K^T (1 - lambda) v: what a sweep of the adjoint adds within a token."""
        return self.mixing.apply_transposed(g.factors, g.write * v)

    def vjp(self, g: Gates, h_prev: Tensor, h: Tensor, v: Tensor) -> Tensor:
        """The gradient in p_t, (..., M), from v = M^-T of the cotangent of h_t."""
        n, f, w = self.mixing.width, g.factors, g.write * v
        ddecay = v * (h_prev - self.target(g, h))
        de = w - self.mixing.apply_transposed(f, w)
        dmixing = self.mixing.vjp(g.pre[..., self.at_mixing :], f, w, h - g.e)
        raw = g.pre[..., n : 2 * n]
        db, dv = (de * g.pre[..., 2 * n : 3 * n], [de * silu(raw)]) if self.gated else (de, [])
        return torch.cat((ddecay * g.decay * g.write, db * silu_grad(raw), *dv, dmixing), -1)

    def hidden_vjp(self, dpre: Tensor, weight: Tensor, h_prev: Tensor) -> Any:
        """The gradient that reaches h_{t-1} through the gates, or 0 where they do not see it."""
        if not self.spans:
            return 0
        ds = self.recurrent_rows(dpre) @ weight
        return rms_vjp(h_prev, ds) if self.normed else ds

    def recurrent_rows(self, dpre: Tensor) -> Tensor:
        """The columns of dpre that belong to the rows of W, (..., recurrent)."""
        return torch.cat([dpre[..., span] for span in self.spans], -1)


def scaled(d: Tensor) -> Linear:
    """diag(d) as a map of vectors (..., k, N)."""
    return lambda v: d.unsqueeze(-2) * v


def rms(h: Tensor) -> Tensor:
    """h over its root mean square."""
    return h * (h.square().mean(-1, keepdim=True) + EPS).rsqrt()


def rms_vjp(h: Tensor, ds: Tensor) -> Tensor:
    """The gradient in h from that of rms(h)."""
    inverse = (h.square().mean(-1, keepdim=True) + EPS).rsqrt()
    s = h * inverse
    return inverse * (ds - s * (s * ds).mean(-1, keepdim=True))
