"""A study as a YAML file: what a paper claims, what is run or computed here, and the rule for the verdict.

paper: "2307.11888"                           arXiv number, or an address
authors, about, year, library                 who, on what, when; the files that hold what it is about
compute: reconstruction                       a module of `seqmix.studies.computations`, or
runs: leaderboard run tied-betas              the command of seqmix that trains what it is about
fixed: {noise: 1e-3}                          arguments of the computation that are the same for all
grid: {spectrum: [real, ring], length: [16]}  every combination is computed; a list of grids: those of all
seeds: [0, 1, 2]
smoke: {grid: {length: [8]}, seeds: [0]}      what to replace for a run of seconds that only shows that it runs
factors: {beta: optimizer.beta}               of runs: settings by their path; `lr` is there always, `chosen` (whether
                                              validation chose this rate), and `entry` and `column` of a board's
measures: {bits: [test, bpb]}                 of runs: test set, or 1x, 2x training lengths, and key of the record, or
                                              `deciding`: the one that decides its task
only: {column: [parity]}                      of runs: those with these values of factors
chosen: true                                  of runs: only those at the rate that validation chose
page: claims                                  whose page it stands on, in docs; papers by default
records: tied-betas.jsonl                     where its records lie in a folder of records, else studies/NAME.jsonl
table: {measure: error, rows: [spectrum], columns: length}
figure: {measure: error, x: length, lines: spectrum, log: xy}
claims:                                       each with conditions, see `seqmix.studies.rules`
  - {claim: ..., published: ..., control: ..., sign: ..., threshold: ..., against: ..., needs: ...}
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmix._bounded import parse_yaml, read_text
from seqmix._measures import MEASURES
from seqmix._suggest import unknown_name
from seqmix.studies.rules import CONDITIONS, check_condition
from seqmix.training.config.files import FOLDER, shipped

__all__ = ["Claim", "Study", "find_study", "list_studies", "load_study"]

STUDIES = FOLDER / "studies"
COMPUTATIONS = Path(__file__).parent / "computations"
PAGES = ("papers", "claims")
_OF_CLAIM = ("claim", "published", "needs", *CONDITIONS)


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper.

    Attributes:
        text: of what it says.
        published: its number and setting there.
        conditions: `control`, `sign`, `threshold` and `against`, as far as they are given.
        needs: what would show it where this size does not.
    """

    text: str
    published: str
    conditions: Mapping[str, str]
    needs: str = ""


@dataclass(frozen=True)
class Study:
    """A study as its file has it; see the head of this module."""

    name: str
    path: Path
    question: str
    paper: str
    about: str
    authors: str
    year: int
    claims: tuple[Claim, ...]
    library: tuple[str, ...] = ()
    compute: str = ""
    runs: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    grid: tuple[Mapping[str, Sequence[Any]], ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    factors: Mapping[str, str] = field(default_factory=dict)
    measures: Mapping[str, Sequence[str]] = field(default_factory=dict)
    records: str = ""
    table: Mapping[str, Any] = field(default_factory=dict)
    figure: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    chosen: bool = False
    page: str = "papers"

    @property
    def link(self) -> str:
        """Where the paper is."""
        return self.paper if ":" in self.paper else f"https://arxiv.org/abs/{self.paper}"

    def cells(self) -> list[dict[str, Any]]:
        """The arguments of every computation: the first seed of every combination, then the second."""
        combinations = [
            dict(self.fixed) | dict(zip(grid, values, strict=True))
            for grid in self.grid
            for values in itertools.product(*grid.values())
        ]
        return [{**cell, "seed": seed} for seed in self.seeds for cell in combinations]

    def small(self) -> "Study":
        """The same in its smoke form.

        Raises:
            ValueError: it has none, as studies of training runs have theirs in the tests of what they train.
        """
        if not self.smoke:
            raise ValueError(f"study {self.name}: has no smoke form")
        return _study(self.path, {**_content(self.path), **self.smoke, "smoke": {}})


def list_studies() -> dict[str, str]:
    """Shipped studies: name and first comment line."""
    return shipped(STUDIES)


def find_study(name: str) -> Path:
    """The file of a study given by path or by the name of a shipped one; `ValueError` with the nearest names."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    if (STUDIES / f"{name}.yaml").is_file() and path.name == name:
        return STUDIES / f"{name}.yaml"
    raise unknown_name("study", name, list_studies())


def load_study(name: str) -> Study:
    """A study by its name or file, checked.

    Raises:
        ValueError: a key, a computation or a part of a condition that does not exist, or one that is missing.

    Example:
        >>> load_study("reconstruction").paper
        '2307.11888'
    """
    path = find_study(name)
    try:
        return _study(path, _content(path))
    except ValueError as error:
        raise ValueError(f"study {path}: {error}") from None


def _content(path: Path) -> dict[str, Any]:
    text = read_text(path)
    content = parse_yaml(text)
    if not isinstance(content, dict):
        raise ValueError(f"expected keys and values, got a {type(content).__name__}")
    return {"question": text.partition("\n")[0].lstrip("# "), **content}


def _study(path: Path, content: dict[str, Any]) -> Study:
    known = set(Study.__dataclass_fields__) - {"name", "path"}
    if unknown := [key for key in content if key not in known]:
        raise unknown_name("key", unknown[0], known)
    for key in ("paper", "about", "authors", "year", "claims", "table"):
        if not content.get(key):
            raise ValueError(f"{key}: expected it in every study")
    if ("compute" in content) == ("runs" in content):
        raise ValueError("expected either compute or runs")
    computations = {file.stem for file in COMPUTATIONS.glob("[a-z]*.py")}
    if "compute" in content and content["compute"] not in computations:
        raise unknown_name("computation", str(content["compute"]), computations)
    if not isinstance(content.get("seeds", []), list):
        raise ValueError(f"seeds: expected a list, got {content['seeds']!r}")
    grids = given if isinstance(given := content.get("grid") or [], list) else [given]
    for grid in grids:
        if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
            raise ValueError(f"grid: expected arguments with lists of values, got {grid!r:.80}")
    if not isinstance(x := content.get("figure", {}).get("x", ""), str):
        raise ValueError(f"figure: x: expected one factor, got {x!r:.80}; lines may be several")
    keys = ["deciding", *(each.key for each in MEASURES)]
    for name, measure in content.get("measures", {}).items():
        if not isinstance(measure, list) or len(measure) != 2:
            raise ValueError(f"measures: {name}: expected a test set and a key, got {measure!r:.80}")
        if measure[1] not in keys:
            raise unknown_name(f"key of measure {name}:", str(measure[1]), keys)
    for name, values in content.get("only", {}).items():
        if not isinstance(values, list):
            raise ValueError(f"only: {name}: expected a list of values, got {values!r:.80}")
    if content.get("page", "papers") not in PAGES:
        raise unknown_name("page", str(content["page"]), PAGES)
    return Study(
        path.stem, path,
        claims=tuple(map(_claim, content["claims"])),
        grid=tuple(grids),
        seeds=tuple(content.get("seeds", (0, 1, 2))),
        library=tuple(content.get("library", ())),
        **{"records": f"studies/{path.stem}.jsonl"}
        | {key: value for key, value in content.items() if key not in ("claims", "grid", "seeds", "library")},
    )  # fmt: skip


def _claim(entry: Any) -> Claim:
    if not isinstance(entry, dict) or not entry.get("claim"):
        raise ValueError(f"claims: expected entries with a claim, got {entry!r:.80}")
    for key in entry:
        if key not in _OF_CLAIM:
            raise unknown_name("key of a claim:", key, _OF_CLAIM)
    conditions = {name: str(entry[name]) for name in CONDITIONS if name in entry}
    if "threshold" not in conditions:
        raise ValueError(f"claim {entry['claim']!r:.60}: expected a threshold, written before the runs")
    for name, text in conditions.items():
        try:
            check_condition(text)
        except ValueError as error:
            raise ValueError(f"{name} of claim {entry['claim']!r:.40}: {error}") from None
    return Claim(str(entry["claim"]), str(entry.get("published", "")), conditions, str(entry.get("needs", "")))
