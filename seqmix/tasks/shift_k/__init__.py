"""Shift-K: remember the input of K steps ago with S poles, in closed form (Francois, Orvieto & Bach 2025).

The target is y_n = u_{n-K} for white noise u. A linear recurrence with poles a_1 .. a_S and read-out weights b is the
filter c_k = sum_s b_s a_s^k, and its mean squared error over the variance of u is sum_k |c_k - [k = K]|^2: no data, no
sampling noise. Needs torch only.
"""

from seqmix.tasks.shift_k.families import FAMILIES, Family, get_family
from seqmix.tasks.shift_k.fit import Fit, fit_poles
from seqmix.tasks.shift_k.loss import (
    allpass_loss,
    lower_bound,
    normalised_gain,
    optimal_loss,
    optimal_weights,
    population_loss,
)

__all__ = [
    "FAMILIES",
    "Family",
    "Fit",
    "allpass_loss",
    "fit_poles",
    "get_family",
    "lower_bound",
    "normalised_gain",
    "optimal_loss",
    "optimal_weights",
    "population_loss",
]
