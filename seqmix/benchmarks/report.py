"""`seqmix bench report`: tables and a figure in the documentation, from JSON files, so that no number is typed."""

import io
from pathlib import Path
from typing import Any

from seqmix._extras import require
from seqmix._files import write_text_whole
from seqmix.benchmarks import goals, views
from seqmix.benchmarks.kernels import BOTH
from seqmix.benchmarks.record import Record
from seqmix.benchmarks.tables import Table, number, percent
from seqmix.benchmarks.timing import NO_TIMES

Row = dict[str, Any]

_PEERS = (
    "plain loop",
    "associative_scan",
    "associative_scan compiled",
    "mambapy",
    "accelerated-scan ref",
    "torch conv1d",
)
_MARKERS = {"copy": "|", "copy to fresh memory": "s", "product": "D", "diagonal_scan": "v"}
_INTRODUCTION = """# Benchmarks

Written by `seqmix bench report` from the JSON files of `seqmix bench ... --out`; text between the markers is replaced.
"""


def write(records: list[Record], docs: Path) -> list[Path]:
    """Write one section for each device type of `records` into `docs`, with its figure beside; returns the files.

    Sections of other devices, and everything outside the markers, stay as they are. Writing twice changes nothing.
    """
    for entry in records:
        if entry["settings"]["quick"]:
            raise ValueError(f"FILE must hold standard sizes, got a --quick run: {entry['command']}")
    text = docs.read_text(encoding="utf-8") if docs.exists() else _INTRODUCTION
    written = []
    for device in sorted({entry["device"] for entry in records}):
        chosen = [entry for entry in records if entry["device"] == device]
        chosen.sort(key=lambda entry: ("kernels", "layers", "decode").index(entry["bench"]))
        parts = [f"## {device.upper()}"]
        for index, entry in enumerate(chosen):
            parts.append(_heading(entry))
            if entry["bench"] == "kernels":
                figure = docs.with_name(f"{docs.stem}-{device}{f'-{index}' * (index > 0)}.svg")
                figure.parent.mkdir(parents=True, exist_ok=True)
                write_text_whole(figure, _figure(entry))
                written.append(figure)
                parts.append(f"![time of every implementation over seqmix's]({figure.name})")
            parts += _tables(entry)
        text = _replace(text, device, "\n\n".join(parts))
    docs.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(docs, text)
    return [docs, *written]


def _replace(text: str, device: str, section: str) -> str:
    begin, end = f"<!-- bench {device}: begin -->", f"<!-- bench {device}: end -->"
    if (begin in text) != (end in text) or text.count(begin) > 1 or text.find(begin) > text.find(end):
        raise ValueError(f"--docs must hold {begin} before {end}, once each or not at all")
    block = f"{begin}\n{section}\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n{block}\n"
    before, _, rest = text.partition(begin)
    return before + block + rest.partition(end)[2]


def _heading(entry: Record) -> str:
    machine, settings = entry["machine"], entry["settings"]
    commit = entry["commit"][:12] + (" with changes" if entry["dirty"] else "") if entry["commit"] else "installed"
    load = machine.get("load_average")
    lines = [
        f"### {entry['bench'].capitalize()}",
        "",
        f"`{entry['command']}`, {entry['date'][:10]}, commit {commit}.",
        f"{machine.get('accelerator', machine['processor'])}, {machine['usable_cores']} cores, {machine['os']}"
        + (f", load {load[0]:.1f} at the start" if load else "")
        + ". "
        + ", ".join(f"{name} {version}" for name, version in entry["versions"].items() if version)
        + f". Memory: {settings['memory']}. Times are medians of up to {settings['repeats']} samples.",
    ]
    return "\n".join(lines)


def _tables(entry: Record) -> list[str]:
    rows = entry["rows"]
    if entry["bench"] == "decode":
        return [views.decode_table(rows).markdown()]
    if entry["bench"] == "layers":
        parts = [views.layers_table(rows).markdown(), views.layers_legend()]
        results = goals.layer_goals(rows)
    else:
        parts = [kernel_summary(rows).markdown(), views.kernel_legend()]
        results = goals.kernel_goals(rows)
    if results:
        parts += ["What was set out to be reached:", views.goals_table(results).markdown()]
    return parts


def kernel_summary(rows: list[Row]) -> Table:
    """A line for every case, pass and thread count: seqmix's time, and how much longer the others take."""
    peers = [name for name in _PEERS if any(row["contestant"] == name for row in rows)]
    table = Table("kernels", ["case", "pass", "threads", "seqmix ms [20 %, 80 %]", "/copy", *peers], left=2)
    for own in rows:
        if own["role"] != "seqmix":
            continue
        same = {row["contestant"]: row for row in rows if all(row[k] == own[k] for k in ("case", "pass", "threads"))}
        sizes = f"{own['case']} ({views.sizes_text(own['sizes'])})"
        line = [
            sizes,
            own["pass"] or "-",
            str(own["threads"] or "-"),
            views.times_text(own),
            percent(own["copy_fraction"]),
        ]
        table.rows.append([*line, *(_ratio(same.get(name)) for name in peers)])
    return table


def _ratio(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{number(row['times_seqmix'])} x" if row["times_seqmix"] else views.times_text(row | NO_TIMES)


def _figure(entry: Record) -> str:
    """Time over seqmix's, forward and backward on the fewest threads, as SVG that is the same for the same numbers."""
    require("matplotlib", extra="train", owner="seqmix bench report")
    import matplotlib
    from matplotlib.figure import Figure

    rows = [row for row in entry["rows"] if row["pass"] == BOTH and row["times_seqmix"]]
    fewest = min((row["threads"] for row in rows), default=1)
    rows = [row for row in rows if row["threads"] == fewest and row["role"] != "seqmix"]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    with matplotlib.rc_context({"svg.hashsalt": "seqmix", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 1.2 + 0.42 * max(1, len(cases))), layout="constrained")
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
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
