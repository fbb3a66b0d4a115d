"""Checks of arguments that several tasks share."""

__all__ = ["at_least"]


def at_least(owner: str, **values: tuple[int, int]) -> None:
    """`ValueError` unless every value of `name=(value, least)` is an integer of at least that."""
    for name, (value, least) in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")
