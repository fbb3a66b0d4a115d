"""Linear read-outs: weights that make the right answer the largest at every point."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadOut", "read_out"]

Array = NDArray[np.float64]
_ROUNDS = 4000


class ReadOut(NamedTuple):
    """logits = weights (A, k) features (k,) + constants (A,); `margin` is the smallest lead of a right answer."""

    weights: Array
    constants: Array
    margin: float


def read_out(features: Array, answers: NDArray[np.int64], n_answers: int) -> ReadOut | None:
    """A read-out of features (P, k) that says answers (P,) in [0, A), or None where none was found.

    Where the indicators of answers are linear in the features, that is the read-out; else the nearest mean, if that is
    right, or what a perceptron finds.
    Answers that no point has get a constant of minus infinity.
    """
    points = len(features)
    whole = np.concatenate([features, np.ones((points, 1))], 1)
    present = np.unique(answers)
    wanted = (answers[:, None] == np.arange(n_answers)).astype(np.float64)
    solution, *_ = np.linalg.lstsq(whole, wanted, rcond=None)
    if np.abs(whole @ solution - wanted).max() > 1e-9:
        solution = np.zeros_like(solution)
        means = np.array([features[answers == answer].mean(0) for answer in present])
        solution[:-1, present], solution[-1, present] = means.T, -(means**2).sum(1) / 2
        if not _right(whole, solution, answers, present):
            found = _perceptron(whole, answers, present, n_answers) if _distinct(features, answers) else None
            if found is None:
                return None
            solution = found
    solution[-1, np.setdiff1d(np.arange(n_answers), present)] = -np.inf
    logits = whole[:, :-1] @ solution[:-1] + solution[-1]
    right = logits[np.arange(points), answers]
    logits[np.arange(points), answers] = -np.inf
    margin = float((right - logits.max(1)).min())
    return ReadOut(solution[:-1].T, solution[-1], margin) if margin > 1e-9 else None


def _right(whole: Array, solution: Array, answers: NDArray[np.int64], present: NDArray[np.int64]) -> bool:
    logits = (whole @ solution)[:, present]
    right = np.take_along_axis(logits, np.searchsorted(present, answers)[:, None], 1)
    return bool(((logits >= right - 1e-9).sum(1) == 1).all())


def _distinct(features: Array, answers: NDArray[np.int64]) -> bool:
    """Whether points with different answers have different features."""
    which = np.unique(features, axis=0, return_inverse=True)[1].ravel()
    pairs = np.unique(np.column_stack([which, answers]), axis=0)
    return len(pairs) == which.max() + 1


def _perceptron(whole: Array, answers: NDArray[np.int64], present: NDArray[np.int64], n: int) -> Array | None:
    """Weights (k + 1, A) of a multi-class perceptron with a margin, or None after many rounds."""
    weights, rows = np.zeros((whole.shape[1], n)), np.arange(len(whole))
    absent = np.setdiff1d(np.arange(n), present)
    best: tuple[float, Array] | None = None
    for _ in range(_ROUNDS):
        logits = whole @ weights
        logits[:, absent] = -np.inf
        right = logits[rows, answers]
        logits[rows, answers] = -np.inf
        rival = logits.argmax(1)
        lead = (right - logits[rows, rival]) / max(1.0, float(np.abs(weights).max()))
        if lead.min() > 0 and (best is None or lead.min() > best[0]):
            best = (float(lead.min()), weights / max(1.0, float(np.abs(weights).max())))
        if lead.min() > 0.2:
            break
        wrong = np.flatnonzero(lead <= 0.2)
        np.add.at(weights.T, answers[wrong], whole[wrong])
        np.subtract.at(weights.T, rival[wrong], whole[wrong])
    return None if best is None else best[1]
