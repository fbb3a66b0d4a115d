"""Tables of results: the same rows for the terminal and for the documentation."""

from typing import Any

from seqmix.benchmarks import gate
from seqmix.benchmarks.kernels import BOTH, FORWARD
from seqmix.benchmarks.tables import Table, megabytes, number, percent

Row = dict[str, Any]

_STATUS = {"wrong": "WRONG", "error": "failed", "missing": "missing", "skipped": "skipped"}


def sizes_text(sizes: dict[str, int]) -> str:
    """Sizes in one phrase."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def times_text(row: Row) -> str:
    """Median with its quantiles, or why there is none."""
    if row["status"] != "ok":
        return _STATUS[row["status"]]
    return f"{number(row['median_ms'])} [{number(row['q20_ms'])}, {number(row['q80_ms'])}]"


def case_table(rows: list[Row]) -> Table:
    """One case at one thread count, in full: a line for every contestant."""
    first = rows[0]
    threads = first["threads"]
    title = f"{first['case']} ({sizes_text(first['sizes'])}) {first['dtype']}"
    if threads is not None:
        title += f", {threads} thread{'s' * (threads > 1)}"
    columns = ["", "forward ms [20 %, 80 %]", "min", "/copy", "x seqmix"]
    columns += ["fwd+bwd ms [20 %, 80 %]", "min", "/copy", "x seqmix", "kept MB", "error"]
    table = Table(title, columns)
    notes = []
    for name in dict.fromkeys(row["contestant"] for row in rows):
        line, mine = [name], [row for row in rows if row["contestant"] == name]
        for kind in (FORWARD, BOTH):
            row = next((row for row in mine if row["pass"] in (kind, None)), mine[0])
            line += [times_text(row), number(row["min_ms"]), percent(row["copy_fraction"]), number(row["times_seqmix"])]
        kept, error = mine[0]["kept_beyond_inputs_bytes"], mine[0]["error_over_allowed"]
        table.rows.append([*line, megabytes(kept), number(error, 2)])
        if mine[0]["reason"]:
            notes.append(f"{name}: {_STATUS[mine[0]['status']]}, {mine[0]['reason']}")
    table.note = "\n".join(notes)
    return table


def kernel_legend() -> str:
    """What the columns of `case_table` mean."""
    return (
        "/copy: time of a copy that moves as many bytes (inputs and outputs once), over the time; x seqmix: median\n"
        "over seqmix's; kept MB: memory kept for the backward pass beyond the inputs; error: largest error of outputs\n"
        f"and gradients against the float64 loop, over what is allowed: {gate.rule(exact=True)},\n"
        f"for those that associate in another order {gate.rule(exact=False)}."
    )


def layers_table(rows: list[Row]) -> Table:
    """All mixers of `seqmix bench layers`."""
    sizes = rows[0]["sizes"]
    columns = ["mixer", "threads", "forward ms", "fwd+bwd ms [20 %, 80 %]", "tokens/s", "parameters", "state"]
    columns += ["products", "scan", "rest", "accounted", "decode ms"]
    table = Table(f"layers ({sizes_text(sizes)}) {rows[0]['dtype']}", columns)
    for row in rows:
        line = [mixer_text(row), str(row["threads"]), number(row["forward_median_ms"]), times_text(row)]
        line += [number(row["tokens_per_second"]), str(row.get("parameters", "-")), str(row.get("state_size", "-"))]
        line += [percent(row[f"share_{part}"]) for part in ("products", "mixing", "rest")]
        table.rows.append([*line, percent(row["accounted"]), number(row["decode_median_ms"])])
    table.note = _reasons(rows)
    return table


def layers_legend() -> str:
    """What the columns of `layers_table` mean."""
    return (
        "products, scan, rest: shares of a profiled step (forward and backward) in matrix products, in the mixing op\n"
        "(scan, attention, LSTM loop) and in everything else; accounted: share of the step that the profiler's events\n"
        "add up to; state: numbers kept per sequence after T tokens; decode: one token at batch size 1 after T tokens."
    )


def decode_table(rows: list[Row]) -> Table:
    """All mixers and batch sizes of `seqmix bench decode`."""
    sizes = rows[0]["sizes"]
    title = f"decoding after T={sizes['T']} tokens, d_model={sizes['d_model']}, {rows[0]['dtype']}"
    table = Table(title, ["mixer", "threads", "batch", "ms a token [20 %, 80 %]", "min", "tokens/s"])
    for row in rows:
        how = f"{row['threads']}{', graph' * row.get('graph', False)}"
        line = [mixer_text(row), how, str(row["sizes"]["B"]), times_text(row), number(row["min_ms"])]
        table.rows.append([*line, number(row["tokens_per_second"])])
    table.note = _reasons(rows)
    return table


def fixed_point_table(rows: list[Row]) -> Table:
    """All solvers of `seqmix bench fixed-point`."""
    sizes = rows[0]["sizes"]
    title = f"fixed points (B={sizes['B']}, d_model={sizes['d_model']}), {rows[0]['dtype']}"
    columns = ["case", "solver", "threads", "forward ms [20 %, 80 %]", "fwd+bwd ms", "error", "sweeps", "fallback"]
    table = Table(title, columns, left=2)
    for row in rows:
        if row["solve_ms"] is not None:
            continue
        line = [row["case"], row["solver"], str(row["threads"]), times_text(row), number(row["step_median_ms"])]
        sweeps = "-" if row["sweeps"] is None else f"{row['sweeps']:.0f}"
        table.rows.append([*line, f"{row['error']:.1e}", sweeps, percent(row["fallback"])])
    return table


def fixed_point_legend() -> str:
    """What the columns of `fixed_point_table` mean."""
    return (
        "error: of the layer's output against its float64 sequential solve, beside the largest number; sweeps: of the\n"
        "sequence that took the most; fallback: sequences whose sweeps diverged or went astray, solved sequentially.\n"
        "linear: no hidden dependence but that of c, so chunks can be solved at once."
    )


def tasks_table(rows: list[Row]) -> Table:
    """All tasks of `seqmix bench tasks`."""
    columns = ["task", "batch", "T", "batches a sample", "ms a sample [20 %, 80 %]", "sequences/s", "tokens/s"]
    table = Table("training batches on one core", columns)
    for row in rows:
        line = [
            row["task"],
            str(row["sizes"]["B"]),
            str(row["sizes"]["T"]),
            str(row["batches"] or "-"),
            times_text(row),
        ]
        table.rows.append([*line, number(row["sequences_per_second"]), number(row["tokens_per_second"])])
    table.note = "\n".join(f"{row['task']}: {row['reason']}" for row in rows if row["reason"])
    return table


def sweep_table(rows: list[Row]) -> Table:
    """Sweeps of `seqmix bench sweep`."""
    columns = [
        "runs",
        "jobs",
        "s of training",
        "sweep s",
        "runs' own s / jobs",
        "overhead",
        "start s",
        "lag ms",
        "end s",
    ]
    table = Table("sweeps", columns, left=0)
    for row in rows:
        settings, lag = row["settings"], row["lag_seconds"]
        times = [f"{row['wall_seconds']:.1f}", f"{row['own_seconds'] / settings['jobs']:.1f}"]
        times += [f"{row['overhead']:.1%}", f"{row['start_seconds']:.1f}", "-" if lag is None else f"{1e3 * lag:.0f}"]
        times += [f"{row['end_seconds']:.1f}"]
        table.rows.append([*(str(settings[name]) for name in ("runs", "jobs", "seconds")), *times])
    table.note = (
        "start: imports before the first run; lag: what a run takes beyond its process, to start and to be recorded; "
        "end: after the last record"
    )
    return table


def numbers_table(rows: list[Row]) -> Table:
    """All mixers of `seqmix bench numbers`."""
    title = f"against float64 on the CPU ({sizes_text(rows[0]['sizes'])}) {rows[0]['dtype']}"
    table = Table(title, ["mixer", "error over what is allowed", "of", ""])
    for row in rows:
        line = [mixer_text(row), number(row["worst"]), row["where"], _STATUS.get(row["status"], "agrees")]
        table.rows.append(line)
    table.note = _reasons(rows)
    return table


def goals_table(results: list[tuple[str, str, bool]]) -> Table:
    """Goals with what was measured."""
    table = Table("goals", ["goal", "measured", ""])
    table.rows = [(text, measured, "met" if met else "missed") for text, measured, met in results]
    return table


def mixer_text(row: Row) -> str:
    """A mixer with the arguments that are not its defaults."""
    arguments = ", ".join(f"{key}={value}" for key, value in row["arguments"].items())
    return f"{row['mixer']} ({arguments})" if arguments else row["mixer"]


def _reasons(rows: list[Row]) -> str:
    return "\n".join(f"{row['mixer']}: {row['reason']}" for row in rows if row["reason"])


def training_table(rows: list[Row]) -> Table:
    """All mixers of `seqmix bench training`; those of a CPU with the shares of a step."""
    first = rows[0]
    title = f"training steps ({sizes_text(first['sizes'])}) {first['dtype']}"
    apart = any(row.get("share_products") for row in rows)
    columns = ["mixer", "threads", "parameters", "ms a step", "first ms", "tokens/s"]
    columns += ["products", "scan", "rest"] if apart else ["utilisation"]
    table = Table(title, [*columns, "peak MB", "loss"])
    for row in rows:
        threads = str(row.get("threads") or "-")
        if row["status"] != "ok":
            table.rows.append([mixer_text(row), threads, *["-"] * (len(columns) - 1), _STATUS[row["status"]]])
            continue
        step = times_text(row) if "median_ms" in row else number(row["step_ms"])  # a long one is taken once
        line = [mixer_text(row), threads, str(row["parameters"]), step]
        line += [number(row["first_ms"]), number(row["tokens_per_second"])]
        shares = [f"share_{part}" for part in ("products", "mixing", "rest")] if apart else ["utilisation"]
        line += [percent(row.get(share)) for share in shares]
        table.rows.append([*line, megabytes(row["peak_bytes"]), f"{row['first_loss']:.2f} to {row['last_loss']:.2f}"])
    table.note = _reasons(rows)
    return table


def training_legend(rows: list[Row]) -> str:
    """What the columns of `training_table` mean."""
    common = (
        "Random bytes, whose entropy is ln 256 = 5.55: the loss must stay finite and go there. first: the first\n"
        "step, with compilation; peak: memory of tensors beyond those before the step; weights and AdamW in float32.\n"
    )
    if any(row.get("share_products") for row in rows):
        return common + (
            "products: what the step's own matrix products take alone, same shapes, in turns with the step, over the\n"
            "step; scan: share of a profiled step in the mixing op; rest: everything else. A peer's LSTM has its\n"
            "products within its loop. A step of more than half a minute is taken once, and not apart."
        )
    return common + (
        "utilisation: operations of the model (6 for each token and weight outside the embedding, and 6 T d for each\n"
        "layer of attention; scans count nothing) over those of a large matrix product in the same time; forward pass\n"
        "under autocast."
    )
