"""The index of papers: every claim with its verdict, from the records of a folder."""

from collections.abc import Sequence
from pathlib import Path

from seqmix._files import write_bytes_whole
from seqmix._markdown import Markup, escaped, markdown_table
from seqmix.studies.figure import draw
from seqmix.studies.fits import rows_of
from seqmix.studies.report import render, verdicts
from seqmix.studies.study import load_study

__all__ = ["index"]


def index(names: Sequence[str], records: Path, figures: Path | None = None, page: str = "papers") -> str:
    """Markdown: a table of claims, and below it what each study of a page says; the table of `papers` has all claims.

    `figures` is a folder to draw them into.
    """
    studies = [load_study(name) for name in names]
    studies = [study for study in studies if page in ("papers", study.page)]
    studies.sort(key=lambda study: (study.year, study.paper, study.name))
    lines, parts = [], []
    for study in studies:
        rows = rows_of(study, records / study.records)
        for claim, found in zip(study.claims, verdicts(study, rows), strict=True):
            place = "" if study.page == page else f"{study.page}.md"
            link = Markup(f"[{escaped(study.authors.partition(',')[0])} {study.year}]({place}#{study.name})")
            lines.append([link, claim.text, Markup(f"**{found}**"), Markup(", ".join(map(_file, study.library)))])
        if study.page != page:
            continue
        parts += [f"### {study.name}", "", study.question, "", render(study, rows)]
        if rows and study.figure:
            if figures is not None:
                write_bytes_whole(figures / f"{study.name}.svg", draw(study, rows))
            folder = f"{figures.name}/" if figures is not None else ""
            parts += ["", f"![{escaped(study.question)}]({folder}{study.name}.svg)"]
        parts += ["", f"`seqmix study run {study.name}`", ""]
    return "\n".join([markdown_table(["paper", "claim", "verdict", "in the library"], lines, left=4), "", *parts])


def _file(path: str) -> str:
    return f"`{path}`"
