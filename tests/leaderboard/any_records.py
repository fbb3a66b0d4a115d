"""Records from the whole range of what the schema allows, for tests of what is made of them."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.schema import FIELDS, SCHEMA_VERSION
from tests.leaderboard.example_records import make_record

Record = dict[str, Any]

_NUMBERS = [
    0,
    1,
    -1,
    3,
    16,
    1e-300,
    5e-324,
    1e-3,
    0.5,
    0.9999999999999999,
    1.5,
    8.0,
    1e6,
    1e300,
    1.7976931348623157e308,
]
_NUMBERS += [float("inf"), float("nan"), 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30, 10**400, True]
_TEXTS = [
    "",
    " ",
    "a5",
    "bd-lru",
    "0",
    "1",
    "-1",
    "٣",
    "007",
    "1e3",
    "64",
    "free_seq:16",
    "a:b",
    "../../x",
    "/etc",
    "index",
]
_TEXTS += ["CON", ".", "..", "a/b", "<script>alert(1)</script>", "<!-- /seqmix:a5 -->", "x\n# y", "|", "\x00", "\ud800"]
_TEXTS += [
    "\u202e",
    "e\u0301",
    "x" * 5000,
    "📈" * 300,
    "{{ 7 * 7 }}",
    "'\"&<>",
    "%s %d {0}",
    "2026-01-01T00:00:00Z",
    "lstm",
]
NUMBERS = st.sampled_from(_NUMBERS) | st.integers() | st.floats()
TEXTS = st.sampled_from(_TEXTS) | st.text(st.characters(), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_PLACES = [(section, name) for section, fields in FIELDS[SCHEMA_VERSION].items() for name in fields]


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """One to five records that validate; at least one of them came to its end."""
    made = []
    for number in range(draw(st.integers(1, 5))):
        record = make_record(
            draw(st.sampled_from(["a5", "s4"])),
            draw(st.integers(0, 2)),
            lr=draw(st.sampled_from([1e-3, 1e-2])),
            failed=number > 0 and draw(st.booleans()),
            diverged=number > 0 and draw(st.booleans()),
        )
        record["attempt"] = number + 1
        if draw(st.booleans()):
            record["identity"] |= {"board": draw(TEXTS), "entry": draw(TEXTS), "column": draw(TEXTS)}
        if draw(st.integers(0, 3)) == 0 and record["status"] == "ok":
            _of_text(record)
        for _ in range(draw(st.integers(0, 8))):
            changed = _changed(draw, record)
            if not problems_of(changed):
                record = changed
        made.append(record)
    return [record for record in made if not problems_of(record)]


def _of_text(record: Record) -> None:
    point = {"step": 500, "accuracy": 0.5, "loss": 1.0, "bpb": 2.0}
    rows = {name: {"tok": 0.5, "loss": 1.0, "bpb": 2.0, "ppl": 4.0, "n": 9} for name in record["result"]["metrics"]}
    record["result"] |= {"metric": "bits_per_byte", "steps_to": None, "chance": None, "metrics": rows}
    record["result"] |= {"curve": [point], "validation": point}


def _changed(draw: st.DrawFn, record: Record) -> Record:
    """One value of the record is another one: a field, or something within a field."""
    changed = copy.deepcopy(record)
    section, name = draw(st.sampled_from(_PLACES))
    holder, key = changed[section], name
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
        holder = holder[key]
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    old = holder[key]
    if isinstance(old, dict) and draw(st.booleans()):
        new = draw(TEXTS)
        old[new] = copy.deepcopy(next(iter(old.values()))) if old and draw(st.booleans()) else draw(PLAIN)
    elif isinstance(old, bool) or old is None:
        holder[key] = draw(PLAIN)
    elif isinstance(old, int | float):
        holder[key] = draw(NUMBERS)
    elif isinstance(old, str):
        holder[key] = draw(TEXTS)
    else:
        holder[key] = draw(PLAIN)
    if section == "result" and changed["result"]["validation"] is not None:
        curve = changed["result"]["curve"]
        changed["result"]["validation"] = curve[-1] if isinstance(curve, list) and curve else None
    try:
        return dict(json.loads(json.dumps(changed)))
    except ValueError:  # a number with too many digits
        return record
