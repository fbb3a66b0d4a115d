"""Figures without a display or global state: one style, and files that are the same for the same numbers."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from seqmix._extras import require
from seqmix._markdown import printable

__all__ = ["COLOURS", "MARKERS", "adapted", "as_text", "encode", "grid", "label_ends", "new_figure", "style"]

# Okabe and Ito 2008, without the yellow that is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C564B", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Of text and axes of an SVG, which has no ground of its own: read as well on white as on a dark page.
_INK = "#767b84"
# Ids of an SVG are random without a salt; text stays text.
_SAME: dict[Any, Any] = {"svg.hashsalt": "seqmix", "svg.fonttype": "none"}


@contextmanager
def style(owner: str, extra: str = "board", settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Everything about a figure is drawn and encoded within; `settings` are matplotlib's own."""
    require("matplotlib", extra=extra, owner=owner)
    import matplotlib

    with matplotlib.rc_context(_SAME | dict(settings or {})), warnings.catch_warnings():
        # A letter that matplotlib's font has not is a box; in an SVG it stays the letter.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font", UserWarning)
        yield


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Any:
    """An empty figure of so many inches, without pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def grid(
    count: int, *, width: float, height: float, beside: float = 0.0, columns: int = 4, share: bool = True
) -> tuple[Any, list[Any]]:
    """A figure with `count` axes of so many inches, in even rows of at most `columns`, and room beside for a legend."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = new_figure(width * columns + beside, height * rows, "compressed")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flatten().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def encode(figure: Any, kind: str, dpi: int = 150) -> bytes:
    """The figure as `svg` or `png`: the same bytes for the same figure, an SVG without blanks at ends of lines."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    if kind != "svg":
        return buffer.getvalue()
    return adapted(b"".join(line.rstrip() + b"\n" for line in buffer.getvalue().splitlines()))


def as_text(name: str) -> str:
    """A name from somebody else's file as matplotlib shows it: no formula, no character that an SVG cannot hold."""
    return printable(name).replace("$", r"\$")


def adapted(svg: bytes) -> bytes:
    """An SVG of matplotlib's for light pages and dark ones: no white ground, and what is black is `_INK`.

    What was adapted before stays as it is.
    """
    ink = _INK.encode()
    svg = re.sub(rb"fill: #ffffff(?=\"|; opacity: 0.8; stroke: #cccccc)", b"fill: none", svg)
    svg = re.sub(rb"(stroke|fill): #000000", rb"\1: " + ink, svg)
    # Text without a colour has that of the root.
    return re.sub(rb'(<svg (?![^>]*fill=)[^>]*? version="1.1")>', rb'\1 fill="' + ink + b'">', svg, count=1)


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], room: float = 0.06) -> None:
    """Names behind the last points of lines, (x, y, name, colour) with y from 0 to 1, none on another."""
    order = sorted(ends, key=lambda end: end[1])
    places: list[float] = []
    for _, y, _, _ in order:
        places.append(max(y, places[-1] + room) if places else y)
    for above in range(len(places) - 1, -1, -1):  # those at the top go down again
        places[above] = min(places[above], 1.0 if above == len(places) - 1 else places[above + 1] - room)
    for (x, _, name, colour), y in zip(order, places, strict=True):
        offset = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        axes.annotate(name, (x, y), color=colour, fontsize="small", **offset)
