"""What the plots of a page show: accuracy over length, state and learning rate, and curves of training."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from seqmix.leaderboard.page.svg import Axis, Plot, accuracy_axis, linear_axis, log_axis

__all__ = ["NAMED", "Measure", "Rate", "Series", "curve_plot", "length_plot", "rate_plot", "rates_plot", "state_plot"]

T = TypeVar("T")
# Entries that have a colour and a name of their own in a plot; the others are grey until they are picked out.
NAMED = 8
# Points that one plot draws of one series; the rest would lie on top of them.
_DRAWN = 60


@dataclass(frozen=True)
class Measure:
    """What is on the y axis: its name, and whether it is an accuracy from 0 to 1 or bits per byte."""

    name: str
    text: bool = False
    chance: float | None = None

    def axis(self, values: Iterable[float], small: bool = False) -> Axis:
        """From 0 to 1, or as far as the values go."""
        if not self.text:
            return accuracy_axis(self.name, small)
        found = list(values)
        low, high = (min(found), max(found)) if found else (0.0, 8.0)
        room = 0.06 * (high - low) or 0.5
        return linear_axis(self.name, max(0.0, low - room), high + room, 3 if small else 5)

    def tell(self, value: float) -> str:
        """A number of it: `.978`."""
        if not math.isfinite(value):
            return "∞" if value > 0 else "–"
        if self.text:
            return f"{value:.3f}"
        # 0.9998 is not 1: what rounds up to it is cut off.
        return "1.00" if value == 1 else f"{min(value, 0.999):.3f}".removeprefix("0")


@dataclass(frozen=True)
class Rate:
    """Runs at one learning rate: their median, each value with its seed, and the seeds that have none."""

    lr: float
    median: float | None
    values: tuple[tuple[float, int], ...]
    broken: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Series:
    """One entry on one task; `number` is its colour and shape.

    Attributes:
        lengths: (length, median, values of the seeds) at the chosen rate, test data.
        state: numbers kept at the training length, None where unknown.
        at: (median, values) at the training length.
        rates: the whole grid on validation data, smallest first.
        curves: seed with (step, value on validation data) for each run at the chosen rate.
    """

    number: int
    name: str
    href: str
    lengths: tuple[tuple[int, float, tuple[float, ...]], ...]
    state: int | None
    at: tuple[float, tuple[float, ...]] | None
    rates: tuple[Rate, ...]
    chosen: float | None
    curves: tuple[tuple[int, tuple[tuple[float, float], ...]], ...]


def length_plot(series: Sequence[Series], measure: Measure) -> Markup | None:
    """Medians over the test lengths, with all seeds and their range for the series that is picked out."""
    lengths = sorted({length for one in series for length, _, _ in one.lengths})
    if not lengths:
        return None
    values = [value for one in series for _, _, seeds in one.lengths for value in seeds]
    x = log_axis("test length", lengths)
    plot = Plot(x, measure.axis(values), f"{measure.name} over test length")
    _frame(plot, measure)
    for place, one in _back_to_front(series):
        plot.begin(series=one.number, classes="solo" if len(series) == 1 else _rest(place))
        if one.lengths and place < NAMED and len(series) > 1:
            plot.call(one.lengths[-1][1], one.name, one.number)
        plot.begin("more")
        plot.band([(length, min(seeds), max(seeds)) for length, _, seeds in one.lengths if seeds])
        plot.dots((length, value) for length, _, seeds in one.lengths for value in _some(seeds))
        plot.end()
        plot.line((length, median) for length, median, _ in one.lengths)
        for length, median, seeds in one.lengths:
            told = f"{one.name}\nlength {length:,}: {measure.tell(median)}{_range(seeds, measure)}"
            plot.mark(length, median, one.number, told)
        plot.end()
    return plot.render()


def state_plot(series: Sequence[Series], measure: Measure) -> Markup | None:
    """Medians at the training length over the numbers in the state."""
    found = [(one, one.state, *one.at) for one in series if one.state and one.at]
    if not found:
        return None
    sizes = [state for _, state, _, _ in found]
    x = log_axis("numbers in the state, at the training length", sizes, _powers(min(sizes), max(sizes)))
    values = [value for _, _, _, seeds in found for value in seeds]
    plot = Plot(x, measure.axis(values), f"{measure.name} over state size")
    _frame(plot, measure)
    for place, (one, state, median, seeds) in _back_to_front(found):
        plot.begin(series=one.number, classes=_rest(place))
        plot.begin("more")
        plot.line([(state, min(seeds)), (state, max(seeds))], "thin")
        plot.dots((state, value) for value in _some(seeds))
        plot.end()
        plot.mark(
            state, median, one.number, f"{one.name}\nstate {state:,}: {measure.tell(median)}{_range(seeds, measure)}"
        )
        plot.end()
    return plot.render()


def rates_plot(series: Sequence[Series], measure: Measure) -> Markup | None:
    """The medians of all entries over the whole grid of learning rates."""
    rates = {rate.lr for one in series for rate in one.rates}
    values = [value for one in series for rate in one.rates for value, _ in rate.values]
    if not values:
        return None
    x = log_axis("learning rate", rates)
    plot = Plot(x, measure.axis(values), f"{measure.name} over learning rate")
    _frame(plot, measure)
    for place, one in _back_to_front(series):
        plot.begin(series=one.number, classes=_rest(place))
        ends = [rate.median for rate in one.rates if rate.median is not None and rate.lr > 0]
        if ends and place < NAMED and len(series) > 1:
            plot.call(ends[-1], one.name, one.number)
        _grid(plot, one, measure, one.number, one.name + "\n")
        plot.end()
    return plot.render()


def rate_plot(one: Series, measure: Measure, rates: Iterable[float], values: Iterable[float], small: bool) -> Markup:
    """Every run of one entry over the grid; `rates` and `values` are those of all, for one pair of axes."""
    grid = [rate for rate in rates if rate > 0] or [1.0]
    x = log_axis("learning rate", grid, texts=3 if small else 8)
    plot = Plot(x, measure.axis(values, small), f"{measure.name} of {one.name} over learning rate", small)
    plot.begin(series=one.number, classes="solo")
    _grid(plot, one, measure, one.number, "", dots=True)
    plot.end()
    return plot.render()


def curve_plot(one: Series, measure: Measure, steps: float, values: Iterable[float], small: bool) -> Markup | None:
    """Validation over the steps, a line for each seed at the chosen rate."""
    if not any(points for _, points in one.curves):
        return None
    x = linear_axis("steps of training", 0, steps, 3 if small else 6)
    plot = Plot(x, measure.axis(values, small), f"{measure.name} of {one.name} over steps", small)
    _frame(plot, measure, "" if small else "chance")
    plot.begin(series=one.number, classes="solo")
    for seed, points in _some(one.curves):
        plot.line(points, "thin")
        if points and small:
            plot.dots([points[-1]])
        elif points:
            step, value = points[-1]
            plot.mark(step, value, 0, f"seed {seed}, step {step:,.0f}: {measure.tell(value)}", "dot")
    plot.end()
    return plot.render()


def _grid(plot: Plot, one: Series, measure: Measure, shape: int, name: str, dots: bool = False) -> None:
    known = [rate for rate in one.rates if rate.lr > 0]
    plot.line((rate.lr, rate.median) for rate in known if rate.median is not None)
    floor = plot.y.high if measure.text else max(plot.y.low, 0.0)
    if plot.small:
        plot.dots((rate.lr, value) for rate in known for value, _ in _some(rate.values))
    for rate in known:
        if dots and not plot.small:
            for value, seed in _some(rate.values):
                plot.mark(rate.lr, value, 0, f"rate {rate.lr:g}, seed {seed}: {measure.tell(value)}", "dot")
        for told, seed in _some(rate.broken)[: 1 if plot.small else None]:
            plot.mark(rate.lr, floor, None, "" if plot.small else f"{name}rate {rate.lr:g}, seed {seed}: {told}")
        if rate.median is None:
            continue
        runs = len(rate.values) + len(rate.broken)
        told = f"{name}rate {rate.lr:g}: {measure.tell(rate.median)}, {runs} run{'s' * (runs != 1)}"
        if not dots:
            plot.mark(rate.lr, rate.median, shape, told)
        if rate.lr == one.chosen and dots:
            plot.mark(rate.lr, rate.median, 0, "" if plot.small else told + ", chosen", "pick")


def _back_to_front(series: Sequence[T]) -> list[tuple[int, T]]:
    """With their places, the first one last, so that it lies above the others."""
    return list(enumerate(series))[::-1]


def _rest(place: int) -> str:
    return "" if place < NAMED else "rest"


def _frame(plot: Plot, measure: Measure, name: str = "chance") -> None:
    if measure.chance is not None and measure.chance > 0 and not measure.text:
        plot.level(measure.chance, name)


def _range(seeds: Sequence[float], measure: Measure) -> str:
    if len(seeds) < 2:
        return ", one seed" if seeds else ""
    return f" ({measure.tell(min(seeds))} to {measure.tell(max(seeds))}, {len(seeds)} seeds)"


def _some(values: Sequence[T]) -> Sequence[T]:
    # Evenly taken: values of seeds come in the order of the seeds, which says nothing about them.
    if len(values) <= _DRAWN:
        return values
    return [values[index * len(values) // _DRAWN] for index in range(_DRAWN)]


def _powers(low: float, high: float) -> list[float]:
    found = [float(2**n) for n in range(1, 40) if low <= 2**n <= high]
    return found or [low]
