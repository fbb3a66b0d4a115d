"""Errors for a name that is not known, with the nearest ones that are."""

import difflib
from collections.abc import Iterable

_LISTED = 40  # names that an error lists; more are a page to read


def unknown_name(kind: str, name: object, known: Iterable[str], meant: Iterable[str] = ()) -> ValueError:
    """A `ValueError` that says what `name` was meant to be, the nearest known names, and all if they are few.

    `meant` are names that it stands for, however they are spelt, known ones or not: they are said alone.
    """
    if meant := list(meant):
        return ValueError(f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, meant[:3]))}?")
    choices = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    all_of_them = ", ".join(choices) if len(choices) <= _LISTED or not near else f"{len(choices)} names"
    return ValueError(f"unknown {kind} {name!r}{hint} (known: {all_of_them})")
