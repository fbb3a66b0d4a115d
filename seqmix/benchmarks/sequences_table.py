"""The table of `seqmix bench sequences`, and what was set out to be reached."""

from typing import Any

from seqmix.benchmarks.tables import Table, megabytes, number
from seqmix.benchmarks.views import mixer_text, times_text

__all__ = ["sequence_goals", "sequences_legend", "sequences_table"]

Row = dict[str, Any]

_GOAL = (131_072, 2, 0.6)  # tokens, ranks, share of the memory of one process


def sequences_table(rows: list[Row]) -> Table:
    """A line for every mixer, length, form and number of ranks."""
    sizes = rows[0]["sizes"]
    title = f"one sequence, {sizes['layers']} layers of width {sizes['d_model']}, forward and backward, float32"
    columns = ["mixer", "form", "T", "ranks", "ms [20 %, 80 %]", "tokens/s", "x one", "processor ms"]
    columns += ["x one", "schedule", "MB", "of one"]
    table = Table(title, columns, left=2)
    for row in rows:
        cells = [mixer_text(row), row["form"], f"{row['sizes']['T']:,}", str(row["ranks"]), times_text(row)]
        cells += [number(row["tokens_per_second"]), number(row["times_one"], 2), number(row["processor_ms"])]
        cells += [number(row["processor_times_one"], 2), number(row["schedule"], 2)]
        table.rows.append([*cells, megabytes(row["peak_bytes"]), number(row["memory_share"], 2)])
    table.note = "\n".join(f"{mixer_text(row)}, {row['form']}: {row['reason']}" for row in rows if row["reason"])
    return table


def sequences_legend(cores: int | None) -> str:
    """What the columns of `sequences_table` mean."""
    return (
        "A step with the sum of its gradients over the ranks; all lines of a length took turns in the same processes,\n"
        f"of one thread each. This machine has {cores} cores: more ranks than cores share them, and are no faster.\n"
        "x one: one process's time over this one's, first by the clock, with what else the machine does, then of\n"
        "the processor, for the rank that takes most, without waiting; schedule: by the formula of\n"
        "docs/distributed.md, when messages cost nothing and every rank has a core (two passes: ranks over what the\n"
        "scans of a middle rank cost, which one process did alone, for so many ranks; keys: those of the last rank);\n"
        "MB: what the step adds to the memory of the rank that takes most; of one: over what it adds to one process."
    )


def sequence_goals(rows: list[Row]) -> list[tuple[str, str, bool]]:
    """(goal, measured, met): memory of a rank."""
    length, ranks, most = _GOAL
    return [
        (
            f"{row['mixer']}, {row['form']}: a rank of {ranks} at T = {length:,} takes at most {most} of one process",
            number(row["memory_share"], 2),
            row["memory_share"] <= most,
        )
        for row in rows
        if (row["sizes"]["T"], row["ranks"]) == (length, ranks)
        and row["form"] in ("two-pass", "pipeline")
        and row["memory_share"] is not None
    ]
