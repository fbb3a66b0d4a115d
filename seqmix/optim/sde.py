"""Stochastic differential equations of optimizers: what a method does with noisy gradients when its rate is small.

Gradients are g(x) + s Z with Z ~ N(0, I). A step of rate eta takes the time eta; the discrete method and its equation
then agree in expectations up to O(eta) (weak order 1) on a fixed time. Adam is without its bias correction.

    SGD       dX = -g dt + sqrt(eta) s dW                                                   Li et al. 2017
    SignSGD   dX = -erf(g / (sqrt(2) s)) dt + sqrt(eta) sqrt(1 - erf^2) dW                  2411.15958
    RMSpropW  dX = -(g dt + sqrt(eta) s dW) / sqrt(V) - gamma X dt,  dV = rho (g^2 + s^2 - V) dt    beta = 1 - eta rho
    Adam      dM = rho1 (g - M) dt + sqrt(eta) rho1 s dW,  dX = -M / sqrt(V) dt,  dV as above
    USAM      dX = -(g + r H g) dt + sqrt(eta) (I + r H) s dW                               2301.08203, s constant
    SGDA      dZ = -F(Z) dt + sqrt(eta) s dW                                                2402.12508
    SEG       dZ = -(F - r JF F)(Z) dt + sqrt(eta) s (I - r JF) dW                          one batch for both halves

On a quadratic g(x) = H x; the minimax game is x y, F(x, y) = (y, -x), J its Jacobian.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["METHODS", "Quadratic", "discrete", "euler_maruyama"]

State = dict[str, Tensor]
GAME = ("sgda", "seg")
METHODS = ("sgd", "signsgd", "rmsprop", "rmspropw", "adam", "usam", *GAME)


@dataclass(frozen=True)
class Quadratic:
    """f(x) = x^T H x / 2 with a diagonal H, noise of size s in its gradients, and the constants of methods.

    Attributes:
        hessian: diagonal of H, (d,).
        noise: s.
        rho, rho1: 1 - beta2 and 1 - beta1, over the rate.
        decay: gamma, decoupled.
        radius: r, of USAM and of the first half of SEG.
    """

    hessian: tuple[float, ...] = (2.0, 1.0)
    noise: float = 1.0
    rho: float = 1.0
    rho1: float = 4.0
    decay: float = 0.5
    radius: float = 0.2

    def gradient(self, x: Tensor) -> Tensor:
        """H x."""
        return x * x.new_tensor(self.hessian)

    def value(self, x: Tensor) -> Tensor:
        """f, (paths,)."""
        return (x * self.gradient(x)).sum(-1) / 2


def discrete(method: str, problem: Quadratic, x: Tensor, noises: Tensor, lr: float) -> Tensor:
    """The method itself: x (paths, d) after a step for each of `noises` (steps, paths, d), of variance 1.

    Raises:
        ValueError: a method that is none of `METHODS`.

    Example:
        >>> x, z = torch.ones(1, 2, dtype=torch.float64), torch.zeros(3, 1, 2)
        >>> discrete("sgd", Quadratic((1.0, 0.5)), x, z, 0.1).round(decimals=6).tolist()
        [[0.729, 0.857375]]
    """
    state, step = _start(method, problem, x), _STEPS[method]
    for z in noises:
        step(problem, state, z, lr)
    return state["x"]


def euler_maruyama(method: str, problem: Quadratic, x: Tensor, noises: Tensor, lr: float, dt: float) -> Tensor:
    """Its equation, with steps of `dt` and the increments sqrt(dt) `noises` of W.

    Raises:
        ValueError: a method that is none of `METHODS`.
    """
    state, drift = _start(method, problem, x), _EQUATIONS[method]
    for z in noises:
        drift(problem, state, math.sqrt(dt) * z, lr, dt)
    return state["x"]


def _start(method: str, problem: Quadratic, x: Tensor) -> State:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    g = problem.gradient(x)
    return {"x": x.clone(), "v": g**2 + problem.noise**2, "m": g.clone()}


def _field(x: Tensor) -> Tensor:
    # F of the game x y: the first descends, the second ascends
    return torch.stack([x[..., 1], -x[..., 0]], -1)


def _sgd(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    s["x"] -= lr * (q.gradient(s["x"]) + q.noise * z)


def _signsgd(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    s["x"] -= lr * (q.gradient(s["x"]) + q.noise * z).sign()


def _rmspropw(q: Quadratic, s: State, z: Tensor, lr: float, decay: float | None = None) -> None:
    g = q.gradient(s["x"]) + q.noise * z
    s["v"] += lr * q.rho * (g**2 - s["v"])
    s["x"] -= lr * (g / s["v"].sqrt() + (q.decay if decay is None else decay) * s["x"])


def _rmsprop(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    _rmspropw(q, s, z, lr, 0.0)


def _adam(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    g = q.gradient(s["x"]) + q.noise * z
    s["m"] += lr * q.rho1 * (g - s["m"])
    s["v"] += lr * q.rho * (g**2 - s["v"])
    s["x"] -= lr * s["m"] / s["v"].sqrt()


def _usam(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    g = q.gradient(s["x"]) + q.noise * z
    s["x"] -= lr * (q.gradient(s["x"] + q.radius * g) + q.noise * z)  # the same batch twice


def _sgda(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    s["x"] -= lr * (_field(s["x"]) + q.noise * z)


def _seg(q: Quadratic, s: State, z: Tensor, lr: float) -> None:
    half = s["x"] - q.radius * (_field(s["x"]) + q.noise * z)
    s["x"] -= lr * (_field(half) + q.noise * z)  # the same batch twice


def _sgd_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    s["x"] -= q.gradient(s["x"]) * dt + math.sqrt(lr) * q.noise * dw


def _signsgd_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    drift = torch.erf(q.gradient(s["x"]) / (math.sqrt(2) * q.noise))
    s["x"] -= drift * dt + math.sqrt(lr) * (1 - drift**2).sqrt() * dw


def _rmspropw_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float, decay: float | None = None) -> None:
    g = q.gradient(s["x"])
    decayed = (q.decay if decay is None else decay) * s["x"]
    s["x"] = s["x"] - (g * dt + math.sqrt(lr) * q.noise * dw) / s["v"].sqrt() - decayed * dt
    s["v"] += q.rho * (g**2 + q.noise**2 - s["v"]) * dt


def _rmsprop_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    _rmspropw_equation(q, s, dw, lr, dt, 0.0)


def _adam_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    g = q.gradient(s["x"])
    s["x"] = s["x"] - s["m"] / s["v"].sqrt() * dt
    s["m"] += q.rho1 * ((g - s["m"]) * dt + math.sqrt(lr) * q.noise * dw)
    s["v"] += q.rho * (g**2 + q.noise**2 - s["v"]) * dt


def _usam_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    def widened(y: Tensor) -> Tensor:
        return y + q.radius * q.gradient(y)

    s["x"] -= widened(q.gradient(s["x"])) * dt + math.sqrt(lr) * q.noise * widened(dw)


def _sgda_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    s["x"] -= _field(s["x"]) * dt + math.sqrt(lr) * q.noise * dw


def _seg_equation(q: Quadratic, s: State, dw: Tensor, lr: float, dt: float) -> None:
    # F is linear: J is F itself
    f, turned = _field(s["x"]), dw - q.radius * _field(dw)
    s["x"] -= (f - q.radius * _field(f)) * dt + math.sqrt(lr) * q.noise * turned


_STEPS: dict[str, Callable[[Quadratic, State, Tensor, float], None]] = {
    "sgd": _sgd, "signsgd": _signsgd, "rmsprop": _rmsprop, "rmspropw": _rmspropw, "adam": _adam, "usam": _usam,
    "sgda": _sgda, "seg": _seg,
}  # fmt: skip
_EQUATIONS: dict[str, Callable[[Quadratic, State, Tensor, float, float], None]] = {
    "sgd": _sgd_equation, "signsgd": _signsgd_equation, "rmsprop": _rmsprop_equation, "rmspropw": _rmspropw_equation,
    "adam": _adam_equation, "usam": _usam_equation, "sgda": _sgda_equation, "seg": _seg_equation,
}  # fmt: skip
