"""What the page of a cell shows: its runs, each with the command that runs it again."""

from collections.abc import Sequence
from dataclasses import dataclass

from seqmix.leaderboard.cost.sizes import counted_flops
from seqmix.leaderboard.page import words
from seqmix.leaderboard.page.plots import curve_plot, length_plot, rate_plot
from seqmix.leaderboard.page.task_page import Shared, series_of
from seqmix.leaderboard.page.views import CellView, Column, Fact, PlotView, Value
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import broken, learning_rate
from seqmix.leaderboard.tables.runs import circumstances, mixer_of

__all__ = ["CellPage", "RunsPart", "cell_page", "runs_part"]


@dataclass(frozen=True)
class CellPage:
    """Headline numbers, plots and the columns of the table of runs."""

    view: CellView
    mixer: str
    stats: list[Fact]
    notes: list[str]
    plots: list[PlotView]
    columns: list[Column[Record]]
    shared: str
    circumstances: str


@dataclass(frozen=True)
class RunView:
    """A row of the table, and below it the command and why it broke."""

    id: str
    best: bool
    broken: bool
    cells: list[str]
    command: str
    reason: str


@dataclass(frozen=True)
class RunsPart:
    """One of the pages that a long table of runs is cut into; what all command lines have in common is said once."""

    runs: list[RunView]
    before: str
    after: str


def cell_page(view: CellView, shared: Shared) -> CellPage:
    """Everything that the parts of a cell's page share."""
    cell = view.summary
    bad = [told for run in cell.runs if (told := broken(run))]
    commits = list(dict.fromkeys(words.commit_of(run) for run in cell.runs))
    notes = [f"{bad.count(kind)} of {words.plural(len(cell.runs), 'run')} {kind}." for kind in ("diverged", "failed")]
    notes = [note for note in notes if not note.startswith("0 ")]
    if cell.unvalidated:
        told = words.plural(cell.unvalidated, "run")
        notes.append(f"Never validated, and counted as the worst where the rate was chosen: {told}.")
    if cell.variants > 1:
        notes.append(f"The runs have {cell.variants} configs that differ in more than rate and seed.")
    ok = [run for run in cell.runs if run["status"] == "ok"]
    return CellPage(
        view,
        mixer=", ".join(dict.fromkeys(mixer_of(run) for run in ok)),
        stats=_stats(view),
        notes=notes,
        plots=_plots(view, shared),
        columns=_columns(view, len(commits) > 1),
        shared="" if len(commits) > 1 or commits == [words.NONE] else f"All are of commit {commits[0]}.",
        circumstances=circumstances(cell.runs),
    )


def _columns(view: CellView, commits: bool) -> list[Column[Record]]:
    task = view.task
    tell = task.measure.tell

    def validation(run: Record) -> Value:
        found = words.validation_of(run, task.validation)
        return Value(broken(run) or (words.NONE if found is None else tell(found)))

    def result(length: int | str) -> Column[Record]:
        def value(run: Record) -> Value:
            found = words.result_of(run, str(length), task.column)
            return Value(words.NONE if found is None else tell(found))

        title = f"{length:,}" if isinstance(length, int) else length
        return Column(title, task.good, f"test result at {length}", value)

    def seconds(run: Record) -> Value:
        found = run["cost"]["train_seconds"]
        return Value(words.NONE if found is None else f"{found:.1f}")

    def memory(run: Record) -> Value:
        found = run["cost"]["peak_memory_bytes"]
        return Value(words.count(None if found is None else found / 1e6))

    return [
        Column("Rate", "up", "learning rate", lambda run: Value(f"{learning_rate(run):g}")),
        Column("Seed", "up", "", lambda run: Value(str(run["identity"]["seed"]))),
        Column("Valid.", task.good, f"{task.validation.name}, at the training length", validation),
        *(result(length) for length in task.lengths),
        Column("Steps", "up", "", lambda run: Value(words.count(run["training"]["steps"]))),
        Column("Training, s", "up", "", seconds),
        Column("Memory, MB", "up", "peak of the process", memory),
        *([Column("Commit", "up", "", lambda run: Value(words.commit_of(run)))] if commits else []),
    ]


def _stats(view: CellView) -> list[Fact]:
    cell, measure = view.summary, view.task.measure
    at_best = f"median of {words.plural(cell.n, 'seed')} at rate {cell.best:g}"
    items = [Fact(measure.tell(cell.median), at_best, hint=words.interval(cell.interval, measure))]
    if not cell.learned:
        items.append(Fact(words.NONE, f"{words.NOT_LEARNED}: no better than guessing"))
    elif cell.solved is not None:
        low, high = cell.wilson or (0.0, 1.0)
        items.append(Fact(f"{cell.solved} of {cell.n}", f"solved; Wilson 95 % {low:.2f} to {high:.2f}"))
    if cell.far is not None:
        items.append(Fact(f"{cell.far} of {cell.n}", "hold at four times the training length"))
    items.append(Fact(measure.tell(cell.middle), f"median over {words.plural(len(cell.rates), 'rate')}"))
    if cell.robustness is not None:
        items.append(Fact(words.percent(cell.robustness), f"of the grid near the best rate{words.end(cell)}"))
    flops = next((counted_flops(seed.run) for seed in cell.seeds if seed.run["status"] == "ok"), None)
    known = [
        (words.count(cell.steps_to_solve), "median steps to solve", cell.steps_to_solve),
        (words.count(cell.state), "numbers in the state", cell.state),
        (words.count(cell.params), words.PARAMETERS, cell.params),
        (words.count(flops), "FLOPs a token, forward", flops),
        (words.duration(cell.seconds), "of training a run", cell.seconds),
        (f"{cell.decode_ms or 0:.2f} ms", "a token, decoding", cell.decode_ms),
    ]
    return items + [Fact(number, text) for number, text, there in known if there is not None]


def _plots(view: CellView, shared: Shared) -> list[PlotView]:
    one, measure, validation = series_of(view), view.task.measure, view.task.validation
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
    return [PlotView(title, text, svg) for title, text, svg in found if svg is not None]


def runs_part(page: CellPage, runs: Sequence[Record]) -> RunsPart:
    """A page of these runs."""
    commands = [run["repro"]["command"] for run in runs]
    before = _beginning(commands)
    rest = [command[len(before) :] for command in commands]
    after = _beginning([command[::-1] for command in rest])[::-1]
    rows = [
        RunView(
            run["id"],
            best=learning_rate(run) == page.view.summary.best,
            broken=broken(run) is not None,
            cells=[column.value(run).text for column in page.columns],
            command=command[: len(command) - len(after)],
            reason=run["reason"] or "",
        )
        for run, command in zip(runs, rest, strict=True)
    ]
    return RunsPart(rows, before, after)


def _beginning(texts: Sequence[str]) -> str:
    # What the first and the last of a sorted list have in common, all have.
    low, high = min(texts), max(texts)
    return low[: next((at for at, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]
