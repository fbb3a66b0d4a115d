"""Figures of results, as SVG that is the same for the same numbers."""

from seqmix._figures import encode, new_figure, style
from seqmix.benchmarks.kernels import BOTH, FORWARD
from seqmix.benchmarks.record import Record

_MARKERS = {"copy": "|", "copy to fresh memory": "s", "product": "D", "diagonal_scan": "v"}


def figure_of(entry: Record) -> str:
    """What shows a record of `seqmix bench kernels` best."""
    return contestants_figure(entry) if entry["settings"].get("sweep") is None else sweep_figure(entry)


def sweep_figure(entry: Record) -> str:
    """Of each case, the share of a copy's speed against length or block size: seqmix solid, the others dashed."""
    axis = "m" if entry["settings"]["sweep"] == "block" else "T"
    rows = [row for row in entry["rows"] if row["copy_fraction"] and row["role"] in ("seqmix", "peer")]
    rows = [row for row in rows if row["threads"] == min(row["threads"] for row in rows)]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    with style("seqmix bench report", extra="train"):
        figure = new_figure(9, 0.6 + 2.4 * max(1, len(cases)))
        grid = figure.subplots(max(1, len(cases)), 2, squeeze=False, sharey=True)
        for line, case in zip(grid, cases, strict=False):
            for axes, kind in zip(line, (FORWARD, BOTH), strict=True):
                mine = [row for row in rows if row["case"] == case and row["pass"] == kind]
                for name in dict.fromkeys(row["contestant"] for row in mine):
                    points = [row for row in mine if row["contestant"] == name]
                    axes.plot(
                        [row["sizes"][axis] for row in points],
                        [100 * row["copy_fraction"] for row in points],
                        marker="o",
                        linestyle="-" if name == "seqmix" else "--",
                        label=name,
                    )
                axes.set_xscale("log", base=2)
                axes.set_title(f"{case}, {kind}", fontsize="medium")
                axes.set_xlabel(axis)
                axes.set_ylim(bottom=0)
                axes.grid(alpha=0.3)
            line[0].set_ylabel("% of a copy's speed")
            line[1].legend(frameon=False, fontsize="small")
        return encode(figure, "svg").decode()


def contestants_figure(entry: Record) -> str:
    """Time over seqmix's, forward and backward on the fewest threads."""
    rows = [row for row in entry["rows"] if row["pass"] == BOTH and row["times_seqmix"]]
    fewest = min((row["threads"] for row in rows), default=1)
    rows = [row for row in rows if row["threads"] == fewest and row["role"] != "seqmix"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    with style("seqmix bench report", extra="train"):
        figure = new_figure(8, 1.2 + 0.42 * max(1, len(cases)))
        axes = figure.add_subplot()
        for name in dict.fromkeys(row["contestant"] for row in rows):
            mine = [row for row in rows if row["contestant"] == name]
            axes.scatter(
                [row["times_seqmix"] for row in mine],
                [cases.index(row["case"]) for row in mine],
                label=name,
                color="grey" if mine[0]["role"] == "yardstick" else None,
                marker=_MARKERS.get(name, "o"),
            )
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(cases)), cases)
        axes.invert_yaxis()
        where = f"forward and backward, {fewest} thread{'s' * (fewest > 1)}"
        axes.set_xlabel(f"time over seqmix's (right of 1: slower than seqmix), {where}")
        axes.grid(axis="x", alpha=0.3)
        if cases:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
        return encode(figure, "svg").decode()
