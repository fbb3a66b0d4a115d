"""Cells of the atlas with what was learned and certified: which row and column runs of records stand in.

A run stands in the row of its layer: the options that the row names have its values, letters choose the same kind of
maps, and the atlas says of the run's own options what it says of the row. So a convolution may be another, as long as
it changes nothing. It stands in the column whose minimal automaton is its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from seqmix.atlas.cells import AUTOMATA, MIXERS, names_of
from seqmix.atlas.page import cells_of
from seqmix.atlas.prediction import Prediction, automaton_of
from seqmix.atlas.traits import SIZES, Mixer, Traits, mixer_of, traits_of
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.atlas_records import Learned, Marks, learned
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core, core_of

__all__ = ["atlas_marks", "column_of", "marks_of"]

_WINDOWS = ("d_conv", "rope_options")
# What rows name besides: sizes of records are gone, where verdicts do not depend on them.
_FREE = {"name", *_WINDOWS, *SIZES} - {"block_size", "order"}


def atlas_marks(mixer: str, automaton: str, records: Iterable[Record], n_layers: int = 1) -> Marks:
    """All that is known of one cell: what `seqmix.atlas.cell` says, and how many of its runs learned it and are proved.

    Args:
        mixer: a row of the atlas, as in `seqmix.atlas.MIXERS`; a run that stands in two rows counts in the nearest.
        automaton: a column, as in `seqmix.atlas.AUTOMATA`.
        records: of any runs; those of other cells are left out.

    Raises:
        ValueError: a row or column that the atlas does not have.

    Example:
        >>> from seqmix.leaderboard import atlas_marks
        >>> atlas_marks("deltanet", "S3", records=[]).told
        'learned: 0 of 0 runs, 0 certified'
    """
    names_of("mixer", [mixer], MIXERS)
    cells = cells_of(list(MIXERS), names_of("automaton", [automaton], AUTOMATA), n_layers)
    return marks_of(cells, learned(list(records)), n_layers)[mixer, automaton]


def marks_of(
    cells: Mapping[tuple[str, str], Prediction], found: Sequence[Learned], n_layers: int = 1
) -> dict[tuple[str, str], Marks]:
    """Cells by row and column with the runs of `found` that stand in them; runs of other layers or tasks in none."""
    marks = {key: Marks(prediction, []) for key, prediction in cells.items()}
    automata = list(dict.fromkeys(automaton for _, automaton in cells))
    mixers = list(dict.fromkeys(mixer for mixer, _ in cells))
    for some in found:
        column = column_of(some.task, automata) if some.n_layers == n_layers else None
        if column is None:
            continue
        row = _row_of(some, [m for m in mixers if cells[m, column].verdict == some.prediction.verdict])
        if row is not None:
            marks[row, column].records.extend(some.records)
    return marks


def _row_of(some: Learned, mixers: Sequence[str]) -> str | None:
    """Of the rows that a run may stand in that whose windows are its own, and then that which names the most."""
    own = mixer_of(some.entry)
    options, traits = own.options | own.sizes, traits_of(own)
    best: tuple[tuple[bool, int], str] | None = None
    for name in mixers:
        entry = MIXERS[name]
        row = mixer_of(entry)
        named = {key: value for key, value in entry.items() if key not in _FREE}
        if row.name != own.name or any(options.get(key) != value for key, value in named.items()):
            continue
        if _kind(traits) == _kind(traits_of(row)):
            rank = (_windows(own) == _windows(row), len(named))
            if best is None or rank > best[0]:
                best = rank, name
    return None if best is None else best[1]


def _kind(traits: Traits) -> Traits:
    return traits._replace(window=1, clocked=False, m=None)


def _windows(mixer: Mixer) -> list[Any]:
    return [mixer.options.get(key) for key in _WINDOWS]


def column_of(automaton: Automaton, automata: Sequence[str]) -> str | None:
    """The name in the atlas, of those given, of an automaton; None where it has none."""
    told = _told(core_of(automaton_of(automaton)))
    return next((name for name in automata if _column(name) == told), None)


@cache
def _column(name: str) -> tuple[Any, ...]:
    return _told(core_of(automaton_of(AUTOMATA[name])))


def _told(core: Core) -> tuple[Any, ...]:
    """A core, its states and answers numbered in the order in which words find them."""
    place, queue = {0: 0}, [0]
    for state in queue:
        for after in core.step[state].tolist():
            if after >= 0 and after not in place:
                place[after] = len(place)
                queue.append(after)
    rows = [[place.get(after, -1) for after in core.step[state].tolist()] for state in queue]
    _, first = np.unique(core.answers[queue], return_index=True)
    answers = [sorted(first.tolist()).index(np.flatnonzero(core.answers[queue] == a)[0]) for a in core.answers[queue]]
    return rows, answers, core.asked[queue].tolist()
