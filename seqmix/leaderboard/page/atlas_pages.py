"""The atlas as a folder of pages: a figure, whose fields lead to theorem, weights, runs and certificates of a cell."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from seqmix import __version__
from seqmix.atlas.cells import AUTOMATA, LAYERS, MIXERS
from seqmix.atlas.page import draw, place, sheet
from seqmix.leaderboard.page.pages import Pages, write_pages
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.atlas_records import Marks, is_solved
from seqmix.leaderboard.summary.certified import answer, certificate_of
from seqmix.leaderboard.summary.statistics import learning_rate
from seqmix.leaderboard.tables.atlas_cells import proof_of

__all__ = ["write_atlas"]

Key = tuple[str, str]


class Run(NamedTuple):
    """A row of a cell's table."""

    id: str
    config: str
    seed: int
    lr: float
    solved: bool
    right: str
    certified: str
    proof: str
    command: str


class Cell(NamedTuple):
    """A section of a mixer's page."""

    anchor: str
    automaton: str
    marks: Marks
    lines: list[str]
    proof: str | None
    construct: str | None
    runs: list[Run]


def write_atlas(
    marks: Mapping[Key, Marks], out: Path, mixers: Sequence[str], automata: Sequence[str], n_layers: int = 1
) -> dict[str, int]:
    """Make or replace the folder `out`; returns the bytes of each of its files. Proofs are links where the site of the
    documentation is beside it.

    Raises:
        ValueError: a folder with files that are not of such pages.
    """
    records = [run for cell in marks.values() for run in cell.records]
    site = {
        "title": "The atlas", "version": __version__, "n_records": len(records),
        "newest": max((run["repro"]["utc"][:10] for run in records), default="none"),
    }  # fmt: skip
    docs = "../atlas.html" if (out.parent / "atlas.html").is_file() else None

    def fill(pages: Pages) -> None:
        pages.render("index.html", "atlas.html", figure=_figure(marks, mixers, automata), layers=n_layers)
        kinds = {name: kind for kind, names in LAYERS.items() for name in names}
        for mixer in mixers:
            cells = list(_cells(marks, mixer, automata, n_layers))
            file = place(mixer, "").partition("#")[0]
            about: dict[str, Any] = {"mixer": mixer, "kind": kinds[mixer], "entry": MIXERS[mixer], "layers": n_layers}
            pages.render(file, "atlas_mixer.html", cells=cells, docs=docs, **about)

    return write_pages(out, site, fill)


def _figure(marks: Mapping[Key, Marks], mixers: Sequence[str], automata: Sequence[str]) -> Markup:
    cells = {key: cell.prediction for key, cell in marks.items()}
    counts = {key: (cell.solved, cell.runs, cell.certified) for key, cell in marks.items()}
    svg = draw(cells, mixers, automata, "svg", counts, "").decode()
    # Within a page: no declarations, and links that stay in it.
    return Markup(re.sub(r'(<a xlink:href="[^"]*") target="_blank"', r"\1", svg[svg.index("<svg") :]))


def _cells(marks: Mapping[Key, Marks], mixer: str, automata: Sequence[str], n_layers: int) -> Iterator[Cell]:
    entry = MIXERS[mixer]
    for automaton in automata:
        cell = marks[mixer, automaton]
        found = cell.prediction
        lines = sheet(mixer, automaton, found, entry, n_layers).splitlines()[1:]
        written = found.verdict == "can" and found.source == "construction"
        more = "" if n_layers == 1 else f", {min(n_layers, 2)}"
        construct = f"construct({entry}, {AUTOMATA[automaton]!r}{more})" if written else None
        runs = sorted(cell.records, key=lambda run: (run["identity"]["config"], run["identity"]["seed"]))
        anchor = place(mixer, automaton).partition("#")[2]
        stripped = [line.strip() for line in lines]
        yield Cell(anchor, automaton, cell, stripped, proof_of(found), construct, [_run(run) for run in runs])


def _run(run: Record) -> Run:
    identity, certificate = run["identity"], certificate_of(run)
    metrics: dict[str, Any] = run["result"]["metrics"] if run["status"] == "ok" else {}
    right = ", ".join(f"{values['seq']:.3f} at {int(n):,}" for n, values in metrics.items() if n.isdecimal())
    proof = ""
    if certificate is not None:
        weights = certificate.get("weights_fingerprint") or ""
        proof = certificate["reason"] or f"{certificate['states']:,} states; weights {weights[:12]}"
    return Run(
        run["id"], identity["config"], identity["seed"], learning_rate(run), is_solved(run), right or run["status"],
        answer(run), proof, run["repro"]["command"],
    )  # fmt: skip
