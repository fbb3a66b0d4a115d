"""Records made up for tests."""

import hashlib
from typing import Any

from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.schema import SCHEMA_VERSION, config_hash, empty_record


def make_record(
    config: str = "a5",
    seed: int = 0,
    *,
    lr: float = 2e-3,
    accuracies: dict[int, float] | None = None,
    validation: float = 1.0,
    attempt: int = 1,
    failed: bool = False,
    diverged: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """A good record; `accuracies` by length are those of whole sequences."""
    settings = {"optimizer": {"name": "adamw", "lr": lr}, "seed_everything": seed, **settings}
    identity = {"config": config, "seed": seed, "overrides": [f"optimizer.lr={lr!r}"], "settings": settings}
    identity |= {"config_hash": config_hash(settings), "split": "test"}
    digest = hashlib.sha256(repr((config, sorted(settings.items()))).encode()).hexdigest()[:16]
    record = empty_record() | {"schema_version": SCHEMA_VERSION, "id": digest, "attempt": attempt, "status": "ok"}
    record["identity"] |= identity
    record["repro"] |= {"seqmix": "0.1.0", "commit": "c0ffee" * 6, "dirty": False, "torch": "2.13.0", "python": "3.11"}
    record["repro"] |= {"platform": "Linux", "processor": "A processor", "utc": "2026-01-01T00:00:00Z"}
    record["repro"] |= {"command": f"seqmix fit --config {config}"}
    record["cost"] |= {"wall_seconds": 65.0, "threads": 1, "jobs": 2}
    if failed:
        return record | {"status": "failed", "reason": "exit status 1\nMemoryError"}
    rows = {16: 1.0, 64: 0.75} if accuracies is None else accuracies
    metrics = {str(n): {"last": a, "seq": a, "tok": a, "loss": 0.5, "n": 512} for n, a in rows.items()}
    record["identity"] |= {"task": "word-problem", "task_kwargs": {"group": "A5"}, "task_version": "0" * 16}
    record["identity"] |= {"mixer": "bd-lru", "mixer_kwargs": {"block_size": 5}, "n_layers": 1, "d_model": 128}
    record["size"] |= {"params_total": 147_552, "params_non_embedding": 139_744, "params_mixer": 82_400}
    record["size"] |= {"state_size": {str(n): 80 for n in rows}}
    record["size"] |= {"state_bytes": {str(n): 320 for n in rows}}
    record["training"] |= {"weight_decay": 0.0, "warmup": 0, "stopped_early": True}
    record["training"] |= {"optimizer": settings["optimizer"], "lr": lr, "schedule": {"name": "constant"}}
    record["training"] |= {"batch_size": 128, "steps": 2000 + seed, "max_steps": 8000, "tokens": 10**6}
    record["training"] |= {"precision": "32-true", "clip": 1.0, "checkpoint": "last"}
    record["result"] |= {"metric": "sequence_accuracy", "chance": 1 / 60, "train_length": 16, "final_length": 16}
    record["result"] |= {"metrics": {} if diverged else metrics, "restarts": 0, "diverged": diverged}
    record["result"] |= {"curve": [{"step": 500, "accuracy": validation, "loss": 1 - validation}]}
    record["result"] |= {"validation": record["result"]["curve"][0], "best_step": 500}
    record["result"] |= {"steps_to": {"0.99": 500 if validation >= 0.99 else None}}
    record["cost"] |= {"train_seconds": 60.0 + seed, "cpu_seconds": 61.0, "device": "cpu", "peak_memory_bytes": 10**9}
    if diverged:
        record["reason"] = "the loss is not finite at step 7"
    assert not problems_of(record)
    return record
