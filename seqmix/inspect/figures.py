"""The figures of `seqmix inspect`: eigenvalues, at one time and over training, mixing matrices, gradients by lag."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqmix._figures import COLOURS, MARKERS, grid
from seqmix.inspect.records import SpectrumRecord

__all__ = ["STYLE", "Points", "draw_gradients", "draw_mixing", "draw_over_training", "draw_spectra", "points_of"]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.composite_image": False,
}

_FINE = 200  # to the unit: points closer than that are one
_MANY = 1000  # points of a figure are pixels above, so that an SVG stays small
_DENSE = 48  # eigenvalues of a token, on the average of the steps, are counted above and not drawn one by one
_REAL = 1e-4


@dataclass(frozen=True, eq=False)
class Points:
    """Different eigenvalues of each token: `kind` (P,) says whose `values` (P,) they are."""

    title: str
    values: NDArray[np.complexfloating]
    kind: NDArray[np.int64]
    names: dict[int, str]  # of the kinds; empty where they are positions

    @property
    def real(self) -> bool:
        return bool((np.abs(self.values.imag) < _REAL).all())


def points_of(title: str, values: Any, kind: Any, names: dict[int, str]) -> Points:
    """Of eigenvalues (B, T, E) and kinds (B, T), with every place on the figure's raster once for each kind.

    Where all tokens are alike there is one kind.
    """
    values = np.asarray(values)
    if (values == values[:1, :1]).all():
        values, kind, names = values[:1, :1], np.zeros((1, 1), np.int64), {0: "every"}
    kinds = np.broadcast_to(np.asarray(kind)[..., None], values.shape).ravel()
    flat = values.ravel()
    raster = np.stack([kinds, np.round(flat.real * _FINE), np.round(flat.imag * _FINE)], axis=1)
    _, first = np.unique(raster, axis=0, return_index=True)
    return Points(title, flat[first], kinds[first].astype(np.int64), names)


def draw_spectra(panels: Sequence[Points]) -> Any:
    """Complex eigenvalues in the plane with the unit circle; where all are real, one line for each token."""
    if all(panel.real for panel in panels):
        return _draw_lines(panels)
    figure, axes = grid(len(panels), width=2.7, height=2.9, beside=0.9)
    limit, pixels = _limit(panels), _many(panels)
    for ax, panel in zip(axes, panels, strict=True):
        _plane(ax, limit)
        ax.set_title(_title(panel, limit))
        shown = _scatter(ax, panel, pixels)
    _explain(figure, panels, shown)
    figure.supxlabel("real part", fontsize=9)
    figure.supylabel("imaginary part", fontsize=9)
    return figure


def _many(panels: Sequence[Points]) -> bool:
    return sum(len(panel.values) for panel in panels) > _MANY


def _limit(panels: Sequence[Points]) -> float:
    """Of the axes: what all points need, but no more than twice the unit circle; `_title` tells of the rest."""
    parts = [np.abs([panel.values.real, panel.values.imag]).max() for panel in panels]
    return min(2.1, max(1.1, 1.05 * float(max(parts))))


def _title(panel: Points, limit: float) -> str:
    outside = int((np.maximum(np.abs(panel.values.real), np.abs(panel.values.imag)) > limit).sum())
    return f"{panel.title} ({outside} outside)" if outside else panel.title


def _plane(ax: Any, limit: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 181)
    ax.plot(np.cos(turn), np.sin(turn), color="0.6", linewidth=0.8)
    for line in (ax.axhline, ax.axvline):
        line(0, color="0.85", linewidth=0.6, zorder=0)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def _style_of(names: dict[int, str]) -> dict[int, dict[str, Any]]:
    """Marker and colour of each token: rings of different size, so that one is seen around another."""
    return {
        kind: {
            "marker": MARKERS[i],
            "edgecolors": COLOURS[i],
            "facecolors": "none",
            "s": 12 + 8 * (len(names) - 1 - i),
            "linewidths": 1.2,
        }
        for i, kind in enumerate(names)
    }


def _scatter(ax: Any, panel: Points, pixels: bool) -> Any:
    if 0 < len(panel.names) <= len(COLOURS):
        for kind, look in _style_of(panel.names).items():
            mine = panel.values[panel.kind == kind]
            ax.scatter(mine.real, mine.imag, label=panel.names[kind], rasterized=pixels, **look)
        return None
    x, y = panel.values.real, panel.values.imag
    return ax.scatter(x, y, c=panel.kind, cmap="viridis", s=10, linewidths=0, rasterized=pixels)


def _explain(figure: Any, panels: Sequence[Points], shown: Any) -> None:
    """Which colour is which token: a legend for a few, a bar for many or for positions."""
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label="token" if panels[-1].names else "position", shrink=0.8)
        return
    if all(len(panel.names) == 1 for panel in panels):
        return
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(), handles.keys(), title="token", loc="outside right upper", frameon=False, fontsize="small"
    )


def _draw_lines(panels: Sequence[Points]) -> Any:
    """Real eigenvalues on a line for each token."""
    lanes = max(max(1, len(panel.names)) for panel in panels)
    if lanes > 24:
        lanes = 1
    figure, axes = grid(len(panels), width=3.4, height=1.3 + 0.28 * lanes, columns=2)
    limit, pixels = _limit(panels), _many(panels)
    for ax, panel in zip(axes, panels, strict=True):
        for bound in (-1, 0, 1):
            ax.axvline(bound, color="0.6" if bound else "0.85", linewidth=0.8, zorder=0)
        if lanes == 1:
            look = {"marker": "|", "s": 120, "color": COLOURS[0], "linewidths": 0.6, "rasterized": pixels}
            ax.scatter(panel.values.real, 0 * panel.values.real, **look)
            ax.set_yticks([])
        else:
            for lane, kind in enumerate(panel.names):
                mine = panel.values[panel.kind == kind].real
                look = {"color": COLOURS[lane % len(COLOURS)], "linewidths": 1, "rasterized": pixels}
                ax.scatter(mine, np.full(len(mine), lane), marker="|", s=90, **look)
            ax.set_yticks(range(len(panel.names)), panel.names.values())
            ax.set_ylim(len(panel.names) - 0.5, -0.5)
            ax.set_ylabel("token")
        ax.set(xlim=(-limit, limit), title=_title(panel, limit))
    figure.supxlabel("eigenvalue (real)", fontsize=9)
    return figure


def draw_over_training(title: str, layer: str, records: Sequence[SpectrumRecord], names: dict[int, str]) -> Any:
    """Of one layer: real eigenvalues over the step, a panel for each token; complex ones in planes at six steps.

    Where the real ones are many, shades show how many of them lie where, on a logarithmic scale.
    """
    every = [points_of(f"step {r.step}", r.layers[layer], r.tokens, names) for r in records]
    if not all(points.real for points in every) or len(names) > len(COLOURS):
        chosen = np.unique(np.linspace(0, len(every) - 1, min(6, len(every))).round().astype(int))
        figure = draw_spectra([every[i] for i in chosen])
        figure.suptitle(title, fontsize=10)
        return figure
    figure, axes = grid(len(names), width=2.5, height=2.6)
    limit, steps = _limit(every), [record.step for record in records]
    dense = sum(len(points.values) for points in every) > _DENSE * len(every) * len(names)
    for i, (ax, (kind, name)) in enumerate(zip(axes, names.items(), strict=True)):
        for bound in (-1, 0, 1):
            ax.axhline(bound, color="0.6" if bound else "0.85", linewidth=0.8, zorder=0 if not dense else 2)
        if dense:
            values = [record.layers[layer][record.tokens == kind].real for record in records]
            _shade(ax, steps, values, limit, COLOURS[i])
        else:
            values = [points.values[points.kind == kind].real for points in every]
            x, y = np.repeat(steps, [len(mine) for mine in values]), np.concatenate(values)
            ax.scatter(x, y, s=5, color=COLOURS[i], linewidths=0, rasterized=_many(every))
        ax.set(title=f"token {name}", ylim=(-limit, limit))
    figure.supxlabel("training step", fontsize=9)
    figure.supylabel("eigenvalue (real)", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _shade(ax: Any, steps: Sequence[int], values: Sequence[NDArray[np.floating]], limit: float, colour: str) -> None:
    """How many of `values` of each step lie in each of 120 bins, by the depth of the colour."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    bins = np.linspace(-limit, limit, 121)
    share = np.stack([np.histogram(mine, bins)[0] / mine.size for mine in values], axis=1)
    first, last = steps[0] - (len(steps) == 1), steps[-1] + (len(steps) == 1)
    edges = np.array([first, *((a + b) / 2 for a, b in itertools.pairwise(steps)), last])
    shades = LinearSegmentedColormap.from_list("", ["#F2F2F2", colour, "black"])
    seen = np.ma.masked_equal(share, 0)
    ax.pcolormesh(edges, bins, seen, cmap=shades, norm=LogNorm(1e-5, 1), rasterized=True, zorder=1)


def draw_mixing(panels: Sequence[tuple[str, Any]], ticks: Sequence[str] | None) -> Any:
    """Matrices (T, T) of numbers, or (T, T, O, I) of blocks, for which their spectral norm stands, as heat maps."""
    figure, axes = grid(len(panels), width=2.7, height=2.5, share=False)
    for ax, (title, matrix) in zip(axes, panels, strict=True):
        matrix = shown_numbers(matrix)
        length, largest = len(matrix), float(np.abs(matrix).max()) or 1.0
        signed = matrix.min() < -1e-3 * largest
        seen = np.ma.masked_where(~np.tri(length, dtype=bool), matrix)
        image = ax.imshow(
            seen,
            cmap="PuOr" if signed else "viridis",
            vmin=-largest if signed else 0,
            vmax=largest,
            interpolation="nearest",
        )
        figure.colorbar(image, ax=ax, shrink=0.85)
        ax.set_title(title)
        if ticks is not None and length <= 24:
            ax.set_xticks(range(length), ticks, fontsize=6, rotation=90 if max(map(len, ticks)) > 2 else 0)
            ax.set_yticks(range(length), ticks, fontsize=6)
    figure.supxlabel("from token s", fontsize=9)
    figure.supylabel("to token t", fontsize=9)
    return figure


def shown_numbers(matrix: Any) -> NDArray[np.floating]:
    """(T, T): real numbers as they are, complex ones by absolute value, blocks by their largest singular value."""
    matrix = np.asarray(matrix)
    if matrix.ndim == 4:
        return np.linalg.norm(matrix, ord=2, axis=(-2, -1))
    return np.abs(matrix) if np.iscomplexobj(matrix) else matrix


def draw_gradients(curves: Sequence[tuple[str, Any]]) -> Any:
    """Norms (B, T) over the lag on a logarithmic axis: the median of the sequences, and their range."""
    figure, (ax,) = grid(1, width=5.6, height=3.4)
    for i, (label, norms) in enumerate(curves):
        norms = np.asarray(norms, dtype=np.float64)
        lags, colour = np.arange(norms.shape[1]), COLOURS[i % len(COLOURS)]
        # Zero has no place on this axis: a curve ends there.
        some = np.where(norms > 0, norms, np.nan)
        dash = ("-", "--", "-.", ":")[i // 2 % 4]
        ax.plot(lags, np.median(np.where(norms > 0, norms, 0), axis=0), color=colour, label=label, linestyle=dash)
        low, high = (np.where(np.isfinite(some), some, fill) for fill in (np.inf, -np.inf))
        low, high = low.min(0), high.max(0)
        inside = np.isfinite(low) & np.isfinite(high)
        ax.fill_between(lags[inside], low[inside], high[inside], color=colour, alpha=0.15, linewidth=0)
    ax.set(xlabel="lag k", ylabel=r"$\Vert\partial y_T / \partial x_{T-k}\Vert$", yscale="log")
    ax.grid(alpha=0.3)
    if len(curves) > 1 or curves[0][0]:
        ax.legend(frameon=False, fontsize="small")
    return figure
