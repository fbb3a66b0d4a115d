"""Many records made up for tests: entries that differ in skill and in how they take learning rates."""

import hashlib
import math
import random
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from tests.leaderboard.example_records import make_record

ENTRIES = ("bd-lru", "mamba", "mamba-signed", "gla", "deltanet", "h-lru", "lru", "rg-lru", "mamba-2", "mamba-3")
ENTRIES += ("lstm", "dense", "fp-rnn", "attention")
TASKS = ("parity", "s4", "a5", "modular-arithmetic", "mqar", "selective-copy", "compression", "induction-heads")
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LENGTHS = (16, 32, 64, 128)


def make_records(
    entries: Sequence[str] = ENTRIES,
    tasks: Sequence[str] = TASKS,
    *,
    rates: Sequence[float] = RATES,
    seeds: int = 5,
    board: str | None = "equal-parameters",
    all_seeds: bool = False,
) -> Iterator[dict[str, Any]]:
    """Seed 0 at every rate and `seeds` at the best, or `seeds` at every rate; some runs diverge, some fail."""
    for entry in entries:
        base = make_record(entry, accuracies=dict.fromkeys(LENGTHS, 0.5))
        size = random.Random(f"{board} {entry}").choice((64, 128, 256, 512))
        state = {str(n): size * (n if entry == "attention" else 1) for n in LENGTHS}
        for task in tasks:
            dice = random.Random(f"{board} {entry} {task}")
            skill, reach = dice.random(), dice.uniform(0.0, 0.5)
            middle = dice.uniform(0.5, len(rates) - 1.5)

            def run(number: int, seed: int) -> dict[str, Any]:
                place = board, entry, task  # noqa: B023
                return _run(base, place, rates[number], seed, state, dice, skill, reach, number - middle)  # noqa: B023

            first = [run(number, 0) for number in range(len(rates))]
            yield from first
            best = max(range(len(rates)), key=lambda number: _validation(first[number]))
            for number in range(len(rates)) if all_seeds else [best]:
                yield from (run(number, seed) for seed in range(1, seeds))


def _validation(record: dict[str, Any]) -> float:
    broken = record["status"] == "failed" or record["result"]["diverged"]
    return 0.0 if broken else record["result"]["validation"]["accuracy"]


def _run(
    base: dict[str, Any],
    place: tuple[str | None, str, str],
    rate: float,
    seed: int,
    state: dict[str, int],
    dice: random.Random,
    skill: float,
    reach: float,
    off: float,
) -> dict[str, Any]:
    board, entry, task = place
    key = f"{board} {entry} {task} {rate!r} {seed}"
    right = 1 / (1 + math.exp(-12 * (skill + dice.gauss(0, 0.12) - 0.1 * off * off - 0.35)))
    diverged, failed = off >= 2 and dice.random() < 0.4, dice.random() < 0.004
    record = {name: section.copy() if isinstance(section, dict) else section for name, section in base.items()}
    record["id"] = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    settings = {"data": {"name": task}, "mixer": {"name": entry}, "optimizer": {"name": "adamw", "lr": rate}}
    record["identity"] |= {"config": f"{board}-{task}", "seed": seed, "overrides": [f"optimizer.lr={rate!r}"]}
    record["identity"] |= {"settings": settings | {"seed_everything": seed}, "board": board, "entry": entry}
    record["identity"] |= {"column": task, "config_hash": record["id"][::-1]}
    mixer = shlex.quote(f"{{name: {entry}, d_state: {state['16']}}}")
    record["repro"] |= {
        "command": f"seqmix fit --config {board}-{task} --seed_everything {seed} --mixer={mixer} "
        f"--optimizer.lr={rate!r}"
    }
    if failed:
        record |= {"status": "failed", "reason": "exit status 1\nMemoryError"}
        for section in ("size", "training", "result"):
            record[section] = dict.fromkeys(record[section])
        return record
    record["identity"] |= {"task": task, "task_kwargs": {"train_length": 16}, "mixer": entry}
    record["identity"] |= {"mixer_kwargs": {"d_state": state["16"]}}
    record["size"] |= {"state_size": state, "params_total": 147_000 + 13 * state["16"]}
    record["training"] |= {"lr": rate, "optimizer": settings["optimizer"]}
    rows = {}
    for length in state:
        loss = (1 - 2 * reach) * math.log2(int(length) / 16) / 2 * (1.02 - right)
        part = 1.0 if right > 0.995 and length == "16" else round(right * math.exp(-loss), 4)
        rows[length] = {"last": part, "seq": part, "tok": (1 + part) / 2, "loss": 1 - part, "n": 512}
    steps = [500 * (index + 1) for index in range(6)]
    curve = [
        {"step": step, "accuracy": round(right * (1 - math.exp(-step / 1000)), 4), "loss": round(1 - right, 4)}
        for step in steps
    ]
    record["result"] |= {"metrics": {} if diverged else rows, "curve": curve, "diverged": diverged}
    record["result"] |= {"validation": curve[-1], "best_step": steps[-1]}
    record["cost"] |= {"train_seconds": round(dice.uniform(20, 60), 2), "wall_seconds": round(dice.uniform(60, 70), 2)}
    if diverged:
        record["reason"] = "the loss is not finite at step 7"
    return record
