"""Whether a record holds what `seqmix.leaderboard.records.schema` says, problem by problem."""

import json
import math
from collections.abc import Iterator
from typing import Any

from seqmix import _measures
from seqmix._markdown import printable
from seqmix.leaderboard.records.schema import FIELDS, NEVER_NULL, SCHEMA_VERSION, TOP, Record

__all__ = ["problems_of", "unwritable"]

_INT, _NUMBER = (int,), (int, float)
_LARGEST = 2**63 - 1
_LONG, _DIGITS = b"0" * 19, bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))


def problems_of(record: Any, *, older: bool = False, line: bytes | None = None) -> list[str]:
    """What is wrong with a record of this version, by field; empty if nothing is. `older` versions only if asked.

    `line` is the record as it stands in a file, which spares writing it once more.
    """
    if not isinstance(record, dict):
        return [f"expected a JSON object, got {_kind(record)}"]
    version: Any = record.get("schema_version")
    if version != SCHEMA_VERSION and not (older and _is(version, _INT) and 1 <= version < SCHEMA_VERSION):
        newer = ", which a newer seqmix has written" if _is(version, _INT) and version > SCHEMA_VERSION else ""
        versions = f"1 to {SCHEMA_VERSION}" if older else str(SCHEMA_VERSION)
        return [f"schema_version: expected {versions}, got {version!r}{newer}"]
    failed = record.get("status") == "failed"
    found = _check_fields("", {k: v for k, v in record.items() if k not in FIELDS[SCHEMA_VERSION]}, TOP, None)
    for section in FIELDS[SCHEMA_VERSION]:
        values = record.get(section)
        if not isinstance(values, dict):
            found.append(f"{section}: expected an object, got {_kind(values)}")
            continue
        known = NEVER_NULL.get(section, set()) if failed else None
        found += _check_fields(f"{section}.", values, FIELDS[version][section], known)
    return found or unwritable("", record, line) or _check_values(record, failed)


def unwritable(path: str, value: Any, line: bytes | None = None) -> list[str]:
    """Text that no file can hold, and numbers beyond 64 bits, wherever they stand; `path` is that of `value`."""
    try:
        # Plain text without escapes holds no half of a character; a NUL is one of UTF-16, which spreads digits out.
        plain = line is not None and line.isascii() and b"\\u" not in line and b"\0" not in line
        written = line if plain and line is not None else json.dumps(value, ensure_ascii=False).encode()
        if _LONG not in written.translate(_DIGITS):  # a tenth of what a search for 19 digits takes
            return []
    except ValueError:  # half of a character, or thousands of digits
        pass
    return list(_unwritten(path, value))


def _unwritten(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unwritten(path, key)
            yield from _unwritten(f"{path}.{printable(key)}".lstrip("."), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unwritten(f"{path}.{index}", item)
    elif isinstance(value, str) and not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        yield f"{path}: expected text, got half of a character (a lone surrogate)"
    elif isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        yield f"{path}: expected a whole number of 64 bits, got one of {value.bit_length()}"


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
    return type(value) in types or (isinstance(value, types) and not isinstance(value, bool))


def _check_values(record: Record, failed: bool) -> list[str]:
    found = []
    if record["status"] not in ("ok", "failed"):
        found.append(f"status: expected 'ok' or 'failed', got {record['status']!r}")
    if record["attempt"] < 1:
        found.append(f"attempt: expected at least 1, got {record['attempt']}")
    if len(record["id"]) != 16 or set(record["id"]) - set("0123456789abcdef"):
        found.append(f"id: expected 16 hex digits, got {record['id']!r}")
    if not all(isinstance(text, str) for text in record["identity"]["overrides"] or ()):
        found.append(f"identity.overrides: expected a list of text, got {record['identity']['overrides']!r:.80}")
    if (failed or record["result"]["diverged"]) and not record["reason"]:
        found.append("reason: a run that failed or diverged must have one, got null")
    if failed:
        known = ((section, name) for section in ("size", "training", "result") for name in record[section])
        wrong = [f"{section}.{name}" for section, name in known if record[section][name] is not None]
        return found + [f"{field}: expected null in a run that failed" for field in wrong]
    result = record["result"]
    if result["chance"] is not None and not 0 <= result["chance"] < 1:
        found.append(f"result.chance: expected null or a share in [0, 1), got {result['chance']}")
    for name, least in (("train_length", 1), ("final_length", 1), ("best_step", 0), ("restarts", 0)):
        if result.get(name) is not None and result[name] < least:
            found.append(f"result.{name}: expected null or at least {least}, got {result[name]}")
    deciding = _measures.DECIDING
    if result["metric"] not in deciding:
        found.append(f"result.metric: expected one of {', '.join(deciding)}, got {result['metric']!r}")
        return found
    text, decisive = _measures.of_text(result["metric"]), _measures.named(result["metric"]).key
    if not result["metrics"] and not result["diverged"]:
        found.append("result.metrics: a run that did not diverge must have some, got none")
    for length, row in result["metrics"].items():
        wrong = _check_row(f"result.metrics.{length}", length, row, result["diverged"], text)
        found += wrong
        if not wrong and decisive not in row:
            found.append(f"result.metrics.{length}: expected {decisive}, which decides the task, got none")
    certificate = result.get("certificate")
    if certificate is not None and not isinstance(certificate.get("certified"), bool):
        found.append(f"result.certificate: expected {{certified: true or false, ...}}, got {certificate!r:.80}")
    names = ("accuracy", "loss", "bpb") if text else ("accuracy", "loss")
    for index, point in enumerate(result["curve"]):
        if not isinstance(point, dict) or set(point) != {"step", *names}:
            found.append(
                f"result.curve.{index}: expected step, {', '.join(names[:-1])} and {names[-1]}, got {point!r:.80}"
            )
            continue
        if not _is(point["step"], _INT) or point["step"] < 0:
            found.append(f"result.curve.{index}.step: expected an int of at least 0, got {_kind(point['step'])}")
        for name in names:
            found += _check_number(f"result.curve.{index}.{name}", point[name], name != "accuracy", result["diverged"])
    if result.get("validation") is not None and result["validation"] not in result["curve"]:
        found.append("result.validation: expected a point of the curve, got another")
    found += _check_counts("size.state_size", record["size"]["state_size"], (*_INT, type(None)))
    found += _check_counts("size.state_bytes", record["size"].get("state_bytes"), (*_INT, type(None)))
    found += _check_counts("result.steps_to", result.get("steps_to"), (*_INT, type(None)))
    found += _check_counts("result.iterations", result.get("iterations"), _NUMBER)
    for section in ("size", "training", "cost"):
        for name, value in record[section].items():
            if isinstance(value, int | float) and not (-1 if name == "max_steps" else 0) <= value < math.inf:
                found.append(f"{section}.{name}: expected a number of at least 0, got {_kind(value)}")
    return found


def _check_counts(path: str, values: dict[str, Any] | None, types: tuple[type, ...]) -> list[str]:
    return [
        f"{path}.{name}: expected a number of at least 0, got {_kind(value)}"
        for name, value in (values or {}).items()
        if not _is(value, types) or (value is not None and not 0 <= value < math.inf)
    ]


def _check_row(path: str, length: str, row: Any, diverged: bool, text: bool) -> list[str]:
    if not length.strip() or (length.isdecimal() and not 0 < int(length) <= _LARGEST):
        return [f"{path}: expected a length or the name of a test set, got {length!r:.80}"]
    measures, optional = (_measures.keys(text=text, always=always) for always in (True, False))
    if not isinstance(row, dict) or set(row) - set(optional) != {*measures, "n"}:
        got = ", ".join(row) if isinstance(row, dict) else _kind(row)
        return [f"{path}: expected {', '.join(measures)} and n, got {got}"]
    found = [] if _is(row["n"], _INT) and row["n"] > 0 else [f"{path}.n: expected a positive int, got {row['n']!r}"]
    for name in (*measures, *(name for name in optional if name in row)):
        found += _check_number(f"{path}.{name}", row[name], _measures.at(name).less, diverged)
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
