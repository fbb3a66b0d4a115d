"""Logistic regression with large steps that never settle (Meng et al. 2024, 2406.05033).

Gradient descent on l(w) = mean log(1 + exp(-x_i w)) in one dimension; steps are told in units of 1 / lambda, the
curvature at the minimum. `period` is that of the cycle at the end, 1 where it converges, 0 for none up to 64.
"""

import numpy as np

__all__ = ["run"]


def run(seed: int, points: list[float], step: float, start: float = -2.0, steps: int = 20_000) -> dict[str, float]:
    """Deterministic; the seed is not used."""
    x = np.asarray(points, dtype=np.float64)

    def gradient(w: float) -> float:
        return float((-x / (1 + np.exp(np.clip(x * w, -700, 700)))).mean())

    low, high = -50.0, 50.0
    for _ in range(100):  # the gradient rises with w
        middle = (low + high) / 2
        low, high = (low, middle) if gradient(middle) > 0 else (middle, high)
    best = (low + high) / 2
    share = 1 / (1 + np.exp(-x * best))
    curvature = float((x**2 * share * (1 - share)).mean())
    w = start
    for _ in range(steps):
        w -= step / curvature * gradient(w)
    orbit = [w]
    for _ in range(64):
        orbit.append(orbit[-1] - step / curvature * gradient(orbit[-1]))
    size = max(1.0, max(map(abs, orbit)))
    period = next((k for k in range(1, 65) if abs(orbit[k] - orbit[0]) < 1e-7 * size), 0)
    return {"period": float(period), "distance": abs(orbit[0] - best) * np.sqrt(curvature)}
