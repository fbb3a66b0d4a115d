"""The fields of a record as a Markdown table, from what `seqmix.leaderboard.records.schema` says about them."""

import re

from seqmix._markdown import Markup, markdown_table
from seqmix.leaderboard.records import schema
from seqmix.leaderboard.records.schema import FIELDS, SCHEMA_VERSION, TOP

__all__ = ["schema_table"]

_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "object", list: "list"}


def schema_table() -> str:
    """A row for each line of that text: names, types, meaning.

    Raises:
        ValueError: a field that the text does not explain, or explains twice, or that is none.
    """
    types = dict(TOP)
    for section, fields in FIELDS[SCHEMA_VERSION].items():
        types |= {f"{section}.{name}": kinds for name, kinds in fields.items()}
    groups = _groups(schema.__doc__ or "")
    explained = [name for names, _ in groups for name in names]
    if sorted(explained) != sorted(types):
        odd = {name for name in {*explained, *types} if name not in types or explained.count(name) != 1}
        raise ValueError(f"schema.py: expected its text to explain every field once; it does not {', '.join(odd)}")
    rows = [
        [
            Markup(", ".join(f"`{name}`" for name in names)),
            "; ".join(dict.fromkeys(_type(types[name]) for name in names)),
            Markup(meaning.replace("|", "\\|")),
        ]
        for names, meaning in groups
    ]
    table = markdown_table(["field", "type", "what it is"], rows, left=3)
    return f"{table}\n\n(*) since version 2; null in older records."


def _type(kinds: tuple[type, ...]) -> str:
    names = ["number" if float in kinds else _NAMES[kind] for kind in kinds if kind not in (type(None), float)]
    return " or ".join(dict.fromkeys(names)) + (" or null" if type(None) in kinds else "")


def _groups(text: str) -> list[tuple[list[str], str]]:
    found: list[tuple[list[str], str]] = []
    section = ""
    for line in text.splitlines():
        if re.fullmatch(r"[a-z]+", line):
            section = f"{line}."
        # Names, meaning; what follows is indented farther.
        elif match := re.fullmatch(r" {4}(\w+(?:, \w+)*) {2,}(\S.*)", line):
            found.append(([section + name for name in match[1].split(", ")], match[2]))
        elif match := re.fullmatch(r" {4}(\w+(?:, \w+)*)", line):
            found.append(([section + name for name in match[1].split(", ")], ""))
        elif found and re.match(r" {30,}\S", line):
            found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}".strip()
    return found
