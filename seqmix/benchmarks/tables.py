"""Aligned tables on a terminal, and Markdown ones in the documentation."""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from seqmix._markdown import escaped


@dataclass
class Table:
    """A title, column names and rows of text; all columns after the first `left` ones are flush right."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    left: int = 1
    note: str = ""

    def plain(self) -> str:
        """Aligned text."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]

        def align(line: Sequence[str]) -> str:
            cells = (
                c.ljust(w) if i < self.left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            return "  ".join(cells).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [align(self.columns), rule, *(align(row) for row in self.rows)]
        return "\n".join([self.title, *body, *([self.note] if self.note else [])])

    def markdown(self) -> str:
        """A GitHub table."""
        rules = [":--" if i < self.left else "--:" for i in range(len(self.columns))]
        lines = [self.columns, rules, *self.rows]
        return "\n".join("| " + " | ".join(map(escaped, line)) + " |" for line in lines)


def show(table: Table) -> None:
    """Print a table: with rich on a terminal where it is installed, else as plain text."""
    if not (sys.stdout.isatty() and importlib.util.find_spec("rich")):
        print(table.plain() + "\n", flush=True)
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(title=table.title, title_justify="left", caption=table.note or None, caption_justify="left")
    for i, column in enumerate(table.columns):
        rich.add_column(column, justify="left" if i < table.left else "right", no_wrap=i == 0)
    for row in table.rows:
        rich.add_row(*(Text(cell, style="bold red" if cell == "WRONG" else "") for cell in row))
    Console().print(rich)


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant ones and no exponent, or a dash."""
    if value is None:
        return "-"
    if value != 0 and abs(value) < 10 ** (digits - 1):
        whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
        return f"{value:.{digits - whole}f}"
    return f"{value:.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage, or a dash."""
    return "-" if value is None else f"{100 * value:.0f} %"


def megabytes(value: float | None) -> str:
    """Bytes in MB, or a dash."""
    return "-" if value is None else number(value / 1e6)
