"""The atlas as a table in Markdown and as a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqmix._figures import encode, new_figure, style
from seqmix.atlas.cells import AUTOMATA, GROUPS, cell
from seqmix.atlas.constructions import plan
from seqmix.atlas.prediction import Prediction, automaton_of
from seqmix.atlas.traits import mixer_of
from seqmix.tasks.automata import describe

__all__ = ["draw", "sheet", "table"]

SIGNS = {"can": "Y", "cannot": "-", "open": "?"}
_COLOURS = {"can": "#2a9d8f", "cannot": "#e76f51", "open": "#e9e9e9"}
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


def draw(cells: Cells, mixers: Sequence[str], automata: Sequence[str], kind: str) -> bytes:
    """The table as coloured fields, as `svg` or `png`; lines part groups of automata. The same cells, the same file."""
    names = list(_COLOURS)
    values = np.array([[names.index(cells[m, a].verdict) for a in automata] for m in mixers])
    with style("seqmix atlas"):
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        figure = new_figure(2.6 + 0.34 * len(automata), 1.6 + 0.24 * len(mixers))
        ax = figure.subplots()
        ax.imshow(values, cmap=ListedColormap(list(_COLOURS.values())), vmin=0, vmax=len(names) - 1, aspect="auto")
        for y, mixer in enumerate(mixers):
            for x, automaton in enumerate(automata):
                ax.text(x, y, SIGNS[cells[mixer, automaton].verdict], ha="center", va="center", fontsize=7)
        ends = [group[-1] for group in GROUPS]
        for x, automaton in enumerate(automata[:-1]):
            if automaton in ends:
                ax.axvline(x + 0.5, color="black", linewidth=1.2)
        ax.set_xticks(range(len(automata)), list(automata), rotation=60, ha="right")
        ax.set_yticks(range(len(mixers)), list(mixers))
        ax.legend(
            handles=[Patch(color=colour, label=name) for name, colour in _COLOURS.items()],
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False,
        )  # fmt: skip
        return encode(figure, kind)
