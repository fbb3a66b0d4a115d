"""The atlas beside what was learned: runs of records by mixer, depth and automaton, and those that speak against it.

A run is solved here where every test word of twice the training length and more is answered rightly at every position,
and there are words of four times that length at least. A theorem that such a run contradicts is wrong, or its
arithmetic is not the one that short words need.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from seqmix.atlas.prediction import Prediction, predict
from seqmix.atlas.traits import SIZES
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.certified import certificate_of
from seqmix.tasks.automata import Automaton
from seqmix.tasks.registry import create_task

__all__ = ["Learned", "Marks", "contradictions", "is_solved", "learned", "table"]

_TASKS = (
    "word-problem",
    "parity",
    "single-parity",
    "even-pairs",
    "cycle-navigation",
    "modular-arithmetic",
    "automaton",
)


@dataclass(frozen=True)
class Marks:
    """What the atlas says of a mixer and an automaton, and runs of them."""

    prediction: Prediction
    records: list[Record]

    @property
    def runs(self) -> int:
        return len(self.records)

    @property
    def solved(self) -> int:
        return sum(map(is_solved, self.records))

    @property
    def certified(self) -> int:
        """Runs whose network was proved right for every length."""
        return sum(bool(found and found["certified"]) for found in map(certificate_of, self.records))

    @property
    def told(self) -> str:
        """`learned: 10 of 10 runs, 7 certified`."""
        return f"learned: {self.solved} of {self.runs} runs, {self.certified} certified"


@dataclass(frozen=True)
class Learned(Marks):
    """Runs of a mixer, by its entry without sizes."""

    entry: dict[str, Any]
    task: Automaton
    n_layers: int

    @property
    def mixer(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in self.entry.items() if key != "name")
        return f"{self.entry['name']}({arguments})"

    @property
    def automaton(self) -> str:
        return self.task.name

    @property
    def contradicts(self) -> bool:
        return self.solved > 0 and self.prediction.verdict == "cannot"


def learned(records: Sequence[Record]) -> list[Learned]:
    """What records say of cells, in the order in which these come up; runs of other tasks are left out."""
    cells: dict[tuple[str, str, str, int], list[Record]] = {}
    for run in records:
        identity = run["identity"]
        if identity["task"] not in _TASKS or not isinstance(identity["mixer"], str) or ":" in identity["mixer"]:
            continue
        task = {key: value for key, value in identity["task_kwargs"].items() if key in _ASKED}
        # Verdicts for any size hold for the one that was run.
        options = {k: v for k, v in identity["mixer_kwargs"].items() if k not in SIZES or k in ("block_size", "order")}
        mixer = json.dumps({"name": identity["mixer"], **options}, sort_keys=True)
        key = (mixer, identity["task"], json.dumps(task, sort_keys=True), identity["n_layers"])
        cells.setdefault(key, []).append(run)
    found = []
    for (mixer, name, arguments, layers), runs in cells.items():
        automaton = _automaton(name, arguments)
        entry = json.loads(mixer)
        found.append(Learned(predict(entry, automaton, layers), runs, entry, automaton, layers))
    return found


_ASKED = ("group", "generators", "bos", "automaton")


@cache
def _automaton(name: str, arguments: str) -> Automaton:
    given = json.loads(arguments)
    if name == "parity":
        given = {key: value for key, value in given.items() if key == "bos"}
    return create_task(name, **given).automaton()


def is_solved(run: Record) -> bool:
    """Whether a run answers all words of twice the training length and more, up to four times that length at least."""
    if run["status"] != "ok" or run["result"]["diverged"]:
        return False
    home = run["result"]["train_length"]
    far = {int(n): m for n, m in run["result"]["metrics"].items() if n.isdecimal() and int(n) >= 2 * home}
    return max(far, default=0) >= 4 * home and all(m["seq"] == 1 for m in far.values())


def contradictions(cells: Sequence[Learned]) -> list[str]:
    """A line for each cell that cannot be and was solved."""
    return [
        f"{c.mixer}, {c.n_layers} layer(s), on {c.automaton}: {c.solved} of {c.runs} runs solve it, and by "
        f"{c.prediction.theorem} it cannot"
        for c in cells
        if c.contradicts
    ]


def table(cells: Sequence[Learned]) -> str:
    """A row an automaton: runs that solved it, of all, by what the atlas says of their layers."""
    verdicts = ("can", "cannot", "open")
    lines = [f"| learned | {' | '.join(verdicts)} |", "|---|---:|---:|---:|"]
    for name in [*dict.fromkeys(cell.automaton for cell in cells), None]:
        row = []
        for verdict in verdicts:
            some = [c for c in cells if c.automaton == (name or c.automaton) and c.prediction.verdict == verdict]
            runs = sum(c.runs for c in some)
            row.append(f"{sum(c.solved for c in some)} of {runs}" if runs else "")
        lines.append(f"| {name or 'all'} | {' | '.join(row)} |")
    lines += ["", "Runs solved, of all, by the verdict on their layers. " + " ".join(contradictions(cells))]
    return "\n".join(lines).rstrip()
