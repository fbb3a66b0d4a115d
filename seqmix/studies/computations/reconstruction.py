"""How much of a sequence the state of a linear recurrence keeps (Orvieto et al. 2024, 2307.11888, section 4).

h_L = V u with V[j, t] = gamma_j lambda_j^(L-1-t), gamma_j = sqrt(1 - |lambda_j|^2); real and imaginary parts are told,
with noise of size s: a real spectrum has twice as many eigenvalues, for as many numbers. Inputs of variance 1 are
estimated with the least mean squared error: the covariance of what is left is (I + V^T V / s^2)^-1.
"""

import numpy as np

__all__ = ["eigenvalues", "run"]

SPECTRA = ("real", "real, both signs", "real ring", "disk", "ring", "ring near 1", "roots of unity")


def eigenvalues(spectrum: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n eigenvalues, uniform in area over what the name says; a ring has radii of .9 to .999, near 1 of .99 to 1."""
    if spectrum == "roots of unity":
        # gamma would be 0: just inside the circle.
        return 0.9999 * np.exp(2j * np.pi * np.arange(n) / n)
    low, high = {"real ring": (0.9, 0.999), "ring": (0.9, 0.999), "ring near 1": (0.99, 0.9999)}.get(
        spectrum, (0.0, 1.0)
    )
    radius = np.sqrt(rng.uniform(low**2, high**2, n))
    if spectrum.startswith("real"):
        return radius * (rng.choice([-1, 1], n) if "signs" in spectrum else 1)
    return radius * np.exp(2j * np.pi * rng.uniform(size=n))


def run(seed: int, spectrum: str, length: int, states: int | None = None, noise: float = 1e-3) -> dict[str, float]:
    """Mean squared error of a token, tokens with less than .05 of it, condition number of V; 2 L numbers in all."""
    if spectrum not in SPECTRA:
        raise ValueError(f"spectrum must be one of {', '.join(SPECTRA)}, got {spectrum!r}")
    numbers = 2 if spectrum.startswith("real") else 1
    poles = eigenvalues(spectrum, numbers * (states or length), np.random.default_rng(seed))
    powers = poles[:, None] ** np.arange(length - 1, -1, -1)
    v = np.sqrt(1 - np.abs(poles[:, None]) ** 2) * powers  # (N, L)
    v = np.concatenate([v.real, v.imag]) if np.iscomplexobj(poles) else v
    singular, right = np.linalg.svd(v, full_matrices=True)[1:]
    kept = np.zeros(length)
    kept[: len(singular)] = singular**2
    error = ((1 / (1 + kept / noise**2))[:, None] * right**2).sum(0)  # diagonal of the covariance, (L,)
    return {
        "error": error.mean(),
        "kept": float((error < 0.05).sum()),
        "condition": singular[0] / max(singular[-1], 1e-300),
    }
