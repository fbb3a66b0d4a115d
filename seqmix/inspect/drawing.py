"""What the figures share: colours that all can tell apart, panels in a grid, files that are the same each time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seqmix._extras import require
from seqmix._files import write_whole

__all__ = ["COLOURS", "MARKERS", "grid", "save", "style"]

# Okabe and Ito 2008, without the yellow that is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SUFFIXES = (".svg", ".png")
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "seqmix",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.composite_image": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Everything about a figure is drawn and saved within."""
    require("matplotlib", extra="train", owner="seqmix inspect")
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def grid(
    count: int, *, width: float, height: float, beside: float = 0.0, columns: int = 4, share: bool = True
) -> tuple[Any, list[Any]]:
    """A figure with `count` axes of so many inches, in even rows of at most `columns`, and room beside for a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = Figure(figsize=(width * columns + beside, height * rows), layout="compressed")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).flatten().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def save(figure: Any, path: Path) -> None:
    """SVG or PNG, by the suffix; the same figure gives the same file."""
    buffer = io.BytesIO()
    if path.suffix == ".png":
        figure.savefig(buffer, format="png", dpi=150)
        content = buffer.getvalue()
    else:
        figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
        content = b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"
    write_whole(path, lambda part: part.write_bytes(content))
