"""Figures without a display or global state: one style, and files that are the same for the same numbers."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from seqmix._extras import require

__all__ = ["COLOURS", "MARKERS", "check_suffix", "encode", "grid", "new_figure", "style"]

# Okabe and Ito 2008, without the yellow that is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# Ids of an SVG are random without a salt; text stays text.
_SAME: dict[Any, Any] = {"svg.hashsalt": "seqmix", "svg.fonttype": "none"}


@contextmanager
def style(owner: str, extra: str = "board", settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Everything about a figure is drawn and encoded within; `settings` are matplotlib's own."""
    require("matplotlib", extra=extra, owner=owner)
    import matplotlib

    with matplotlib.rc_context(_SAME | dict(settings or {})):
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
    return b"".join(line.rstrip() + b"\n" for line in buffer.getvalue().splitlines())


def check_suffix(option: str, path: Path, *suffixes: str) -> None:
    """A `ValueError` unless the file's suffix is one of these, .svg or .png where none are given."""
    suffixes = suffixes or (".svg", ".png")
    if path.suffix not in suffixes:
        raise ValueError(f"{option}: expected a file that ends in {' or '.join(suffixes)}, got {str(path)!r}")
