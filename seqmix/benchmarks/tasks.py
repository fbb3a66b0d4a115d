"""`seqmix bench tasks`: how many training sequences every registered task makes in a second, on one core.

Batches are those of the task's own loader, without worker processes: random words, examples, and the batch around
them. Tasks that are registered later appear by themselves, with their own defaults.
"""

import fnmatch
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from seqmix._suggest import unknown_name
from seqmix.benchmarks.record import reason_of
from seqmix.benchmarks.timing import NO_TIMES, Call, Plan, Progress, take_turns, threads

__all__ = ["run_task", "select_tasks"]

Row = dict[str, Any]

# Where the defaults are not what is compared: length 128, and lists at their published size.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "word-problem": {"train_length": 128},
    "parity": {"train_length": 128, "min_length": None},
    "single-parity": {"train_length": 128, "min_length": None},
    "even-pairs": {"train_length": 128, "min_length": None},
    "cycle-navigation": {"train_length": 128, "min_length": None},
    "modular-arithmetic": {"train_length": 128, "min_length": None},
    "bracket-arithmetic": {"train_length": 128, "min_length": None},
    "string-copy": {"train_length": 63, "min_length": None},
    "ngram-lookup": {"train_length": 120, "min_length": None},
    "selective-copy": {"train_length": 128},
    "induction-heads": {"train_length": 128},
    "compression": {"train_length": 128},
    "mqar": {"train_length": 128, "n_pairs": 8},
}
_SEQUENCES = 256  # in a sample, at least
_QUICK = {"batch_size": 4, "eval_size": 2}


def select_tasks(patterns: str | None) -> list[str]:
    """Registered tasks that match shell patterns separated by commas; one that matches none is a `ValueError`."""
    from seqmix.tasks import list_tasks

    known = list_tasks()
    if patterns is None:
        return known
    chosen: set[str] = set()
    for pattern in patterns.split(","):
        found = fnmatch.filter(known, pattern.strip())
        if not found:
            raise unknown_name("task", pattern.strip(), known)
        chosen.update(found)
    return [name for name in known if name in chosen]


def run_task(name: str, quick: bool, plan: Plan, progress: Progress) -> Row:
    """The row of one task; one that cannot be built here is a row with the reason."""
    from seqmix.tasks import create_task, get_task

    arguments = _ARGUMENTS.get(name, {})
    row: Row = {"task": name, "arguments": arguments, "threads": 1, **NO_TIMES}
    row |= {"status": "error", "reason": "", "sizes": {"B": 0, "T": 0}, "sequences_per_second": None}
    row |= {"tokens_per_second": None, "batches": None}
    try:
        known = get_task(name).parameters()
        small = {key: value for key, value in _QUICK.items() if quick and key in known}
        task = create_task(name, **arguments | small)
        batches = _batches(task)
        first = next(batches)
    except (ValueError, ImportError, OSError) as error:
        return row | {"reason": reason_of(error)}
    sequences, tokens = _sizes(first)
    # Examples that are made in blocks come at once or not at all: a sample holds several blocks.
    n = 1 if quick else -(-_SEQUENCES // sequences)
    with threads(1):
        calls: dict[str, Call] = {"batches": lambda: [next(batches) for _ in range(n)]}
        times = take_turns(calls, torch.device("cpu"), plan, progress)["batches"]
    seconds = times.median_ms / 1e3 / n
    return row | {
        "status": "ok",
        "sizes": {"B": sequences, "T": first["tokens"].shape[1]},
        **times.record(),
        "batches": n,
        "sequences_per_second": sequences / seconds,
        "tokens_per_second": tokens / seconds,
    }


def _batches(task: Any) -> Iterator[dict[str, torch.Tensor]]:
    if getattr(task, "train_size", None) is not None and hasattr(task, "examples"):
        # A finite set is made once and kept: what it costs to make is what is measured.
        n, length = task.batch_size, task.train_length
        return (
            task.examples(seed=task.seed, split="train", start=i * n, count=n, length=length, max_length=length)
            for i in count()
        )
    loader = task.train_dataloader()
    make = getattr(loader, "make", None)
    if make is not None:
        return (make(index) for index in count())
    return (batch for _ in count() for batch in loader)


def _sizes(batch: dict[str, torch.Tensor]) -> tuple[int, int]:
    rows = len(batch["cu_seqlens"]) - 1 if "cu_seqlens" in batch else len(batch["tokens"])
    return rows, batch["tokens"].numel()
