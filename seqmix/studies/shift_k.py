"""Fit the poles of layers to shifts, keep a JSON line for each fit, make a table and a figure.

A record has `mixer, order, states, shift, starts, steps, lr, seed` (what was asked), `loss, bound, gain, losses, poles`
(what came of it: the best error, the bound, the normalised gain, the error of every start, [real, imaginary] of every
pole), `seconds`, and `repro`. A fit that the store has is not made again.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seqmix._figures import encode, new_figure, style
from seqmix._markdown import escaped, markdown_table
from seqmix.leaderboard.sweep.outcome import repro_facts
from seqmix.studies.lines import appending, read_lines, stamped
from seqmix.tasks.shift_k import fit_poles, get_family

__all__ = ["FIELDS", "Search", "figure", "fits", "table"]

Record = dict[str, Any]

_ASKED = ("mixer", "order", "states", "shift", "starts", "steps", "lr", "seed")
FIELDS = {*_ASKED, "loss", "bound", "gain", "losses", "poles", "seconds", "repro"}
_MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class Search:
    """How every fit is searched for; the options of `fit_poles`."""

    order: int = 4
    starts: int = 8
    steps: int = 1500
    lr: float = 0.05
    seed: int = 0


def fits(
    mixers: Sequence[str], states: Sequence[int], shifts: Sequence[int], search: Search, store: Path | None = None
) -> list[Record]:
    """A record for each (mixer, S, K); those that the file `store` has are taken from it, the others are added."""
    known = read_lines(store, FIELDS) if store is not None and store.exists() else []
    repro = repro_facts()
    cells = list(itertools.product(mixers, states, shifts))
    records = []
    with nullcontext(lambda record: None) if store is None else appending(store) as append:
        for index, (mixer, n_poles, shift) in enumerate(cells):
            asked = _asked(mixer, n_poles, shift, search)
            found = next((r for r in known if all(r[name] == value for name, value in asked.items())), None)
            if found is None:
                found = asked | _fit(mixer, n_poles, shift, search, repro)
                print(f"[{index + 1}/{len(cells)}] {_name(found)}: {found['loss']:.4f}", file=sys.stderr, flush=True)
                append(found)
            records.append(found)
    return records


def _asked(mixer: str, states: int, shift: int, search: Search) -> Record:
    order = search.order if get_family(mixer).by_order else 2
    values = (mixer, order, states, shift, search.starts, search.steps, search.lr, search.seed)
    return dict(zip(_ASKED, values, strict=True))


def _fit(mixer: str, states: int, shift: int, search: Search, repro: Record) -> Record:
    begin = time.perf_counter()
    fit = fit_poles(mixer, states, shift, **asdict(search))
    return {
        "loss": fit.loss,
        "bound": fit.bound,
        "gain": fit.gain,
        "losses": list(fit.losses),
        "poles": [[pole.real, pole.imag] for pole in fit.poles.tolist()],
        "seconds": round(time.perf_counter() - begin, 3),
        "repro": stamped(repro),
    }


def table(records: Sequence[Record]) -> str:
    """Markdown: a row for each (S, K), the bound, and every mixer's error and gain."""
    labels = list(dict.fromkeys(_label(record) for record in records))
    header = ["S", "K", "bound", *labels]
    rows = []
    for states, shift in sorted({(record["states"], record["shift"]) for record in records}):
        same = {_label(r): r for r in records if (r["states"], r["shift"]) == (states, shift)}
        bound = next(iter(same.values()))["bound"]
        cells = [f"{r['loss']:.4f} ({r['gain']:.2f})" if (r := same.get(label)) else "" for label in labels]
        rows.append([str(states), str(shift), f"{bound:.4f}", *cells])
    asked = records[0]
    return (
        f"{markdown_table(header, rows, left=0)}\n\nError with the best read-out, in parts of the input's variance "
        "(and the gain over a filter of zeros, in parts of what the bound allows), for the best poles found: "
        f"{escaped(asked['starts'])} starts of {escaped(asked['steps'])} steps."
    )


def figure(records: Sequence[Record]) -> str:
    """Error against S / (K + 1), with the bound, as SVG that is the same for the same numbers."""
    with style("seqmix shift-k --figure", extra="train"):
        drawing = new_figure(6, 3.8)
        axes = drawing.add_subplot()
        largest = max(record["states"] / (record["shift"] + 1) for record in records)
        axes.plot([0, largest], [1, max(0.0, 1 - largest)], color="black", label="bound 1 - S / (K + 1)")
        for marker, label in zip(_MARKERS * len(records), dict.fromkeys(map(_label, records)), strict=False):
            mine = sorted((r["states"] / (r["shift"] + 1), r["loss"]) for r in records if _label(r) == label)
            axes.plot(*zip(*mine, strict=True), marker=marker, linestyle=":", label=label)
        axes.set(xlabel="S / (K + 1)", ylabel="error over the input's variance")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        return encode(drawing, "svg").decode()


def _label(record: Record) -> str:
    return record["mixer"] if record["mixer"] == "lru" else f"{record['mixer']}, m = {record['order']}"


def _name(record: Record) -> str:
    return f"{_label(record)}, S = {record['states']}, K = {record['shift']}"
