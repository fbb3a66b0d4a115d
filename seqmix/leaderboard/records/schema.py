"""What a record of one run holds; `seqmix.leaderboard.records.checks` looks whether it does.

A record is a JSON object of at most `MAX_BYTES`, on one line. Every field is always there; null where it says so.

    schema_version   2; records of version 1 are upgraded when they are read
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
    config_hash                        16 hex digits: hash of the settings without seed
    split                              data that `result.metrics` is about: `test` (*)
    board, entry, column               the board it was made for, its row and its task there; null outside boards (*)
    submission                         the submission that it came with; null for our own (*)
size
    params_total, params_non_embedding, params_mixer
                                       all of them, without the embedding, those of the mixers alone
    state_size                         {test set: real numbers kept per sequence after as many tokens as it is long,
                                       null for a layer that does not say}
    state_bytes                        {test set: the same in bytes, in the types in which they are kept, null for
                                       layers that see whole sequences only} (*)
    flops_per_token                    of a forward pass at the training length, scans included; null where it was not
                                       counted (*)
training
    optimizer, lr, schedule            entries of the config; lr is that of the optimizer before its schedule
    weight_decay, warmup               of the parameters that decay, null for an optimizer without; steps (*)
    batch_size, steps, max_steps, tokens
                                       sequences in a batch, null where a task has none; steps done and allowed; tokens
                                       that were trained on
    precision, clip                    Lightning's name of it; largest norm of the gradients, null for none
    stopped_early                      something ended it before max_steps; null without max_steps (*)
    checkpoint                         weights that were tested: `last`, or `best` on validation data
    checkpoint_split                   data that chose them: `validation` for the best, null for the last ones (*)
result
    metric                             the measure that decides: last_accuracy, sequence_accuracy, token_accuracy,
                                       macro_accuracy or bits_per_byte
    chance, train_length               of the task; null where it has none
    metrics                            {test set: {last, seq, tok, loss, n}}: accuracies and loss on n test sequences;
                                       free_seq, free_tok of answers that the model continues by itself; macro, the
                                       mean over classes, where it decides; a set is named by its length, or by the
                                       task; on text {tok, loss, bpb, ppl, n}: bits per byte and perplexity on n
                                       documents
    curve                              validation: list of {step, accuracy, loss}, on text with bpb
    validation                         the point of the curve that speaks for the run: the last, or that of the best
                                       weights if those were tested; null if it was never validated (*)
    best_step                          step of the best validation; the final step is training.steps (*)
    steps_to                           {threshold: step of the first validation with this accuracy, null if never}; null
                                       on text (*)
    iterations                         of fixed-point layers, mean over sequences: {train, and each test set}; null for
                                       models without such layers, 0 where a token's root was computed (*)
    final_length                       where the length curriculum ended; null without one
    restarts                           starts with new weights; null for a run that cannot have any
    diverged                           a loss was not finite; only then may a number be null or NaN
    certificate                        {certified, ...}: what an exact check of the tested weights for every length
                                       said; null where none was asked for (*)
cost
    train_seconds, wall_seconds        of training with its validations; of the whole process
    cpu_seconds                        processor time of the whole process, which other work on the machine does not
                                       lengthen as it does the wall's (*)
    tokens_per_second                  of training without its validations, by the wall clock (*)
    decode_ms                          median milliseconds of one token of one sequence; null for what cannot decode (*)
    threads, jobs                      threads of this run; runs at a time on the machine
    device, peak_memory_bytes          `cpu` or the name of a GPU; of the process, data on a GPU not included
repro
    seqmix, commit, dirty              version; commit and whether files differed from it, null when installed
    torch, python, platform, processor
                                       versions; operating system; processor of the machine
    command                            a command line that runs it again
    utc                                when it ended, ISO 8601

(*) since version 2; null in older records.

A failed run has null in `size`, `training`, `result` and wherever else it did not get far enough to know.
"""

import hashlib
import json
import math
from typing import Any

__all__ = [
    "MAX_BYTES",
    "SCHEMA_VERSION",
    "Record",
    "config_hash",
    "empty_record",
    "plain",
    "upgraded",
    "without_rate_and_seed",
]

Record = dict[str, Any]

SCHEMA_VERSION = 2
"""Version of the records that are written; older ones are upgraded when they are read."""

MAX_BYTES = 1 << 20
"""Length of the longest record."""

_TEXT, _INT, _NUMBER, _FLAG, _OBJECT, _LIST = (str,), (int,), (int, float), (bool,), (dict,), (list,)
_NONE = (type(None),)
TOP: dict[str, tuple[type, ...]] = {
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
        "config_hash": _TEXT,
        "split": _TEXT + _NONE,
        "board": _TEXT + _NONE,
        "entry": _TEXT + _NONE,
        "column": _TEXT + _NONE,
        "submission": _TEXT + _NONE,
    },
    "size": {
        "params_total": _INT,
        "params_non_embedding": _INT,
        "params_mixer": _INT,
        "state_size": _OBJECT,
        "state_bytes": _OBJECT + _NONE,
        "flops_per_token": _NUMBER + _NONE,
    },
    "training": {
        "optimizer": _OBJECT,
        "lr": _NUMBER,
        "weight_decay": _NUMBER + _NONE,
        "schedule": _OBJECT,
        "warmup": _INT + _NONE,
        "batch_size": _INT + _NONE,
        "steps": _INT,
        "max_steps": _INT,
        "tokens": _INT,
        "precision": _TEXT,
        "clip": _NUMBER + _NONE,
        "stopped_early": _FLAG + _NONE,
        "checkpoint": _TEXT,
        "checkpoint_split": _TEXT + _NONE,
    },
    "result": {
        "metric": _TEXT,
        "chance": _NUMBER + _NONE,
        "train_length": _INT + _NONE,
        "metrics": _OBJECT,
        "curve": _LIST,
        "validation": _OBJECT + _NONE,
        "best_step": _INT + _NONE,
        "steps_to": _OBJECT + _NONE,
        "iterations": _OBJECT + _NONE,
        "final_length": _INT + _NONE,
        "restarts": _INT + _NONE,
        "diverged": _FLAG,
        "certificate": _OBJECT + _NONE,
    },
    "cost": {
        "train_seconds": _NUMBER,
        "wall_seconds": _NUMBER,
        "cpu_seconds": _NUMBER + _NONE,
        "tokens_per_second": _NUMBER + _NONE,
        "decode_ms": _NUMBER + _NONE,
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
# Fields that a version brought with it.
_SINCE = {
    2: {
        "identity": {"config_hash", "split", "board", "entry", "column", "submission"},
        "size": {"state_bytes", "flops_per_token"},
        "training": {"weight_decay", "warmup", "stopped_early", "checkpoint_split"},
        "result": {"validation", "best_step", "steps_to", "iterations", "certificate"},
        "cost": {"cpu_seconds", "tokens_per_second", "decode_ms"},
    }
}
# What a failed run knows too.
NEVER_NULL = {"identity": {"seed", "config", "overrides", "settings", "config_hash"}, "repro": set(_SECTIONS["repro"])}
# By version, section and name: the types of a field.
FIELDS = {
    version: {
        section: {
            name: types
            for name, types in fields.items()
            if not any(name in added.get(section, ()) for since, added in _SINCE.items() if since > version)
        }
        for section, fields in _SECTIONS.items()
    }
    for version in range(1, SCHEMA_VERSION + 1)
}


def empty_record() -> Record:
    """A record with every field, all of them null."""
    top: Record = dict.fromkeys(TOP)
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


def config_hash(settings: dict[str, Any]) -> str:
    """16 hex digits: what a run is but for its seed."""
    content = {key: value for key, value in settings.items() if key != "seed_everything"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def without_rate_and_seed(settings: dict[str, Any]) -> str:
    """What a config is but for learning rate and seed, to compare."""
    rest = {key: value for key, value in settings.items() if key != "seed_everything"}
    if isinstance(rest.get("optimizer"), dict):
        rest["optimizer"] = {key: value for key, value in rest["optimizer"].items() if key != "lr"}
    return repr(sorted(rest.items()))


def upgraded(record: Record) -> Record:
    """A good record of any version as one of this version, with null in what its own did not have."""
    version = record["schema_version"]
    if version == SCHEMA_VERSION:
        return record
    record = dict(record) | {"schema_version": SCHEMA_VERSION}
    for section, fields in _SECTIONS.items():
        record[section] = dict.fromkeys(fields) | record[section]
    record["identity"]["config_hash"] = config_hash(record["identity"]["settings"])
    return record
