"""Sweeps that are killed at random moments lose nothing, break nothing, and leave nobody behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import pytest

from seqmix.leaderboard.records.store import read_runs, scan_runs
from seqmix.leaderboard.sweep.outcome import repro_facts
from seqmix.leaderboard.sweep.plan import plan_runs
from tests.leaderboard.example_records import make_record
from tests.leaderboard.sweep import quick_runs
from tests.leaderboard.sweep.test_sweep import ROOT, wait


class Sweeps:
    """Starts quick sweeps in `place`, and looks at them."""

    def __init__(self, place: Path, process: "subprocess.Popen[str]") -> None:
        self.place, self.process, self.store = place, process, place / "runs.jsonl"

    def start(self) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def events(self) -> Counter[tuple[str, str]]:
        path = self.place / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter((kind, seed) for kind, seed in map(str.split, lines))

    def begun(self) -> int:
        return sum(count for (kind, _), count in self.events().items() if kind == "begin")

    def ended(self) -> set[str]:
        """Seeds of runs that are over: recorded, or with an outcome that is to be."""
        paths = [
            path for path in self.place.glob("runs/*/*/outcome.json") if json.loads(path.read_text())["status"] == 0
        ]
        names = {path.parent.name.partition("-")[0] for path in paths}
        return {seed for seed, id in self.ids.items() if id in names} | self.recorded()

    def recorded(self) -> set[str]:
        return {str(r["identity"]["seed"]) for r in read_runs(self.store)} if self.store.exists() else set()

    @cached_property
    def ids(self) -> dict[str, str]:
        return {str(run.seed): run.id for run in plan_runs(["parity"], range(quick_runs.RUNS), None, [])}


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[Sweeps]:
    record = make_record("parity")
    sections = {name: record[name] for name in ("identity", "size", "training", "result", "cost")}
    (tmp_path / "results.json").write_text(json.dumps(sections | {"reason": None}))
    (tmp_path / "facts.json").write_text(json.dumps(repro_facts()))
    environment = os.environ | {"QUICK_RUNS": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, quick_runs.__file__, "sweeps"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield Sweeps(tmp_path, process)


def tree(process: int) -> list[int]:
    """A process and what descends from it, parents first."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(below for child in children for below in tree(int(child)))]


def alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("whole", [False, True], ids=["the sweep", "its whole tree"])
def test_ten_kills(sweeps: Sweeps, whole: bool) -> None:
    moments, before = random.Random(int(whole)), b""
    ended: dict[str, int] = {}  # how often runs that were over had begun by then
    for _ in range(10):
        sweep = sweeps.start()
        enough = sweeps.begun() + moments.randint(0, 8)
        wait(lambda: sweeps.begun() >= enough)  # noqa: B023
        time.sleep(moments.uniform(0, 0.05))
        family = tree(sweep)
        for process in family if whole else [sweep]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        wait(lambda: not any(map(alive, family)))  # noqa: B023  orphans end themselves
        now = sweeps.store.read_bytes() if sweeps.store.exists() else b""
        assert now.startswith(before), "what was recorded stays"
        before = now
        ended |= {seed: sweeps.events()["begin", seed] for seed in sweeps.ended() - ended.keys()}
    assert len(ended) < quick_runs.RUNS, "the last kill came in time"
    sweep = sweeps.start()
    wait(lambda: not alive(sweep))
    records, problems = scan_runs(sweeps.store)
    assert problems == []
    runs = sorted((r["identity"]["seed"], r["attempt"], r["status"]) for r in records)
    assert runs == [(seed, 1, "ok") for seed in range(quick_runs.RUNS)]
    events = sweeps.events()
    assert not any(kind == "twice" for kind, _ in events), "no run at two places at once"
    assert {seed: events["begin", seed] for seed in ended} == ended, "what was over was not done again"
    assert sum(events["begin", str(seed)] for seed in range(quick_runs.RUNS)) > quick_runs.RUNS, "kills hit runs"
    assert not (sweeps.place / "runs").exists(), "nothing is left lying about"


def test_two_sweeps_share_the_work(sweeps: Sweeps) -> None:
    both = [sweeps.start(), sweeps.start()]
    wait(lambda: not any(map(alive, both)))
    events = sweeps.events()
    assert events == Counter({(kind, str(seed)): 1 for kind in ("begin", "end") for seed in range(quick_runs.RUNS)})
    assert len(read_runs(sweeps.store)) == quick_runs.RUNS
