"""The orthogonal factor U V^T of matrices U S V^T: by iteration, or exactly by singular values.

    X_0 = G / |G|_F,   X_{k+1} = a X_k + (b A + c A^2) X_k with A = X_k X_k^T

Newton-Schulz repeats one triple (a, b, c) that lifts small singular values fast and ends within [0.68, 1.13] for those
above 0.01 of the norm (Jordan et al. 2024, "Muon"). Polar Express changes the triple at each step: the best quintic for
the interval that the steps before have left, from [0.001, 1] on (2505.16932, theorem 3.1 and algorithm 1). The triples
that AngularMuown's authors publish are such ones too, up to 1.3 % beside ours but for the fifth, which they repeat.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from seqmix._checks import is_whole

__all__ = ["METHODS", "PRECISIONS", "check_method", "orthogonalize", "polar_express"]

Triple = tuple[float, float, float]

NEWTON_SCHULZ: Triple = (3.4445, -4.7750, 2.0315)
# From 2606.23637's code; its matrices are divided by 1.01 of their norm as well.
PUBLISHED: tuple[Triple, ...] = (
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064836, -2.8930477353325887, 0.5252849256975651),
    (3.9263479922546556, -2.8547468034765293, 0.5318022422894989),
    (3.2982187133085143, -2.4245419810267062, 0.48632008358844075),
    (2.320007312889811, -1.6862169729967622, 0.42068027340235137),
)
METHODS = ("newton-schulz", "polar-express", "polar-express-published", "svd")
PRECISIONS = ("bfloat16", "float32", "float64")
_MARGIN = 1.01


def orthogonalize(
    matrix: Tensor, method: str = "newton-schulz", *, steps: int = 5, precision: str = "bfloat16", eps: float = 1e-7
) -> Tensor:
    """U V^T of a matrix (..., m, n), a new tensor in the iteration's type; zero for zero.

    Args:
        matrix: any floating type; never written to.
        method: `"newton-schulz"`, `"polar-express"`, `"polar-express-published"` or `"svd"`, which is exact.
        steps: of the iteration.
        precision: type of the iteration; double input stays double.
        eps: the least norm to divide by, so that noise around zero is not blown up.
    """
    x = matrix.to(matrix.dtype if matrix.dtype == torch.float64 else getattr(torch, precision))
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    if method == "svd":
        u, s, vh = torch.linalg.svd(x if x.dtype == torch.float64 else x.float(), full_matrices=False)
        # directions that the matrix does not have stay away
        held = s > s.amax(-1, keepdim=True) * s.size(-1) * torch.finfo(s.dtype).eps
        x = (u * (held & (s.amax(-1, keepdim=True) > eps)).unsqueeze(-2)) @ vh
        return x.mT if tall else x
    triples: Sequence[Triple] = [NEWTON_SCHULZ] * steps
    if method == "polar-express":
        triples = polar_express(steps)
    elif method == "polar-express-published":
        triples = (PUBLISHED + PUBLISHED[-1:] * steps)[:steps]
    norm = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / (norm * (1 if method == "newton-schulz" else _MARGIN)).clamp_min(eps)
    for a, b, c in triples:
        gram = x @ x.mT
        multiply = torch.addmm if x.dim() == 2 else torch.baddbmm
        x = multiply(x, multiply(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@cache
def polar_express(steps: int, low: float = 1e-3, cushion: float = 0.024) -> list[Triple]:
    """Triples that take [low, 1] towards 1, each the best odd quintic for what the one before has left.

    While the interval reaches below `cushion` of its upper end the quintic is the best one above that, rescaled: a
    steeper one would lose too much to cancellation in bfloat16.
    """
    triples, high = [], 1.0
    for _ in range(steps):
        triple = best_quintic(max(low, cushion * high), high)
        ends = [sum(t * x**power for t, power in zip(triple, (1, 3, 5), strict=True)) for x in (low, high)]
        scale = 2 / sum(ends)
        a, b, c = (t * scale for t in triple)
        low = ends[0] * scale
        high = 2 - low
        # rounding may lift a singular value above the interval, where quintics are steep: its end lies further out
        triples.append((a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5))
    return [*triples[:-1], (a, b, c)]


def best_quintic(low: float, high: float) -> Triple:
    """The a x + b x^3 + c x^5 nearest to 1 on [low, high] in the largest error, by Remez's exchange."""
    if high - low < 1e-6:  # the limit: Newton's own quintic
        return 1.875, -1.25, 0.375
    inner = [(3 * low + high) / 4, (low + 3 * high) / 4]
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    before = math.inf
    for _ in range(100):
        x = torch.tensor([low, *inner, high], dtype=torch.float64)
        system = torch.stack([x, x**3, x**5, signs], 1)
        a, b, c, error = torch.linalg.solve(system, torch.ones(4, dtype=torch.float64)).tolist()
        # the extrema inside are where a + 3 b x^2 + 5 c x^4 vanishes
        root = math.sqrt(9 * b * b - 20 * a * c)
        inner = [math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))]
        if abs(error - before) < 1e-15:
            break
        before = error
    return a, b, c


def check_method(owner: str, method: str, precision: str, steps: int) -> None:
    """`ValueError` for a method, precision or number of steps that `orthogonalize` does not know."""
    if method not in METHODS:
        raise ValueError(f"{owner}: method must be one of {', '.join(METHODS)}, got {method!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"{owner}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not is_whole(steps, 1, 99):
        raise ValueError(f"{owner}: steps must be a whole number from 1 to 99, got {steps!r}")
