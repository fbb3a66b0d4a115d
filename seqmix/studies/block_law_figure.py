"""The block-size law as a figure: a heat map for each kind of gates, with the predicted line drawn over it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqmix._figures import encode, new_figure, style
from seqmix.studies.block_law import GATES, Cell, Key, label, rows_of
from seqmix.tasks.block_sizes import smallest_block

__all__ = ["draw", "staircase"]


def draw(cells: dict[Key, Cell], kind: str) -> bytes:
    """Heat maps of the share of solved runs, one for each kind of gates, as `svg` or `png`.

    Cells say solved/certified counts; the line is the law: what stands to its right should be solved. A dot marks a
    cell without runs. The same records give the same file.
    """
    rows, sizes = rows_of(cells), sorted({m for _, _, _, m in cells})
    kinds = [gates for gates in GATES if any(key[2] == gates for key in cells)]
    with style("seqmix block-law figure"):
        width, height = 1.6 + len(kinds) * (0.8 + 0.62 * len(sizes)), 1.3 + 0.36 * len(rows)
        figure = new_figure(width, height)
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        images = [_panel(ax, cells, rows, sizes, gates) for ax, gates in zip(axes, kinds, strict=True)]
        figure.colorbar(images[0], ax=figure.axes, label="share of runs solved", fraction=0.04)
        return encode(figure, kind)


def _panel(ax: Any, cells: dict[Key, Cell], rows: list[tuple[str, str]], sizes: list[int], gates: str) -> Any:
    shares = np.full((len(rows), len(sizes)), np.nan)
    for y, (name, read_out) in enumerate(rows):
        for x, m in enumerate(sizes):
            cell = cells.get((name, read_out, gates, m))
            if cell is None:
                ax.text(x, y, "·", ha="center", va="center", color="0.5")
                continue
            shares[y, x] = cell.solved / len(cell.runs)
            certified = "" if cell.certified is None else f"/{cell.certified}"
            color = "white" if shares[y, x] < 0.5 else "black"
            ax.text(x, y, f"{cell.solved}{certified}", ha="center", va="center", color=color, fontsize=8)
    edges = staircase(rows, sizes, gates)
    xs = [edge - 0.5 for edge in edges for _ in (0, 1)]
    ys = [y + side for y in range(len(rows)) for side in (-0.5, 0.5)]
    ax.plot(xs, ys, color="crimson", linewidth=2.5)
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set(
        title=f"{gates} gates: runs solved/certified",
        xlabel="block size m",
        xlim=(-0.5, len(sizes) - 0.5),
        ylim=(len(rows) - 0.5, -0.5),
    )
    ax.set_xticks(range(len(sizes)), [str(m) for m in sizes])
    ax.set_yticks(range(len(rows)), [label(row) for row in rows])
    return image


def staircase(rows: Sequence[tuple[str, str]], sizes: Sequence[int], gates: str) -> list[int]:
    """For each row how many of the sizes are too small."""
    least = [smallest_block(name, signed=gates == "signed", read_out=read_out) for name, read_out in rows]
    return [sum(m < smallest for m in sizes) for smallest in least]
