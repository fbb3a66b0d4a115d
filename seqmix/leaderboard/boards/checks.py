"""`seqmix leaderboard validate FOLDER`: whether a submission is what it says.

Beyond what every file of records is checked for: each run must be one that its board plans, config, size, learning rate
and seed included, and none may be missing; the test data must be that of this version; numbers must be possible; and
one run, the cheapest, is made again. Before any of this no path may lead out of the folder, and no code be named that
the reader does not trust: a check that fails stops those after it.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqmix._trust import write_inside
from seqmix.leaderboard.boards.board import Board, find_board, list_boards, load_board
from seqmix.leaderboard.boards.plan import BoardPlan
from seqmix.leaderboard.boards.seals import CHECK, folder_digest, sealed
from seqmix.leaderboard.boards.submission_gate import at, board_paths_out, in_folder, named_code, paths_out
from seqmix.leaderboard.boards.submissions import Submission, read_submission
from seqmix.leaderboard.records.schema import Record, config_hash
from seqmix.leaderboard.records.store import latest
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.sweep.rerun import TOLERANCE, circumstances_that_differ, differences, rerun

__all__ = ["check_submission", "spot_check"]

_LISTED = 10  # missing runs that are told one by one


def check_submission(folder: str | Path, *, trust: Collection[str] = ()) -> Submission:
    """The submission with all its problems, but for the spot check; those that show where it leads stop the others.

    Of its code the modules in `trust` are imported, and nothing else.
    """
    found = read_submission(folder)
    found.problems += [f"{at(found, line)}: {text}" for line, record in found.runs for text in _impossible(record)]
    found.problems += _twice(found)
    unsafe = [f"{at(found, line)}: {text}" for line, record in found.runs for text in paths_out(record)]
    if not unsafe:
        unsafe = list(named_code(found, trust))
    found.problems += unsafe
    if found.unsafe or unsafe:
        return found
    digest = folder_digest(found.folder)
    with in_folder(found.folder, trust):
        found.problems += _task_problems(found)
        path = Path("board.yaml")
        if path.is_file():
            try:
                board = load_board(path, trust=trust, within=Path.cwd())
                wrong = list(board_paths_out(found, board)) or _board_problems(found, board)
                found.problems += wrong or _plan_problems(found, BoardPlan(board))
            except (ValueError, ImportError) as error:
                found.problems.append(f"{found.folder / 'board.yaml'}: {error}")
    found.checked = digest
    return found


def spot_check(found: Submission, tolerance: float = TOLERANCE, *, trust: Collection[str] = ()) -> list[str]:
    """Run the cheapest good run again and write check.json; returns what differs, as `FILE:LINE: what`.

    Args:
        found: what `check_submission` has found nothing wrong with.
        tolerance: of the comparison, where circumstances differ.
        trust: as there.

    Raises:
        ValueError: there is no run that could be made again, a check has failed or was not made, or files changed
            meanwhile.
    """
    good = [(line, record) for line, record in found.runs if not broken(record)]
    if not good:
        raise ValueError(f"{found.folder}: there is no run that came to its end, and none to be run again")
    line, record = min(good, key=lambda pair: pair[1]["cost"]["train_seconds"])
    if found.problems or found.checked is None:
        raise ValueError(f"{found.folder}: no run is made again before everything else is checked, and right")
    with in_folder(found.folder, trust):
        again = rerun(record, trust=trust)
    if folder_digest(found.folder) != found.checked:
        raise ValueError(f"{found.folder}: its files have changed since they were checked")
    unlike = circumstances_that_differ(record, again)
    tolerance = tolerance if unlike else 0.0
    wrong = differences(record, again, tolerance)
    if again["status"] == "failed":
        reason = " ".join(again["reason"].split())
        problems = [f"{at(found, line)}: run again it failed: {reason}"]
    else:
        where = f"{at(found, line)}: run again"
        problems = [f"{where}: {d.field}: {d.recorded!r:.60} in the record, {d.again!r:.60} now" for d in wrong]
    repro = again["repro"]
    content = {"files": found.checked, "id": record["id"], "differences": [difference.field for difference in wrong]}
    content |= {"tolerance": tolerance, "circumstances": unlike, "utc": repro["utc"]}
    content |= {name: repro[name] for name in ("seqmix", "commit", "dirty", "torch", "processor")}
    content = sealed(content)
    write_inside(found.folder, CHECK, json.dumps(content, indent=1) + "\n", str(found.folder))
    found.check = content
    return problems


def _impossible(record: Record) -> Iterator[str]:
    """What no run can have done."""
    identity, training, result = record["identity"], record["training"], record["result"]
    if identity["config_hash"] != config_hash(identity["settings"]):
        yield f"identity.config_hash: expected {config_hash(identity['settings'])} of these settings, got another"
    if record["status"] == "failed":
        return
    if not 0 < training["lr"] < math.inf:
        yield f"training.lr: expected a positive number, got {training['lr']!r}"
    if 0 < training["max_steps"] < training["steps"]:
        yield f"training.steps: expected at most max_steps = {training['max_steps']}, got {training['steps']}"
    steps = [point["step"] for point in result["curve"]]
    if steps != sorted(steps) or any(step > training["steps"] for step in steps):
        yield f"result.curve: expected steps that rise, up to {training['steps']}, got {steps!r:.80}"
    if result["curve"] and result["validation"] is None:
        yield "result.validation: missing beside a curve"
    if record["cost"]["train_seconds"] > record["cost"]["wall_seconds"] + 1:
        yield "cost.train_seconds: expected at most wall_seconds"
    for name, row in result["metrics"].items():
        for measure in ("last", "seq", "free_seq"):
            share = row.get(measure)
            if share is not None and abs(share * row["n"] - round(share * row["n"])) > 1e-6 * row["n"] + 1e-9:
                yield f"result.metrics.{name}.{measure}: {share} is no share of {row['n']} sequences"
        if row.get("seq") is not None and row.get("last") is not None and row["seq"] > row["last"]:
            yield f"result.metrics.{name}: more whole sequences are right than last positions"


def _twice(found: Submission) -> Iterator[str]:
    seen: dict[tuple[str, str, int], tuple[int, str]] = {}
    for line, record in found.runs:
        identity = record["identity"]
        key = identity["task"], identity["config_hash"], identity["seed"]
        other, id = seen.setdefault(key, (line, record["id"]))
        if id != record["id"]:
            yield f"{at(found, line)}: the same task, config and seed stand in line {other} already"


def _task_problems(found: Submission) -> Iterator[str]:
    from seqmix.tasks.registry import create_task

    tasks: dict[str, Any] = {}
    for line, record in found.runs:
        if record["status"] != "ok":
            continue
        identity, result, where = record["identity"], record["result"], at(found, line)
        # As the run built it: arguments in a record may be those of a class beneath.
        entry = identity["settings"].get("data")
        key = json.dumps(entry, sort_keys=True)
        try:
            if not isinstance(entry, dict) or entry.get("name") != identity["task"]:
                raise ValueError(f"its settings have another under data: {key:.80}")
            if key not in tasks:
                task = create_task(**entry)
                tasks[key] = task, task.version() if hasattr(task, "version") else None
        except (ValueError, TypeError, ImportError, OSError) as error:
            yield f"{where}: identity.task: cannot be built here: {' '.join(str(error).split())}"
            continue
        task, version = tasks[key]
        if identity["task_version"] != version:
            yield f"{where}: identity.task_version: expected {version} of this version, got {identity['task_version']}"
            continue
        for name in ("metric", "chance", "train_length"):
            if result[name] != getattr(task, name, None):
                yield f"{where}: result.{name}: expected {getattr(task, name, None)!r}, got {result[name]!r}"
        sizes = {each.name: each.size for each in task.test_sets}
        got = {name: row["n"] for name, row in result["metrics"].items()}
        if got != sizes and not (result["diverged"] and not got):
            yield f"{where}: result.metrics: expected all test sets, {sizes}, got {got}"


def _board_problems(found: Submission, board: Board) -> list[str]:
    """A board with the name of one of ours must be that one, but for rows and tasks that are left out."""
    if board.name not in list_boards():
        return []
    path = find_board(board.name)
    assert path is not None
    ours = load_board(path)
    wrong = [
        name for name in ("budget", "rates", "grid_seeds", "best_seeds") if getattr(board, name) != getattr(ours, name)
    ]
    wrong += [f"tasks.{name}" for name, column in board.tasks.items() if ours.tasks.get(name) != column]
    where = found.folder / "board.yaml"
    return [f"{where}: {name}: board {board.name!r} has another one; `base: {board.name}` takes it" for name in wrong]


def _plan_problems(found: Submission, plan: BoardPlan) -> Iterator[str]:
    settled = {record["id"]: record for record in latest(found.records)}
    planned = plan.runs(settled)
    later = list(dict.fromkeys(plan.later(settled)))
    ids = {run.id for run in planned}
    for line, record in found.runs:
        if record["id"] not in ids and not _planned_later(record, plan, later):
            place = "/".join(str(record["identity"][name]) for name in ("board", "column", "entry"))
            yield (
                f"{at(found, line)}: id: board.yaml plans no such run: board, row, config, size, learning rate or "
                f"seed of {place} is another"
            )
    missing = [str(run) for run in planned if run.id not in settled] + [f"{kind}, further seeds" for kind in later]
    where = found.folder / "runs.jsonl"
    yield from (f"{where}: missing: {run}" for run in missing[:_LISTED])
    if len(missing) > _LISTED:
        yield f"{where}: missing: {len(missing) - _LISTED} more runs"


def _planned_later(record: Record, plan: BoardPlan, later: Sequence[str]) -> bool:
    # Where a rate is missing nobody knows which one the further seeds are for: any may be right.
    identity = record["identity"]
    row, task, seed = identity["entry"], identity["column"], identity["seed"]
    if f"{task} {row}" not in later or seed not in plan.board.best_seeds:
        return False
    cells = [cell for cell in plan.cells if (cell.row, cell.task) == (row, task)]
    return any(cell.run(rate, seed).id == record["id"] for cell in cells for rate in plan.board.rates)
