"""Plots as a few hundred bytes of SVG inside a page: colours and fonts come from its style sheet, in both themes.

Marks are `<use>` of eight shapes that a page defines once (`symbols`), so that series differ without colour too. A mark
may carry a text, which the page's script shows beside the pointer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup, escape

__all__ = ["SHAPES", "Axis", "Plot", "accuracy_axis", "linear_axis", "log_axis", "shape_of", "strip", "symbols"]

SHAPES = 8
_PATHS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.7 4.4 3.2h-8.8z",
    "M0-5 4.4 0 0 5-4.4 0z",
    "M0 4.7 4.4-3.2h-8.8z",
    "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
    "M0-5 1.4-1.6 5-1.4 2.2.9 3.1 4.4 0 2.4-3.1 4.4-2.2.9-5-1.4-1.4-1.6z",
    "M-2.3-4.2h4.6l2.3 4.2-2.3 4.2h-4.6l-2.3-4.2z",
)


def symbols(shapes: int = SHAPES) -> Markup:
    """Definitions of the first shapes, of the cross and of the axis that all accuracies share, once a page."""
    paths = "".join(f'<path id=m{i} d="{path}"/>' for i, path in enumerate(_PATHS[:shapes]))
    cross = '<path id=mx d="M-3.5-3.5l7 7M-3.5 3.5l7-7"/>'
    sizes = (False, True) if shapes > 1 else (False,)
    axes = "".join(Plot(_NONE, accuracy_axis("", size), "", size)._across("ys" if size else "ya") for size in sizes)
    return Markup(f'<svg class="plot defs" aria-hidden=true><defs>{paths}{cross}{axes}</defs></svg>')


def shape_of(series: int) -> int:
    """The shape of a series: among those of one colour each has its own."""
    return (series + series // SHAPES) % SHAPES


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on a line, or their logarithms; `ticks` are values with their texts."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high one, never beyond."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def accuracy_axis(label: str, small: bool = False) -> Axis:
    """From 0 to 1, with a little room."""
    ticks = ((0.0, "0"), (0.25, ".25"), (0.5, ".5"), (0.75, ".75"), (1.0, "1"))
    return Axis(label, -0.02, 1.02, ticks[:: 2 if small else 1])


def linear_axis(label: str, low: float, high: float, texts: int = 5) -> Axis:
    """Ticks at 1, 2 or 5 times a power of ten, about `texts` of them."""
    low, high = (min(max(end, -_GREATEST), _GREATEST) for end in (low, high))
    if not high - low > max(_LEAST, 1e-9 * max(abs(low), abs(high))):
        high = low + max(1.0, 1e-3 * abs(low))
    step = 10 ** math.floor(math.log10((high - low) / texts))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= texts)
    first = math.ceil(low / step - 1e-9)
    ticks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return Axis(label, low, high, tuple((tick, _short(round(tick, 10))) for tick in ticks))


def log_axis(label: str, values: Iterable[float], ticks: Sequence[float] | None = None, texts: int = 8) -> Axis:
    """From the least to the greatest of positive `values`; they are the ticks as well, thinned out to `texts`.

    Others, such as a learning rate of 0, have no place on it.
    """
    found = sorted({value for value in values if _LEAST <= value <= _GREATEST}) or [1.0]
    ticks = found if ticks is None else ticks
    low, high = found[0], found[-1]
    # Marks at the ends do not lie on the frame.
    room = (high / low) ** 0.04 if high > low else 2.0
    every = math.ceil(len(ticks) / texts)
    kept = ticks[::-1][::every][::-1] if every > 1 else ticks
    return Axis(label, low / room, high * room, tuple((tick, _short(tick)) for tick in kept), log=True)


def _short(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-2):
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if value % 100 == 0 else f"{value / 1000:.1f}k"
    return f"{value:g}"


_NAME, _LINE = 18, 14  # letters of a name beside a plot, and the height of its line
_LEAST, _GREATEST = 1e-150, 1e150  # what has a ratio
_NONE = Axis("", 0.0, 1.0, ())


@dataclass
class Plot:
    """One plot; what is drawn is in units of its axes.

    Args:
        name: what it shows, for those who do not see it.
        small: one of many on a page; the others have room at the right for names of lines (`call`).
    """

    x: Axis
    y: Axis
    name: str
    small: bool = False
    _parts: list[str] = field(default_factory=list)
    _names: list[tuple[int, str, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.width, self.height = (200, 110) if self.small else (480, 300)
        self._left, self._right, self._top, self._bottom = (26, 8, 6, 18) if self.small else (44, 124, 10, 40)

    def point(self, x: float, y: float) -> tuple[str, str]:
        """Coordinates in the picture, whole ones."""
        across = self._left + self.x.at(x) * (self.width - self._left - self._right)
        down = self.height - self._bottom - self.y.at(y) * (self.height - self._top - self._bottom)
        return f"{across:.0f}", f"{down:.0f}"

    def begin(self, classes: str = "", series: int | None = None) -> None:
        """Open a group; a series has its number's colour and is picked out by the legend."""
        if series is not None:
            classes = f"s c{series % SHAPES} {classes}".rstrip()
        self._parts.append(f"<g{_class(classes)}{'' if series is None else f' data-s={series}'}>")

    def end(self) -> None:
        """Close the group."""
        self._parts.append("</g>")

    def line(self, points: Iterable[tuple[float, float]], classes: str = "") -> None:
        """Through all points."""
        path = "L".join(" ".join(self.point(x, y)) for x, y in points)
        if path:
            self._parts.append(f'<path{_class(classes)} d="M{path}"/>')

    def band(self, points: Sequence[tuple[float, float, float]]) -> None:
        """Between (x, low, high)."""
        around = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        self.line(around, "band")

    def mark(self, x: float, y: float, shape: int | None, text: str = "", classes: str = "") -> None:
        """One of the shapes, or a cross for None."""
        across, down = self.point(x, y)
        name = "x" if shape is None else str(shape_of(shape))
        told = f' data-t="{escape(text)}"' if text else ""
        self._parts.append(f"<use href=#m{name}{_class(classes)} x={across} y={down}{told} />")

    def dots(self, points: Iterable[tuple[float, float]]) -> None:
        """Small round marks without texts."""
        path = "".join("M{} {}h0".format(*self.point(x, y)) for x, y in points)
        if path:
            self._parts.append(f'<path class=dots d="{path}"/>')

    def call(self, y: float, text: str, series: int | None = None) -> None:
        """The name of what ends at y, beside the plot, in the colour of its series."""
        short = text if len(text) <= _NAME else text[: _NAME - 1] + "…"
        self._names.append((int(self.point(self.x.high, y)[1]), short, series))

    def level(self, y: float, text: str) -> None:
        """A dashed line across, with its name beside the plot."""
        (left, down), (right, _) = self.point(self.x.low, y), self.point(self.x.high, y)
        self._parts.append(f'<path class=lv d="M{left} {down}H{right}"/>')
        if text:
            self.call(y, text)

    def _called(self) -> str:
        """The names, moved apart where they would lie on one another."""
        order = sorted(self._names, key=lambda name: name[0])
        places: list[int] = []
        for down, _, _ in order:
            places.append(max(down, places[-1] + _LINE) if places else down)
        lowest = self.height - self._bottom
        for index in range(len(places) - 1, -1, -1):  # the last ones back into the plot
            places[index] = min(places[index], lowest if index == len(places) - 1 else places[index + 1] - _LINE)
        left = self.width - self._right + 8
        parts = []
        for place, (_, text, series) in zip(places, order, strict=True):
            classes = "lf" if series is None else f"lf nm c{series % SHAPES}"
            parts.append(f"<text{_class(classes)} x={left} y={place + 4}>{escape(text)}</text>")
        return "".join(parts)

    def render(self) -> Markup:
        """The picture."""
        left, right = self._left, self.width - self._right
        floor = self.height - self._bottom
        grid, texts = [], []
        for value, name in self.x.ticks:
            across, _ = self.point(value, self.y.low)
            grid.append(f"M{across} {floor}v4")
            texts.append(f"<text x={across} y={floor + (14 if self.small else 18)}>{escape(name)}</text>")
        if not self.small:
            texts.append(f"<text x={(left + right) / 2:g} y={self.height - 4} class=al>{escape(self.x.label)}</text>")
            middle = (self._top + floor) / 2
            turned = f'<text class=al transform="rotate(-90)" x={-middle:g} y=11>{escape(self.y.label)}</text>'
            texts.append(turned)
        shared = replace(self.y, label="") == accuracy_axis("", self.small)
        across = f"<use class=yx href=#{'ys' if self.small else 'ya'} />" if shared else self._across()
        return Markup(
            f'<svg class="plot{" sm" if self.small else ""}" viewBox="0 0 {self.width} {self.height}" role=img '
            f'aria-label="{escape(self.name)}">{across}<path class=gr d="{"".join(grid)}"/>'
            f"{''.join(texts)}{''.join(self._parts)}{self._called()}</svg>"
        )

    def _across(self, name: str = "") -> str:
        # Lines at the ticks of the y axis, with their texts.
        left, right = self._left, self.width - self._right
        downs = [(int(self.point(self.x.low, value)[1]), text) for value, text in self.y.ticks]
        lines = "".join(f"M{left} {down}H{right}" for down, _ in downs)
        texts = "".join(f"<text x={left - 6} y={down + 4}>{escape(text)}</text>" for down, text in downs)
        # What is used elsewhere has no style but its own and what it inherits there.
        return (
            f'<g {f"id={name}" if name else "class=yx"}><path style="stroke:var(--line);fill:none" d="{lines}"/>'
            f"<g style=text-anchor:end>{texts}</g></g>"
        )


def strip(values: Sequence[tuple[float, str]], middle: float | None, name: str) -> Markup:
    """Numbers from 0 to 1 on a line of 100 by 18, as (value, class): `k` solved, `u` not, `x` diverged or failed.

    Equal ones stand above each other. `middle` is marked by a diamond.
    """
    height: dict[int, int] = {}
    parts = []
    for value, kind in values:
        if math.isnan(value):
            continue
        across = round(4 + 92 * min(max(value, 0.0), 1.0))
        level = height.get(across // 4, 0)
        height[across // 4] = level + 1
        down = 9 + ((level + 1) // 2 * (3 if level % 2 else -3) if level < 5 else 0)
        if kind == "x":
            parts.append(f'<path class=x d="M{across - 2} {down - 2}l4 4m0-4l-4 4"/>')
        else:
            parts.append(f"<circle class={kind} cx={across} cy={down} r=2.4 />")
    if middle is not None and not math.isnan(middle):
        across = round(4 + 92 * min(max(middle, 0.0), 1.0))
        parts.append(f'<path class=md d="M{across} 5l3.4 4-3.4 4-3.4-4z"/>')
    return Markup(
        f'<svg class=st viewBox="0 0 100 18" role=img aria-label="{escape(name)}"><path class=ax d="M4 9h92"/>'
        f"{''.join(parts)}</svg>"
    )


def _class(classes: str) -> str:
    if not classes:
        return ""
    return f' class="{classes}"' if " " in classes else f" class={classes}"
