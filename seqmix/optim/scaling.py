"""Hyper-parameters for another batch size or another number of tokens."""

from typing import NamedTuple

from seqmix._suggest import unknown_name

__all__ = ["Transferred", "transfer"]

RULES = ("adam", "lmo", "lmo-fixed-momentum", "sgd")


class Transferred(NamedTuple):
    """What `transfer` returns: learning rate, both betas, eps."""

    lr: float
    betas: tuple[float, float]
    eps: float


def transfer(
    rule: str,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    *,
    batch: tuple[float, float] = (1, 1),
    tokens: tuple[float, float] = (1, 1),
) -> Transferred:
    """Learning rate and averages for a batch `batch[1]` and a budget `tokens[1]`, from those tuned at `[0]`.

    With k the ratio of the batches, n that of the tokens, and so n / k that of the steps:

    | rule                 | lr                | 1 - beta1         | beta2       | eps         |
    |----------------------|-------------------|-------------------|-------------|-------------|
    | `sgd`                | k                 | k                 | 1 - b2: k   |             |
    | `adam`               | k^(1/2)           | k                 | 1 - b2: k   | k^(-1/2)    |
    | `lmo`                | k n^(-3/4)        | k n^(-1/2)        | beta2 ^ k   | k^(-1/2)    |
    | `lmo-fixed-momentum` | (n / k)^(-1/2)    | 1                 | beta2 ^ k   | k^(-1/2)    |

    Assumptions. `sgd` and `adam` keep the stochastic differential equation that the iterates follow in the limit of
    small steps, in time counted in tokens: gradients whose noise falls as 1 / batch and, for `adam` and sign methods,
    outweighs the mean. They say nothing about the budget, so `tokens` must be equal. The `lmo` rules (Muon, Signum,
    normalised descent; Adam by analogy) minimise D / (lr K) + L lr / a + s (a / B)^(1/2) with a = 1 - beta1 over K
    steps at batch B: a bound for smooth non-convex losses with bounded noise variance, constants D, L, s that do not
    change, a fixed model, and K so large that the bound's lower terms are gone. `lmo` tunes the momentum too, and is
    then indifferent to the batch at equal tokens; `lmo-fixed-momentum` holds where the batch is large enough that the
    noise term is not what decides, with a best batch that grows as the root of the tokens. Neither sees warm-up, decay
    of the rate or of the weights; with independent decay keep lr * weight_decay. beta2 keeps its half-life in tokens
    under `lmo` (2507.07101). Practice has seen rising best rates where batch and tokens grow together.

    Sources: 2411.15958 and 2205.10287 (`adam`), 2603.15958 (`lmo`, exponents derived here from its bound).

    Raises:
        ValueError: an unknown rule, numbers out of range, tokens that differ under a rule that says nothing about
            them, or a batch so large that an average would have no past.

    Example:
        >>> from seqmix.optim import transfer
        >>> [round(value, 6) for value in transfer("adam", 1e-3, (0.95, 0.95), batch=(256, 1024)).betas]
        [0.8, 0.8]
    """
    if rule not in RULES:
        raise unknown_name("rule", rule, RULES)
    for name, pair in (("batch", batch), ("tokens", tokens)):
        if len(pair) != 2 or not all(0 < value < float("inf") for value in pair):
            raise ValueError(f"transfer: {name} must be two positive numbers, from and to, got {pair!r}")
    if not lr > 0 or not eps >= 0 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(
            f"transfer: expected lr > 0, eps >= 0 and betas in [0, 1), got lr={lr!r}, eps={eps!r}, betas={betas!r}"
        )
    k, n = batch[1] / batch[0], tokens[1] / tokens[0]
    if rule in ("sgd", "adam"):
        if n != 1:
            raise ValueError(f"transfer: rule {rule!r} says nothing about the budget, tokens must be equal: {tokens!r}")
        factor, first, second = (k if rule == "sgd" else k**0.5), k, 1 - (1 - betas[1]) * k
    else:
        fixed = rule == "lmo-fixed-momentum"
        factor, first = ((n / k) ** -0.5, 1.0) if fixed else (k * n**-0.75, k * n**-0.5)
        second = betas[1] ** k
    result = (1 - (1 - betas[0]) * first, second)
    if not all(0 <= beta < 1 for beta in result):
        raise ValueError(
            f"transfer: a batch {k:g} and a budget {n:g} times as large leave no past to average, betas {betas!r} "
            f"would be {result!r}"
        )
    return Transferred(lr * factor, result, eps if rule == "sgd" else eps * k**-0.5)
