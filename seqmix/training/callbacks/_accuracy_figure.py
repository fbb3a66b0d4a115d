"""Accuracy by length as a figure: every measure is seen where several lie on one another, each with its own chance."""

from pathlib import Path
from typing import Any

from seqmix._figures import COLOURS, MARKERS, new_figure
from seqmix._measures import MEASURES

__all__ = ["columns_of", "draw", "is_text"]

Row = dict[str, Any]

# Measures that agree, as all do at 1, lie on one another: the first is drawn widest, those behind it inside.
_WIDTHS = (9.0, 7.0, 4.0, 1.6)


def is_text(rows: list[Row]) -> bool:
    """Whether it is bits per byte that counts."""
    return all(bits_of(row) in row for row in rows)


def bits_of(row: Row) -> str:
    """What a row of text has: bits per byte, or a bound on them."""
    return "bits_per_byte_bound" if "bits_per_byte_bound" in row else "bits_per_byte"


def columns_of(rows: list[Row]) -> dict[str, str]:
    """The measures that all rows have, with their titles."""
    shown = sorted((measure for measure in MEASURES if measure.place), key=lambda measure: measure.place)
    return {measure.name: measure.title for measure in shown if all(measure.name in row for row in rows)}


def draw(
    path: Path, rows: list[Row], title: str, chance: float | None, trained: int | None, targets: dict[str, float]
) -> None:
    """Write the figure; `targets` are those of a sequence, by set, `chance` is that of guessing one of them."""
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    names = [str(row["length"]) for row in rows]
    numbers = all(name.isdecimal() for name in names)
    places = [row["length"] for row in rows] if numbers else list(range(len(rows)))
    text = is_text(rows)
    bits = bits_of(rows[0])
    shown = [bits] if text else list(columns_of(rows))
    for at, name in enumerate(shown):
        values, colour = [row[name] for row in rows], COLOURS[at % len(COLOURS)]
        width = _WIDTHS[max(at - len(shown), -len(_WIDTHS))]
        style = {"color": colour, "linewidth": width, "marker": MARKERS[at % len(MARKERS)], "markersize": 4 + width}
        axes.plot(places, values, label=columns_of(rows)[name], alpha=0.5 if width > 2 else 1.0, **style)
        guessed = [_guess(name, chance, targets.get(each)) for each in names]
        if not text and all(guess is not None for guess in guessed):
            # Dashes in turn, so that equal chances are both seen.
            axes.plot(places, guessed, color=colour, linestyle=(2 * at, (2, 4)), linewidth=1.2)
    if trained and numbers:
        axes.axvline(trained, color="0.6", linestyle="--", linewidth=1, label="training length")
    if chance and not text:
        axes.plot([], [], color="0.4", linestyle=(0, (2, 4)), linewidth=1.2, label="chance of each")
    axes.set(xlabel="sequence length" if numbers else "test set")
    axes.set_title(title, fontsize="medium", wrap=True)
    # From 0, so that noise of a hundredth of a bit is no trend.
    axes.set(ylabel=columns_of(rows)[bits], ylim=(0, 1.08 * max(row[bits] for row in rows))) if text else axes.set(
        ylabel="accuracy", ylim=(-0.03, 1.03)
    )
    if numbers and len(rows) > 1:  # a single length has no scale
        axes.set_xscale("log")
    axes.set_xticks(places, names)
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150, format="png")


def _guess(measure: str, chance: float | None, targets: float | None) -> float | None:
    """What guessing gives; a whole sequence is right if each of its answers is."""
    if chance is None or measure != "sequence_accuracy":
        return chance
    return None if targets is None else chance**targets
