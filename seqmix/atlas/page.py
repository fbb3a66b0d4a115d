"""The atlas as a table in Markdown and as a figure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from seqmix._figures import encode, new_figure, style
from seqmix.atlas.cells import AUTOMATA, GROUPS, LAYERS, cell
from seqmix.atlas.constructions import plan
from seqmix.atlas.constructions.states import UNBUILT
from seqmix.atlas.prediction import Prediction, automaton_of
from seqmix.atlas.traits import mixer_of
from seqmix.tasks.automata import describe

__all__ = ["Cells", "cells_of", "draw", "place", "sheet", "table", "unbuilt"]

SIGNS = {"can": "Y", "cannot": "-", "open": "?"}
_COLOURS = {"can": "#2a9d8f", "cannot": "#e76f51", "open": "#e9e9e9"}
_SIGN = "#1d2733"
Cells = dict[tuple[str, str], Prediction]


def cells_of(mixers: Sequence[str], automata: Sequence[str], n_layers: int = 1) -> Cells:
    return {(mixer, automaton): cell(mixer, automaton, n_layers) for mixer in mixers for automaton in automata}


def table(cells: Cells, mixers: Sequence[str], automata: Sequence[str], n_layers: int = 1) -> str:
    """A row a mixer, a column an automaton, and which theorems rows lean on; of one layer also what the columns are."""
    layers = "one layer" if n_layers == 1 else f"{n_layers} layers"
    lines = [f"| {layers} | {' | '.join(automata)} | theorems |", f"|---{'|:-:' * len(automata)}|---|"]
    for mixer in mixers:
        row = [cells[mixer, automaton] for automaton in automata]
        used = dict.fromkeys(p.theorem for p in row if p.verdict == "cannot")
        lines.append(f"| {mixer} | {' | '.join(SIGNS[p.verdict] for p in row)} | {', '.join(map(str, used))} |")
    decided = sum(p.verdict != "open" for p in cells.values())
    lines += [
        "",
        f"Y can, with written weights; - cannot, by a theorem; ? open. {decided} of {len(cells)} cells are decided.",
    ]
    lines[-1] += unbuilt(cells)
    if n_layers > 1:
        return "\n".join(lines)
    lines += [
        "",
        "| automaton | name | states | letters | monoid | groups | conditions that hold |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for automaton in automata:
        about = describe(automaton_of(AUTOMATA.get(automaton, automaton)))
        holds = [name for name in ("P0", "P", "S", "C", "EL", "Rt") if getattr(about, name)]
        lines.append(
            f"| {automaton} | `{AUTOMATA.get(automaton, automaton)}` | {about.states} | {about.letters} | "
            f"{about.monoid} | {', '.join(about.groups or ()) or '-'} | {' '.join(holds) or '-'} |"
        )
    return "\n".join(lines)


def unbuilt(cells: Cells) -> str:
    """A sentence about cells whose weights are a formula alone, with a space in front; empty where there are none."""
    large = [f"{mixer} on {automaton}" for (mixer, automaton), found in cells.items() if UNBUILT in found.says]
    return f" By the formula of their weights, too many to be written out: {', '.join(large)}." if large else ""


def sheet(mixer: str, automaton: str, found: Prediction, entry: Any, n_layers: int = 1) -> str:
    """All that is known of one cell, in lines."""
    lines = [f"{mixer}, {automaton}: {found.verdict}"]
    lines += [f"  {name}: {value}" for name, value in (("by", found.theorem), ("which says", found.says)) if value]
    lines += [f"  here: {hypothesis}" for hypothesis in found.hypotheses]
    lines += [f"  {name}: {value}" for name, value in (("source", found.source), ("in", found.precision)) if value]
    if found.verdict == "can":
        made = plan(mixer_of(entry), automaton_of(AUTOMATA.get(automaton, automaton)), n_layers)
        if made is not None:
            lines.append(f"  states stay exact: {'yes' if made.exact else 'no'}")
    return "\n".join(lines)


def place(mixer: str, automaton: str) -> str:
    """Where a cell stands in the folder of pages: `mamba-signed.html#z2-reset`."""
    page, anchor = (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in (mixer, automaton))
    return f"{page}.html#{anchor}"


def draw(
    cells: Cells,
    mixers: Sequence[str],
    automata: Sequence[str],
    kind: str,
    counts: Mapping[tuple[str, str], tuple[int, int, int]] | None = None,
    folder: str | None = None,
) -> bytes:
    """The table as coloured fields, as `svg` or `png`; lines part kinds of automata and of layers.

    `counts` are runs solved, runs and certified networks of cells, shown by a disc and a diamond. In an SVG a click on
    a field leads to its place in the pages of `folder`. The same cells, the same file.
    """
    with style("seqmix atlas", settings={"font.sans-serif": ["DejaVu Sans"]}):
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Patch, Rectangle

        figure = new_figure(3.4 + 0.36 * len(automata), 2.0 + 0.24 * len(mixers))
        ax = figure.subplots()
        places = [(x, y, m, a) for y, m in enumerate(mixers) for x, a in enumerate(automata)]
        fields = PatchCollection(
            [Rectangle((x - 0.48, y - 0.46), 0.96, 0.92) for x, y, _, _ in places],
            facecolors=[_COLOURS[cells[m, a].verdict] for _, _, m, a in places],
        )
        if folder is not None:
            fields.set_urls([folder + place(m, a) for _, _, m, a in places])
        ax.add_collection(fields)
        aside = 0.2 if counts else 0.0
        for x, y, m, a in places:
            ax.text(x - aside, y, SIGNS[cells[m, a].verdict], ha="center", va="center", fontsize=7, color=_SIGN)
        handles = [Patch(color=colour, label=name) for name, colour in _COLOURS.items()]
        handles += [] if counts is None else _discs(ax, [(x, y, counts[m, a]) for x, y, m, a in places])
        for names, known, line in ((automata, GROUPS, ax.axvline), (mixers, LAYERS, ax.axhline)):
            for first, last, title in _runs(names, known):
                if last < len(names) - 1:
                    line(last + 0.5, color="black", linewidth=1.2)
                where = ((first + last) / 2, -0.7) if names is automata else (len(automata) - 0.3, (first + last) / 2)
                ha, va = ("center", "bottom") if names is automata else ("left", "center")
                ax.text(*where, title, ha=ha, va=va, fontsize=7, style="italic")
        ax.set_xlim(-0.5, len(automata) - 0.5)
        ax.set_ylim(len(mixers) - 0.5, -0.5)
        ax.set_xticks(range(len(automata)), list(automata), rotation=60, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(mixers)), list(mixers))
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=8)
        return encode(figure, kind)


def _discs(ax: Any, places: Sequence[tuple[int, int, tuple[int, int, int]]]) -> list[Any]:
    """A disc for what was learned, full, grey or empty, and a diamond where a network was certified; their legend."""
    handles = []
    for label, colour, chosen in (
        ("every run learns it", _SIGN, lambda solved, runs: runs and solved == runs),
        ("some do", "#9aa0a8", lambda solved, runs: 0 < solved < runs),
        ("none does", "white", lambda solved, runs: runs and not solved),
    ):
        some = [(x + 0.12, y) for x, y, (solved, runs, _) in places if chosen(solved, runs)]
        options = {"s": 16, "facecolors": colour, "edgecolors": _SIGN, "linewidths": 0.6, "zorder": 3}
        handles.append(ax.scatter(*zip(*some, strict=True) if some else ((), ()), label=label, **options))
    proved = [(x + 0.36, y) for x, y, (_, _, certified) in places if certified]
    options = {"s": 14, "marker": "D", "facecolors": "#ffd166", "edgecolors": _SIGN, "linewidths": 0.6, "zorder": 3}
    return [*handles, ax.scatter(*zip(*proved, strict=True) if proved else ((), ()), label="certified", **options)]


def _runs(names: Sequence[str], known: Mapping[str, Sequence[str]]) -> list[tuple[int, int, str]]:
    """First and last place of the names of one kind that stand together, and what the kind is called."""
    kinds = {name: kind for kind, some in known.items() for name in some}
    found: list[tuple[int, int, str]] = []
    for place, name in enumerate(names):
        if found and found[-1][2] == kinds[name]:
            found[-1] = (found[-1][0], place, kinds[name])
        else:
            found.append((place, place, kinds[name]))
    return found
