"""What arguments must be: errors name the argument, what was expected and what came."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

__all__ = ["built", "integers", "is_number", "is_whole", "lengths", "log_grid", "positive"]

T = TypeVar("T")


def is_whole(value: Any, low: float = 1, high: float = math.inf) -> bool:
    """Whether `value` is an integer from `low` to `high`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether `value` is an integer or a float; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def positive(owner: str, name: str, value: Any, least: int = 1, what: str | None = None) -> int:
    """`value` if it is an integer of at least `least`, else a `ValueError` that names it; true and false are none.

    `what` says in the error what was expected, where there is more to say than that.
    """
    if not is_whole(value, least):
        what = what or ("a positive integer" if least == 1 else f"an integer of at least {least}")
        raise ValueError(f"{owner}: {name} must be {what}, got {value!r}")
    return value


def integers(owner: str, least: int = 1, **values: Any) -> None:
    """`ValueError` unless every value, or every item of one that is a sequence, is an integer of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, list | tuple):
            positive(owner, name, value, least)
        elif not value or not all(is_whole(n, least) for n in value):
            what = "positive integers" if least == 1 else f"integers of at least {least}"
            raise ValueError(f"{owner}: {name} must be {what}, got {value!r}")


def lengths(owner: str, name: str, values: Any) -> list[int]:
    """Different lengths in order; `ValueError` unless `values` are positive integers, one at least."""
    if not isinstance(values, list | tuple) or not values or not all(map(is_whole, values)):
        raise ValueError(f"{owner}: {name} must be a list of positive integers, got {values!r:.80}")
    return sorted(set(values))


def built(where: str, constructor: Callable[..., T], arguments: Mapping[str, Any], *args: Any) -> T:
    """What a constructor makes of arguments that stand in a file; any error is a `ValueError` that begins with `where`.

    In a file stands anything, and no constructor looks at every type of every argument.
    """
    try:
        return constructor(*args, **arguments)
    except (ValueError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{where}: {reason[:300]}") from error


def log_grid(low: float, high: float, points: int) -> tuple[float, ...]:
    """`points` numbers from `low` to a larger `high` at equal ratios, to three digits.

    Nobody tunes finer, and they stay readable in commands and tables.

    Example:
        >>> log_grid(1e-3, 1e-1, 5)
        (0.001, 0.00316, 0.01, 0.0316, 0.1)
    """
    return tuple(float(f"{low * (high / low) ** (i / (points - 1)):.3g}") for i in range(points))
