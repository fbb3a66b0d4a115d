"""Tables of records, on the terminal or between two markers of a Markdown file."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from seqmix._files import write_text_whole
from seqmix.leaderboard.boards.submissions import read_submission
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import scan_runs
from seqmix.leaderboard.summary.statistics import Criterion, is_text
from seqmix.leaderboard.tables.boards import board_table
from seqmix.leaderboard.tables.runs import KINDS, group_runs
from seqmix.leaderboard.tables.text import text_table

__all__ = ["collect", "render", "write_section"]


def collect(paths: Sequence[str | Path], only: Sequence[str] = ()) -> tuple[list[Record], list[str]]:
    """Records of several files whose config matches one of the patterns `only`, and what is wrong with other lines.

    A record that stands in two files is a problem of the second. The folder of a submission is read whole, its rows by
    the names `SUBMISSION/ENTRY`.

    Raises:
        ValueError: a file that cannot be read, or nothing that matches.
    """
    found: dict[tuple[str, int], Path | str] = {}
    records: list[Record] = []
    problems: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            submission = read_submission(path)
            some, wrong = submission.records, submission.problems
        else:
            some, wrong = scan_runs(path)
        problems += wrong
        for record in some:
            key = record["id"], record["attempt"]
            if key in found:
                problems.append(f"{path}: id {key[0]}, attempt {key[1]} stands in {found[key]} already")
                continue
            found[key] = path
            records.append(record)
    names = list(dict.fromkeys(record["identity"]["config"] for record in records))
    if only:
        records = [r for r in records if any(fnmatch.fnmatch(r["identity"]["config"], pattern) for pattern in only)]
    if not records:
        known = ", ".join(names) or "no records at all"
        raise ValueError(f"no runs to report: {' '.join(only) or 'any config'} in {_files(paths)}, which has {known}")
    return records, problems


def render(
    records: Sequence[Record],
    kind: str,
    *,
    criteria: Sequence[Criterion] = (Criterion(1, 0.99, relative=True),),
    lengths: Sequence[str] | None = None,
) -> str:
    """The Markdown table of a kind: `seeds`, `summary`, `text` for what is measured in bits per byte, or `board`."""
    kinds = KINDS | {"text": text_table}
    if kind == "board":
        return board_table(records)
    if kind not in kinds:
        raise ValueError(f"kind: expected one of {', '.join(kinds)}, board, got {kind!r}")
    text = {is_text(record) for record in records if record["result"]["metric"] is not None}
    if text - {kind == "text"}:
        raise ValueError(f"--kind: runs on text, in bits per byte, need 'text' and others do not, got {kind!r}")
    return kinds[kind](group_runs(records), criteria, lengths)


def write_section(path: Path, section: str, text: str) -> bool:
    """Put `text` between `<!-- seqmix:SECTION -->` and `<!-- /seqmix:SECTION -->`; whether the file changed.

    The file is replaced as a whole, and not touched if it says the same already.

    Raises:
        ValueError: a section name that is none, or a file without the two markers, once each and in this order.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", section):
        raise ValueError(f"--section: expected letters a-z, digits, - and _, got {section!r}")
    begin, end = f"<!-- seqmix:{section} -->", f"<!-- /seqmix:{section} -->"
    try:
        # Line ends stay what they are.
        with path.open(encoding="utf-8", newline="") as file:
            old = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--write: expected a Markdown file with {begin} and {end}, cannot read {path}: {error}"
        ) from None
    counts = old.count(begin), old.count(end)
    if counts != (1, 1) or old.index(begin) > old.index(end):
        raise ValueError(
            f"--write: {path} must have the lines {begin} and {end}, once each and in this order; it has them "
            f"{counts[0]} and {counts[1]} times"
        )
    before, rest = old.split(begin)
    after = rest.split(end)[1]
    newline = "\r\n" if "\r\n" in old else "\n"
    inert = re.sub(r"<!(?=--\s*/?\s*seqmix:)", "&lt;!", text.strip())  # no text ends or begins a section
    middle = f"\n{inert}\n".replace("\n", newline)
    new = f"{before}{begin}{middle}{end}{after}"
    if new != old:
        write_text_whole(path, new)
    return new != old


def _files(paths: Sequence[str | Path]) -> str:
    return ", ".join(str(path) for path in paths)
