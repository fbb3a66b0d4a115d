"""What the page of a cell shows: its runs, each with the command that runs it again."""

from collections.abc import Sequence

from seqmix.leaderboard.cost.sizes import counted_flops
from seqmix.leaderboard.page import words
from seqmix.leaderboard.page.plots import curve_plot, length_plot, rate_plot
from seqmix.leaderboard.page.task_page import Shared, series_of
from seqmix.leaderboard.page.views import View
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import broken, learning_rate
from seqmix.leaderboard.tables.runs import circumstances, mixer_of

__all__ = ["cell_view", "runs_part"]


def cell_view(view: View, shared: Shared) -> View:
    """Headline numbers, plots and the columns of the table."""
    cell, task = view["cell"], view["task"]
    bad = [told for run in cell.runs if (told := broken(run))]
    commits = list(dict.fromkeys(words.commit_of(run) for run in cell.runs))
    notes = [f"{bad.count(kind)} of {words.plural(len(cell.runs), 'run')} {kind}." for kind in ("diverged", "failed")]
    notes = [note for note in notes if not note.startswith("0 ")]
    if cell.variants > 1:
        notes.append(f"The runs have {cell.variants} configs that differ in more than rate and seed.")
    ok = [run for run in cell.runs if run["status"] == "ok"]
    down = "up" if task["lower"] else "down"
    columns = [
        ("Rate", "up", "learning rate"),
        ("Seed", "up", ""),
        ("Valid.", down, f"{task['validation'].name}, at the training length"),
        *((f"{at:,}" if isinstance(at, int) else at, down, f"test result at {at}") for at in task["lengths"]),
        ("Steps", "up", ""),
        ("Training, s", "up", ""),
        ("Memory, MB", "up", "peak of the process"),
        *([("Commit", "up", "")] if len(commits) > 1 else []),
    ]
    return {
        "mixer": ", ".join(dict.fromkeys(mixer_of(run) for run in ok)),
        "stats": _stats(view),
        "notes": notes,
        "plots": _plots(view, shared),
        "columns": [dict(zip(("text", "first", "hint"), column, strict=True)) for column in columns],
        "commits": len(commits) > 1,
        "shared": "" if len(commits) > 1 or commits == [words.NONE] else f"All are of commit {commits[0]}.",
        "circumstances": circumstances(cell.runs),
    }


def _stats(view: View) -> list[View]:
    cell, measure = view["cell"], view["task"]["measure"]
    items = [
        (
            measure.tell(cell.median),
            f"median of {words.plural(cell.n, 'seed')} at rate {cell.best:g}",
            words.interval(cell.interval, measure),
        )
    ]
    if cell.solved is not None:
        low, high = cell.wilson
        items.append((f"{cell.solved} of {cell.n}", f"solved; Wilson 95 % {low:.2f} to {high:.2f}", ""))
    if cell.far is not None:
        items.append((f"{cell.far} of {cell.n}", "hold at four times the training length", ""))
    items.append((measure.tell(cell.middle), f"median over {words.plural(len(cell.rates), 'rate')}", ""))
    if cell.robustness is not None:
        items.append((words.percent(cell.robustness), f"of the grid near the best rate{words.end(cell)}", ""))
    flops = next((counted_flops(seed.run) for seed in cell.seeds if seed.run["status"] == "ok"), None)
    known = [
        (words.count(cell.steps_to_solve), "median steps to solve", cell.steps_to_solve),
        (words.count(cell.state), "numbers in the state", cell.state),
        (words.count(cell.params), words.PARAMETERS, cell.params),
        (words.count(flops), "FLOPs a token, forward", flops),
        (words.duration(cell.seconds), "of training a run", cell.seconds),
        (f"{cell.decode_ms or 0:.2f} ms", "a token, decoding", cell.decode_ms),
    ]
    items += [(number, text, "") for number, text, there in known if there is not None]
    return [dict(zip(("value", "text", "hint"), item, strict=True)) for item in items]


def _plots(view: View, shared: Shared) -> list[View]:
    one, measure, validation = series_of(view), view["task"]["measure"], view["task"]["validation"]
    found = [
        (
            "Over the test length",
            "Every seed at the chosen rate; line: median, band: range.",
            length_plot([one], measure),
        ),
        (
            "Over the learning rate",
            "Every run, validation data; ringed: the rate that was chosen.",
            rate_plot(one, validation, shared.rates, shared.values, False),
        ),
        (
            "While training",
            "Validation, every seed at the chosen rate.",
            curve_plot(one, validation, shared.steps, shared.curve_values, False),
        ),
    ]
    return [{"title": title, "text": text, "svg": svg} for title, text, svg in found if svg is not None]


def runs_part(view: View, commits: bool, runs: Sequence[Record]) -> View:
    """A page of these runs; what their command lines have in common is said once."""
    commands = [run["repro"]["command"] for run in runs]
    before = _beginning(commands)
    rest = [command[len(before) :] for command in commands]
    after = _beginning([command[::-1] for command in rest])[::-1]
    rows = []
    for run, command in zip(runs, rest, strict=True):
        rate, told = learning_rate(run), broken(run)
        rows.append(
            {
                "id": run["id"],
                "best": rate == view["cell"].best,
                "broken": told is not None,
                "cells": _cells(run, view["task"], rate, told) + ([words.commit_of(run)] if commits else []),
                "command": command[: len(command) - len(after)],
                "reason": run["reason"] or "",
            }
        )
    return {"runs": rows, "command": {"before": before, "after": after}}


def _beginning(texts: Sequence[str]) -> str:
    # What the first and the last of a sorted list have in common, all have.
    low, high = min(texts), max(texts)
    return low[: next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def _cells(run: Record, task: View, rate: float, told: str | None) -> list[str]:
    measure, cost = task["measure"], run["cost"]
    found = words.validation_of(run, task["validation"])
    results = [words.result_of(run, str(length), task["column"]) for length in task["lengths"]]
    return [
        f"{rate:g}",
        str(run["identity"]["seed"]),
        told or (words.NONE if found is None else measure.tell(found)),
        *(words.NONE if result is None else measure.tell(result) for result in results),
        words.count(run["training"]["steps"]),
        words.NONE if cost["train_seconds"] is None else f"{cost['train_seconds']:.1f}",
        words.NONE if cost["peak_memory_bytes"] is None else words.count(cost["peak_memory_bytes"] / 1e6),
    ]
