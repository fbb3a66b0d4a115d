"""Randomised signatures as untrained reservoirs (Compagnoni et al. 2022, 2201.00384).

Z += sum_i sigma(A_i Z + b_i) dX^i with A_i ~ N(0, 1/k), b_i ~ N(0, 1) and channels (t, X), a ridge read-out at every
time; beside it the truncated signature of the same path. The target is dY = -2 tanh(Y - .5) dt + (1 + .5 sin 3Y) dX.
"""

import numpy as np

__all__ = ["run", "signature"]


def run(seed: int, features: str, size: int, paths: int, length: int = 100, tests: int = 100) -> dict[str, float]:
    """Relative error (root mean square) on new paths; features `tanh`, `identity` of `size` states, or `signature` of
    depth `size`."""
    rng = np.random.default_rng(seed)
    count, dt = 2 * paths + tests, 1 / length
    dx = rng.standard_normal((count, length)) * np.sqrt(dt)
    y = np.full(count, 1.0)
    target = np.empty((count, length))
    for t in range(length):
        y = y - 2 * np.tanh(y - 0.5) * dt + (1 + 0.5 * np.sin(3 * y)) * dx[:, t]
        target[:, t] = y
    steps = np.stack([np.full_like(dx, dt), dx], -1)  # (count, T, 2)
    if features == "signature":
        inner = signature(steps, size)
    else:
        a = rng.standard_normal((2, size, size)) / np.sqrt(size)
        b = rng.standard_normal((2, size))
        z, inner = np.tile(rng.standard_normal(size), (count, 1)), np.empty((count, length, size))
        for t in range(length):
            u = np.einsum("ckj,pj->pck", a, z) + b
            grown = np.tanh(u) if features == "tanh" else u
            z = z + np.einsum("pck,pc->pk", grown, steps[:, t])
            inner[:, t] = z
    inner = np.concatenate([inner, np.ones((count, length, 1))], -1)
    parts = np.split(np.arange(count), [paths, 2 * paths])  # to fit, to choose the ridge, to test
    fitted = inner[parts[0]].reshape(-1, inner.shape[-1])
    gram, cross = fitted.T @ fitted, fitted.T @ target[parts[0]].ravel()
    errors = {}
    for ridge in 10.0 ** np.arange(-8, 3):
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), cross)
        wrong = [np.sqrt(np.mean((inner[part] @ weights - target[part]) ** 2)) for part in parts[1:]]
        errors[wrong[0]] = wrong[1] / target[parts[2]].std()
    return {"error": float(errors[min(errors)])}


def signature(steps: np.ndarray, depth: int) -> np.ndarray:
    """Signatures of paths up to every time, (paths, T, c + c^2 + ... + c^depth), of increments (paths, T, c).

    Chen's identity with the signature of a straight piece, exp of its increment.
    """
    count, length, channels = steps.shape
    levels = [np.zeros((count, channels**k)) for k in range(depth + 1)]
    levels[0][:] = 1
    found = []
    for t in range(length):
        powers = [np.ones((count, 1))]
        for k in range(1, depth + 1):
            powers.append(np.einsum("pi,pj->pij", powers[-1], steps[:, t]).reshape(count, -1) / k)
        levels = [
            sum(np.einsum("pi,pj->pij", levels[i], powers[k - i]).reshape(count, -1) for i in range(k + 1))
            for k in range(depth + 1)
        ]
        found.append(np.concatenate(levels[1:], -1))
    return np.stack(found, 1)
