"""Sweeps over runs that take no time: `worker` is the server of one, `sweeps` forks one for each line that it reads.

A run notes its beginning and end in `events`, and whether another process was doing the same run.
"""

import fcntl
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

RUNS = 60


def fit(what: dict[str, Any]) -> int:
    """Stands for `seqmix fit`."""
    seed, place = what["settings"]["seed_everything"], Path(os.environ["QUICK_RUNS"])
    folder = Path(what["run"])
    with (place / f"lock-{seed}").open("w") as lock, (place / "events").open("a", buffering=1) as events:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("twice", seed, file=events)
        print("begin", seed, file=events)
        time.sleep(random.Random(os.getpid()).uniform(0.01, 0.06))
        folder.mkdir()
        (folder / "results.json").write_text((place / "results.json").read_text())
        print("end", seed, file=events)
    return 0


def worker() -> None:
    """The server of a sweep with `fit` instead of `seqmix fit`, and without the imports of that."""
    from seqmix.leaderboard.sweep.worker import serve

    sys.exit(serve(fit))


def sweeps() -> None:
    """Fork a sweep for each line of standard input, and print its process."""
    from seqmix.leaderboard.records.store import RunStore
    from seqmix.leaderboard.sweep import local
    from seqmix.leaderboard.sweep.loop import sweep
    from seqmix.leaderboard.sweep.plan import plan_runs

    place = Path(os.environ["QUICK_RUNS"])
    facts = json.loads((place / "facts.json").read_text())
    local.repro_facts = lambda: facts  # type: ignore[assignment]
    plan = plan_runs(["parity"], range(RUNS), None, [])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            runner = local.LocalProcesses(place / "runs", 1, 2, (sys.executable, __file__, "worker"))
            sweep(plan, RunStore(place / "runs.jsonl"), runner, jobs=2)
            runner.close()
            os._exit(0)
        print(process, flush=True)


if __name__ == "__main__":
    {"worker": worker, "sweeps": sweeps}[sys.argv[1]]()
