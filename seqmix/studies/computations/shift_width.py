"""How widely a filter of S poles smears the lag K (Francois et al. 2025, 2502.09287).

Poles are fitted to the shift (`seqmix.tasks.shift_k`); the filter with the best read-out is the projection of the unit
impulse at K on the span of their responses, found in an orthonormal basis. `width` is 1 / sum p^2 with p the share of
its energy at each lag, `ratio` that over K / S.
"""

import numpy as np

from seqmix.tasks.shift_k import fit_poles

__all__ = ["run"]


def run(seed: int, mixer: str, states: int, shift: int, starts: int = 4, steps: int = 800) -> dict[str, float]:
    """Also the `loss`, its lower `bound`, and how far it is `above`."""
    fit = fit_poles(mixer, states, shift, starts=starts, steps=steps, seed=seed)
    lags = np.arange(20 * shift)
    basis = _blaschke(np.asarray(fit.poles.tolist()), len(lags))  # (S, lags), orthonormal
    filtered = (basis[:, shift].conj() @ basis).real
    share = filtered**2 / (filtered**2).sum()
    width = 1 / (share**2).sum()
    found = {"width": float(width), "ratio": float(width * states / shift)}
    return found | {"loss": fit.loss, "bound": fit.bound, "above": fit.loss - fit.bound}


def _blaschke(poles: np.ndarray, count: int) -> np.ndarray:
    """Responses of Takenaka and Malmquist's basis: sqrt(1 - |p|^2) / (z - p) times the all-passes of the poles before.

    Near-equal poles, which break least squares on powers, do it no harm.
    """
    allpass = np.zeros(count, complex)
    allpass[0] = 1
    rows = []
    for pole in poles:
        response = np.empty(count, complex)
        carried = 0j
        for k in range(count):  # h_k = p h_{k-1} + u_k
            carried = pole * carried + allpass[k]
            response[k] = carried
        rows.append(np.sqrt(1 - abs(pole) ** 2) * response)
        # (z^-1 - conj(p)) / (1 - p z^-1)
        allpass = np.concatenate([[0], response[:-1]]) - np.conj(pole) * response
    return np.stack(rows)
