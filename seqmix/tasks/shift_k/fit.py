"""Fitting the poles of a family to a shift: gradient descent on the exact error, from many starts at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seqmix._checks import integers
from seqmix.tasks.shift_k.families import get_family
from seqmix.tasks.shift_k.loss import allpass_loss, lower_bound, normalised_gain

__all__ = ["Fit", "fit_poles"]


@dataclass(frozen=True)
class Fit:
    """The best poles found, and their exact error with the best read-out.

    Attributes:
        parameters: of the family, without the axis of starts.
        poles: complex128 (S,).
        loss, bound, gain: error, its lower bound, and the normalised gain.
        losses: of every start at the end, sorted.
    """

    mixer: str
    n_poles: int
    shift: int
    order: int
    parameters: Tensor
    poles: Tensor
    loss: float
    bound: float
    gain: float
    losses: tuple[float, ...]


def fit_poles(
    mixer: str,
    n_poles: int,
    shift: int,
    *,
    order: int = 4,
    starts: int = 8,
    steps: int = 1500,
    lr: float = 0.05,
    seed: int = 0,
) -> Fit:
    """Minimise the error over the poles that a mixer can have, with Adam and a cosine schedule, `starts` at a time.

    Args:
        mixer: `lru`, `h-lru` or `bd-lru`.
        n_poles: S.
        shift: K.
        order: m, of the recurrence of `h-lru` or of the blocks of `bd-lru`; must divide S. The LRU has pairs.
        starts: independent starts; the best is kept.
        steps, lr: of Adam.
        seed: of the starts.

    Raises:
        ValueError: an unknown mixer, sizes that are not positive, an order that does not divide S.

    Example:
        >>> from seqmix.tasks.shift_k import fit_poles
        >>> fit = fit_poles("lru", 2, 8, steps=50)
        >>> fit.bound <= fit.loss <= 1
        True
    """
    family = get_family(mixer)
    order = order if family.by_order else 2
    integers("shift-K", n_poles=n_poles, order=order, starts=starts, steps=steps)
    if n_poles % order:
        raise ValueError(
            f"shift-K: n_poles must be a multiple of the {order} poles of a part of {mixer}, got {n_poles}"
        )
    bound = lower_bound(n_poles, shift)
    generator = torch.Generator().manual_seed(seed)
    parameters = family.start(n_poles, shift, order, starts, generator).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, kept = torch.full((starts,), torch.inf, dtype=torch.float64), parameters.detach().clone()
    for _ in range(steps + 1):
        losses = allpass_loss(family.denominators(parameters), shift)
        with torch.no_grad():
            better = losses < best
            best[better], kept[better] = losses[better], parameters[better]
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        schedule.step()
    winner = kept[best.argmin()]
    loss = float(best.min())
    return Fit(
        mixer,
        n_poles,
        shift,
        order,
        winner,
        _roots(family.denominators(winner[None])[0]),
        loss,
        bound,
        normalised_gain(loss, n_poles, shift),
        tuple(sorted(best.tolist())),
    )


def _roots(denominators: Tensor) -> Tensor:
    # Poles are the roots of z^m p(1 / z).
    return torch.from_numpy(np.concatenate([np.roots(p).astype(np.complex128) for p in denominators.numpy()]))
