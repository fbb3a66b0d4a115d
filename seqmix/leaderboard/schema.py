"""What a record of one run holds, and the check that it does.

A record is a JSON object of at most `MAX_BYTES`, on one line. Every field is always there; null where it says so.

    schema_version   1
    id               16 hex digits: hash of the config's name, its contents with every override, and the seed
    attempt          1, or the number of this try at a run that failed before; (id, attempt) is unique in a file
    status           `ok` (diverged runs too) or `failed`
    reason           why it failed or diverged, else null

identity
    task, task_kwargs, task_version    registered name, arguments, hash of the test sets
    mixer, mixer_kwargs                registered name and arguments; of a hybrid `a+b` and a list, by layer
    n_layers, d_model                  the model around it
    seed, data_seed                    of the weights, of the training stream
    config, overrides                  name of the config; list of KEY=VALUE on top of it, the learning rate included
    settings                           the config as it was, bases and overrides merged in
size
    params_total, params_non_embedding, params_mixer
    state_size                         {test set: real numbers kept per sequence after as many tokens as it is long}
training
    optimizer, lr, schedule            entries of the config; lr is that of the optimizer before its schedule
    batch_size, steps, max_steps, tokens, precision, clip (null for none)
    checkpoint                         weights that were tested: `last`, or `best` on validation data
result
    metric                             the measure that decides: last_accuracy, sequence_accuracy, token_accuracy,
                                       macro_accuracy or bits_per_byte
    chance, train_length               of the task; null where it has none
    metrics                            {test set: {last, seq, tok, loss, n}}: accuracies and loss on n test sequences;
                                       free_seq, free_tok of answers that the model continues by itself; macro, the
                                       mean over classes, where it decides; a set is
                                       named by its length, or by the task; on text {tok, loss, bpb, ppl, n}: bits
                                       per byte and perplexity on n documents
    curve                              validation: list of {step, accuracy, loss}, on text with bpb
    final_length                       where the length curriculum ended; null without one
    restarts                           starts with new weights; null for a run that cannot have any
    diverged                           a loss was not finite; only then may a number be null or NaN
cost
    train_seconds, wall_seconds        of training with its validations; of the whole process
    threads, jobs                      threads of this run; runs at a time on the machine
    device, peak_memory_bytes
repro
    seqmix, commit, dirty              version; commit and whether files differed from it, null when installed
    torch, python, platform, processor
    command                            a command line that runs it again
    utc                                when it ended, ISO 8601

A failed run has null in `size`, `training`, `result` and wherever else it did not get far enough to know.
"""

import math
from typing import Any

__all__ = ["MAX_BYTES", "SCHEMA_VERSION", "Record", "empty_record", "plain", "problems_of"]

Record = dict[str, Any]

SCHEMA_VERSION = 1
MAX_BYTES = 1 << 20

_TEXT, _INT, _NUMBER, _FLAG, _OBJECT, _LIST = (str,), (int,), (int, float), (bool,), (dict,), (list,)
_NONE = (type(None),)
_TOP: dict[str, tuple[type, ...]] = {
    "schema_version": _INT,
    "id": _TEXT,
    "attempt": _INT,
    "status": _TEXT,
    "reason": _TEXT + _NONE,
}
_SECTIONS: dict[str, dict[str, tuple[type, ...]]] = {
    "identity": {
        "task": _TEXT,
        "task_kwargs": _OBJECT,
        "task_version": _TEXT + _NONE,
        "mixer": _TEXT,
        "mixer_kwargs": _OBJECT + _LIST,
        "n_layers": _INT,
        "d_model": _INT,
        "seed": _INT,
        "data_seed": _INT + _NONE,
        "config": _TEXT,
        "overrides": _LIST,
        "settings": _OBJECT,
    },
    "size": {"params_total": _INT, "params_non_embedding": _INT, "params_mixer": _INT, "state_size": _OBJECT},
    "training": {
        "optimizer": _OBJECT,
        "lr": _NUMBER,
        "schedule": _OBJECT,
        "batch_size": _INT + _NONE,
        "steps": _INT,
        "max_steps": _INT,
        "tokens": _INT,
        "precision": _TEXT,
        "clip": _NUMBER + _NONE,
        "checkpoint": _TEXT,
    },
    "result": {
        "metric": _TEXT,
        "chance": _NUMBER + _NONE,
        "train_length": _INT + _NONE,
        "metrics": _OBJECT,
        "curve": _LIST,
        "final_length": _INT + _NONE,
        "restarts": _INT + _NONE,
        "diverged": _FLAG,
    },
    "cost": {
        "train_seconds": _NUMBER,
        "wall_seconds": _NUMBER,
        "threads": _INT,
        "jobs": _INT,
        "device": _TEXT,
        "peak_memory_bytes": _INT,
    },
    "repro": {
        "seqmix": _TEXT,
        "commit": _TEXT + _NONE,
        "dirty": _FLAG + _NONE,
        "torch": _TEXT,
        "python": _TEXT,
        "platform": _TEXT,
        "processor": _TEXT,
        "command": _TEXT,
        "utc": _TEXT,
    },
}
_ALWAYS = {"identity": {"seed", "config", "overrides", "settings"}, "repro": set(_SECTIONS["repro"])}
_MEASURES = ("last", "seq", "tok", "loss")
_OPTIONAL = ("free_seq", "free_tok", "macro")
_OF_TEXT = ("tok", "loss", "bpb", "ppl")
_METRICS = ("last_accuracy", "sequence_accuracy", "token_accuracy", "macro_accuracy", "bits_per_byte")


def empty_record() -> Record:
    """A record with every field, all of them null."""
    top: Record = dict.fromkeys(_TOP)
    return top | {section: dict.fromkeys(fields) for section, fields in _SECTIONS.items()}


def plain(value: Any) -> Any:
    """`value` as JSON has it: null for numbers that are none, text for what JSON does not know."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def problems_of(record: Any) -> list[str]:
    """What is wrong with a record, by field; empty if nothing is."""
    if not isinstance(record, dict):
        return [f"expected a JSON object, got {_kind(record)}"]
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        return [f"schema_version: expected {SCHEMA_VERSION}, got {version!r}"]
    failed = record.get("status") == "failed"
    found = _check_fields("", {k: v for k, v in record.items() if k not in _SECTIONS}, _TOP, None)
    for section, fields in _SECTIONS.items():
        values = record.get(section)
        if not isinstance(values, dict):
            found.append(f"{section}: expected an object, got {_kind(values)}")
            continue
        known = _ALWAYS.get(section, set()) if failed else None
        found += _check_fields(f"{section}.", values, fields, known)
    return found or _check_values(record, failed)


def _check_fields(
    prefix: str, values: Record, fields: dict[str, tuple[type, ...]], needed: set[str] | None
) -> list[str]:
    # `needed`: the fields of a failed run that may not be null.
    found = [f"{prefix}{name}: unknown field" for name in values if name not in fields]
    for name, types in fields.items():
        if name not in values:
            found.append(f"{prefix}{name}: missing")
        elif not _is(values[name], types) and not (values[name] is None and needed is not None and name not in needed):
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            found.append(f"{prefix}{name}: expected {expected}, got {_kind(values[name])}")
    return found


def _is(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _check_values(record: Record, failed: bool) -> list[str]:
    found = []
    if record["status"] not in ("ok", "failed"):
        found.append(f"status: expected 'ok' or 'failed', got {record['status']!r}")
    if record["attempt"] < 1:
        found.append(f"attempt: expected at least 1, got {record['attempt']}")
    if len(record["id"]) != 16 or set(record["id"]) - set("0123456789abcdef"):
        found.append(f"id: expected 16 hex digits, got {record['id']!r}")
    if (failed or record["result"]["diverged"]) and not record["reason"]:
        found.append("reason: a run that failed or diverged must have one, got null")
    if failed:
        return found
    result = record["result"]
    if result["metric"] not in _METRICS:
        found.append(f"result.metric: expected one of {', '.join(_METRICS)}, got {result['metric']!r}")
    text = result["metric"] == "bits_per_byte"
    if not result["metrics"] and not result["diverged"]:
        found.append("result.metrics: a run that did not diverge must have some, got none")
    for length, row in result["metrics"].items():
        found += _check_row(f"result.metrics.{length}", length, row, result["diverged"], text)
    names = ("accuracy", "loss", "bpb") if text else ("accuracy", "loss")
    for index, point in enumerate(result["curve"]):
        if not isinstance(point, dict) or set(point) != {"step", *names}:
            found.append(
                f"result.curve.{index}: expected step, {', '.join(names[:-1])} and {names[-1]}, got {point!r:.80}"
            )
            continue
        for name in names:
            found += _check_number(f"result.curve.{index}.{name}", point[name], name != "accuracy", result["diverged"])
    for section in ("size", "training", "cost"):
        for name, value in record[section].items():
            if isinstance(value, int | float) and not value >= (-1 if name == "max_steps" else 0):
                found.append(f"{section}.{name}: expected at least 0, got {value}")
    return found


def _check_row(path: str, length: str, row: Any, diverged: bool, text: bool) -> list[str]:
    if not length.strip():
        return [f"{path}: expected a length or the name of a test set, got {length!r}"]
    measures, optional = (_OF_TEXT, ()) if text else (_MEASURES, _OPTIONAL)
    if not isinstance(row, dict) or set(row) - set(optional) != {*measures, "n"}:
        got = ", ".join(row) if isinstance(row, dict) else _kind(row)
        return [f"{path}: expected {', '.join(measures)} and n, got {got}"]
    found = [] if _is(row["n"], _INT) and row["n"] > 0 else [f"{path}.n: expected a positive int, got {row['n']!r}"]
    for name in (*measures, *(name for name in optional if name in row)):
        found += _check_number(f"{path}.{name}", row[name], name in ("loss", "bpb", "ppl"), diverged)
    return found


def _check_number(path: str, value: Any, is_loss: bool, diverged: bool) -> list[str]:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return [] if diverged else [f"{path}: {_kind(value)} in a run that did not diverge"]
    if not _is(value, _NUMBER):
        return [f"{path}: expected a number, got {_kind(value)}"]
    return [] if is_loss or 0 <= value <= 1 else [f"{path}: expected an accuracy in [0, 1], got {value}"]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "an infinite number"
    text = repr(value)
    return f"{type(value).__name__} {text[:60] + '...' if len(text) > 60 else text}"
