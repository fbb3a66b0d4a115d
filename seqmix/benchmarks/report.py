"""`seqmix bench report`: tables and a figure in the documentation, from JSON files, so that no number is typed."""

from pathlib import Path
from typing import Any

from seqmix._files import write_text_whole
from seqmix._markdown import code, escaped
from seqmix.benchmarks import figures, goals, gpu_peers, model_decode, optimizers, same_bits, sequences_table, views
from seqmix.benchmarks.record import Record
from seqmix.benchmarks.tables import Table, megabytes, number, percent
from seqmix.benchmarks.timing import NO_TIMES

Row = dict[str, Any]

_PEERS = (
    "plain loop",
    "associative_scan",
    "associative_scan compiled",
    "mambapy",
    "accelerated-scan ref",
    "torch conv1d",
    *gpu_peers.NAMES,
    "softmax attention",
)
_ORDER = (
    "numbers",
    "kernels",
    "layers",
    "decode",
    "fixed-point",
    "optimizers",
    "training",
    "tasks",
    "sweep",
    "sequences",
    "same-bits",
)
_INTRODUCTION = """# Benchmarks

Written by `seqmix bench report` from the JSON files of `seqmix bench ... --out`; text between the markers is replaced.
"""


def write(records: list[Record], docs: Path) -> list[Path]:
    """Write one section for each device type of `records` into `docs`, with its figure beside; returns the files.

    Sections of other devices, and everything outside the markers, stay as they are. Writing twice changes nothing.

    Raises:
        ValueError: a quick run, or a file that is not as `seqmix bench` writes it.
    """
    try:
        # A report has the records of its parts.
        return _write([each for entry in records for each in entry.get("parts", [entry])], docs)
    except (KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        # Benches have rows of a dozen kinds; what a table asks for says what they must hold.
        raise ValueError(f"FILE must be as seqmix bench writes it, got one that is not: {error!r:.120}") from error


def _write(records: list[Record], docs: Path) -> list[Path]:
    for entry in records:
        if entry["settings"].get("quick"):
            raise ValueError(f"FILE must hold standard sizes, got a --quick run: {entry['command']}")
    text = docs.read_text(encoding="utf-8") if docs.exists() else _INTRODUCTION
    written = []
    for device in sorted({entry["device"] for entry in records}):
        chosen = [entry for entry in records if entry["device"] == device]
        chosen.sort(key=lambda entry: (_ORDER.index(entry["bench"]), entry["settings"].get("sweep") or ""))
        parts = [f"## {device.upper()}"]
        for index, entry in enumerate(chosen):
            parts.append(_heading(entry))
            if entry["bench"] == "kernels":
                figure = docs.with_name(f"{docs.stem}-{device}{f'-{index}' * (index > 0)}.svg")
                figure.parent.mkdir(parents=True, exist_ok=True)
                write_text_whole(figure, figures.figure_of(entry))
                written.append(figure)
                parts.append(f"![{_caption(entry)}]({figure.name})")
            parts += _tables(entry)
        cores = {entry["machine"]["usable_cores"] for entry in chosen if entry["bench"] == "sequences"}
        parts += [sequences_table.sequences_legend(count) for count in sorted(cores)]  # once for all of them
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
        f"{code(entry['command'])}, {escaped(entry['date'][:10])}, commit {escaped(commit)}.",
        f"{escaped(machine.get('accelerator', machine['processor']))}, {escaped(machine['usable_cores'])} cores, "
        f"{escaped(machine['os'])}"
        + (f", load {load[0]:.1f} at the start" if load else "")
        + ". "
        + ", ".join(escaped(f"{name} {version}") for name, version in entry["versions"].items() if version)
        + (
            "."
            if entry["bench"] == "sweep"
            else f". Memory: {escaped(settings['memory'])}. Times are medians of up to {escaped(settings['repeats'])} "
            "samples."
        ),
    ]
    return "\n".join(lines)


def _caption(entry: Record) -> str:
    sweep = entry["settings"].get("sweep")
    return (
        f"share of a copy's speed, sweep over {escaped(sweep)}"
        if sweep
        else "time of every implementation over seqmix's"
    )


def _tables(entry: Record) -> list[str]:
    rows = entry["rows"]
    if entry["bench"] == "training":
        parts = [views.training_table(rows).markdown(), views.training_legend(rows)]
        results = goals.training_goals(rows)
    elif entry["bench"] == "numbers":
        return [views.numbers_table(rows).markdown()]
    elif entry["bench"] == "decode":
        if "layers" not in rows[0]["sizes"]:
            return [views.decode_table(rows).markdown()]
        parts = [model_decode.model_decode_table(rows).markdown(), model_decode.LEGEND]
        results = model_decode.decode_goals(rows)
    elif entry["bench"] == "tasks":
        parts = [views.tasks_table(rows).markdown()]
        results = goals.task_goals(rows)
    elif entry["bench"] == "sequences":
        parts = [sequences_table.sequences_table(rows).markdown()]
        results = sequences_table.sequence_goals(rows)
    elif entry["bench"] == "same-bits":
        parts = [same_bits.same_bits_table(rows).markdown()]
        results = same_bits.same_bits_goals(rows)
    elif entry["bench"] == "sweep":
        parts = [views.sweep_table(rows).markdown()]
        results = goals.sweep_goals(rows)
    elif entry["bench"] == "optimizers":
        parts = [optimizers.optimizers_table(rows).markdown()]
        results = optimizers.optimizer_goals(rows)
    elif entry["bench"] == "fixed-point":
        parts = [views.fixed_point_table(rows).markdown(), views.fixed_point_legend()]
        results = goals.fixed_point_goals(rows)
    elif entry["bench"] == "layers":
        parts = [views.layers_table(rows).markdown(), views.layers_legend()]
        results = goals.layer_goals(rows)
    else:
        parts = [kernel_summary(rows).markdown(), views.kernel_legend()]
        results = goals.goals_of(entry)
    if results:
        parts += ["What was set out to be reached:", views.goals_table(results).markdown()]
    return parts


def kernel_summary(rows: list[Row]) -> Table:
    """A line for every case, pass and thread count: seqmix's time, and how much longer the others take."""
    peers = [name for name in _PEERS if any(row["contestant"] == name for row in rows)]
    columns = ["case", "pass", "threads", "seqmix ms [20 %, 80 %]", "/copy"]
    on_gpu = any(row.get("peak_bytes") is not None for row in rows)
    table = Table("kernels", [*columns, *(["first ms", "peak MB"] if on_gpu else []), *peers], left=2)
    for own in rows:
        if own["role"] != "seqmix":
            continue
        same = {
            row["contestant"]: row
            for row in rows
            if all(row[k] == own[k] for k in ("case", "sizes", "pass", "threads"))
        }
        sizes = f"{own['case']} ({views.sizes_text(own['sizes'])})"
        line = [
            sizes,
            own["pass"] or "-",
            str(own["threads"] or "-"),
            views.times_text(own),
            percent(own["copy_fraction"]),
        ]
        if on_gpu:
            line += [number(own.get("first_ms")), megabytes(own.get("peak_bytes"))]
        table.rows.append([*line, *(_ratio(same.get(name)) for name in peers)])
    return table


def _ratio(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{number(row['times_seqmix'])} x" if row["times_seqmix"] else views.times_text(row | NO_TIMES)
