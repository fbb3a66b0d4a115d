"""Submissions: folders in which somebody else brings a row for a board.

submissions/NAME/
    meta.yaml     who, what, and how it was tuned, see META
    board.yaml    the rows, on top of a board: `base: cpu`, `mixers: {mine: {module: layer.Mine}}`
    runs.jsonl    the records that `seqmix leaderboard run board.yaml --store runs.jsonl` made
    check.json    what came of running one of them again; `seqmix leaderboard validate NAME` writes and seals it
and whatever code the rows need. None of it is believed or run unasked: `seqmix._trust`,
`seqmix.leaderboard.boards.seals`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmix._bounded import NotYamlError, parse_yaml, read_json, read_text, top_lines
from seqmix._suggest import unknown_name
from seqmix._trust import links_out
from seqmix.leaderboard.boards.seals import CHECK, folder_digest, holds
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import numbered_runs

__all__ = ["META", "Submission", "read_submission", "read_submissions"]

# Keys of meta.yaml, all of them needed: type, and what it is.
META: dict[str, tuple[type, str]] = {
    "name": (str, "the name of the folder: letters a-z, digits, - and _"),
    "authors": (list, "a list of names"),
    "url": (str, "where code or paper is, https://..."),
    "licence": (str, "of the code, as MIT or Apache-2.0"),
    "description": (str, "what the layer is, in a sentence or two"),
    "tuning": (str, "what was tried before the runs that are here, and on which data it was chosen"),
}


@dataclass
class Submission:
    """A folder as it was read.

    Attributes:
        folder: where it is.
        meta: what meta.yaml says.
        runs: records with their lines, `identity.submission` filled in.
        problems: what is wrong with meta.yaml, lines of runs.jsonl, and paths, as `FILE:LINE: what`.
        check: what check.json says; None without one, if a file has changed since, or if somebody else has sealed it.
        unsafe: whether a link leads out of the folder, so that nothing more of it may be read.
        checked: the digest that it had when all of it was checked; None before.
    """

    folder: Path
    meta: dict[str, Any] = field(default_factory=dict)
    runs: list[tuple[int, Record]] = field(default_factory=list, repr=False)
    problems: list[str] = field(default_factory=list)
    check: dict[str, Any] | None = None
    unsafe: bool = False
    checked: str | None = None

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def records(self) -> list[Record]:
        """The good ones."""
        return [record for _, record in self.runs]

    @property
    def badge(self) -> str:
        """`re-run` if one of its runs was made again here with the same result, else `self-reported`."""
        good = self.check is not None and not self.check["differences"] and not self.problems
        return "re-run" if good else "self-reported"


def read_submissions(folder: str | Path) -> list[Submission]:
    """Every submission in a folder, by name; files and folders that begin with a dot are left out."""
    found = sorted(path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    return [read_submission(path) for path in found]


def read_submission(folder: str | Path) -> Submission:
    """A submission, with what is wrong with it in `problems`; nothing of it is run.

    Raises:
        ValueError: no folder.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path}: expected the folder of a submission, got {'a file' if path.exists() else 'nothing'}")
    found = Submission(path)
    out = links_out(path)
    found.problems += [f"{link}: a link that leads out of the folder" for link in out]
    found.unsafe = bool(out)
    for name in ("meta.yaml", "board.yaml", "runs.jsonl"):
        if not (path / name).is_file() and path / name not in out:
            found.problems.append(f"{path / name}: missing")
    if (path / "meta.yaml").is_file() and path / "meta.yaml" not in out:
        found.meta, problems = _meta(path / "meta.yaml", found.name)
        found.problems += problems
    if (path / "runs.jsonl").is_file() and path / "runs.jsonl" not in out:
        _read_runs(found)
    return found


def _read_runs(found: Submission) -> None:
    path = found.folder / "runs.jsonl"
    runs, problems = numbered_runs(path)
    found.problems += problems
    for line, record in runs:
        identity = record["identity"]
        if identity["submission"] not in (None, found.name):
            found.problems.append(
                f"{path}:{line}: identity.submission: expected {found.name!r}, got {identity['submission']!r}"
            )
            continue
        found.runs.append((line, record | {"identity": identity | {"submission": found.name}}))
    check = found.folder / CHECK
    if check.is_file() and not check.is_symlink():
        try:
            content = read_json(check)
        except ValueError as error:
            found.problems.append(f"{check}: not JSON: {error}")
            return
        if not isinstance(content, dict) or not {"files", "differences", "seal"} <= content.keys():
            found.problems.append(f"{check}: expected what `seqmix leaderboard validate` writes")
        elif holds(content) and content["files"] == folder_digest(found.folder):
            found.check = content


def _meta(path: Path, folder: str) -> tuple[dict[str, Any], list[str]]:
    try:
        text = read_text(path)
        meta = parse_yaml(text)
    except ValueError as error:
        line = f":{error.line}" if isinstance(error, NotYamlError) else ""
        return {}, [f"{path}{line}: {error}"]
    if not isinstance(meta, dict):
        return {}, [f"{path}:1: expected {', '.join(META)}, got {meta!r:.80}"]
    lines = top_lines(text)
    problems = [f"{path}: {name}: missing, {about}" for name, (_, about) in META.items() if name not in meta]
    for key, value in meta.items():
        where = f"{path}:{lines.get(key, 1)}: "
        if key not in META:
            problems.append(where + str(unknown_name("field", key, META)))
        elif problem := _wrong(key, value, folder):
            problems.append(f"{where}{key}: {problem}, got {value!r:.80}")
    return meta, problems


def _wrong(key: str, value: Any, folder: str) -> str | None:
    kind: Any
    kind, about = META[key]
    if not isinstance(value, kind) or not value or (kind is str and not value.strip()):
        return f"expected {about}"
    if key == "authors" and not all(isinstance(author, str) and author.strip() for author in value):
        return f"expected {about}"
    if key == "name" and (value != folder or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value)):
        return f"expected {about}, {folder!r}"
    return f"expected {about}" if key == "url" and not re.fullmatch(r"https?://\S+", value) else None
