"""Text of files of somebody else in Markdown: it stands there as text, and ends, opens and runs nothing."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

__all__ = ["Markup", "code", "escaped", "markdown_table", "printable"]

# An underscore within a word means nothing, and names of arguments are full of them.
_SPECIAL = re.compile(r"[\\`*\[|<&~$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = {"<": "&lt;", "&": "&amp;", "~": "&#126;", "$": "&#36;"}  # not every reader takes a backslash before these
_HIDDEN = ("Cc", "Cs")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the order in which letters are shown


class Markup(str):
    """Text that is Markdown already: what of it came from a record was `escaped`."""

    __slots__ = ()


def printable(value: Any) -> str:
    """`value` in one line, without characters that a terminal acts on, that turn lines around, or that are none."""
    text = " ".join(str(value).split())
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in _HIDDEN or c in _TURNING else c for c in text)


def escaped(value: Any) -> Markup:
    """`value` as Markdown that shows it, in a paragraph as in a cell: one line, no markup, no HTML, no marker."""
    if isinstance(value, Markup):
        return value
    return Markup(_SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), printable(value)))


def code(value: Any) -> Markup:
    """`value` as a span of code."""
    text = printable(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, its cells `escaped`; `left` columns read as text, the others as numbers."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(escaped, cells)) + " |"

    rule = "|" + "---|" * left + "---:|" * (len(header) - left)
    return "\n".join([line(header), rule, *map(line, rows)])
