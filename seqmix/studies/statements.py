"""Sentences of pages that records have to bear out.

<!-- holds: blocks-on-parity: share(short, 0.99, entry="bd-lru-2") == 1 -->

beside a sentence names a study and a condition on its rows (`seqmix.studies.rules`).
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from seqmix._bounded import read_text
from seqmix.studies.fits import rows_of
from seqmix.studies.rules import Row, evaluate
from seqmix.studies.study import load_study

__all__ = ["check_statements"]

_STATEMENT = re.compile(r"<!--\s*holds:\s*([^\s:]+):\s*(.*?)\s*-->", re.DOTALL)


def check_statements(page: Path, records: Path) -> Iterator[tuple[int, str, str]]:
    """Of each statement of a page: its line, its condition, and `""` or what is wrong with it."""
    text = read_text(page)
    rows = functools.cache(lambda study: _rows(study, records))
    for found in _STATEMENT.finditer(text):
        study, condition = found[1], " ".join(found[2].split())
        try:
            wrong = "" if evaluate(condition, rows(study)) else f"the records of {study} say otherwise"
        except ValueError as error:
            wrong = str(error)
        yield text.count("\n", 0, found.start()) + 1, condition, wrong


def _rows(name: str, records: Path) -> list[Row]:
    study = load_study(name)
    return rows_of(study, records / study.records)
