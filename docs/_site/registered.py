"""What the registers hold, in the reference: tables and directives stand where a page has `<!-- registered: ... -->`.

The stubs are made as well, where Griffe finds the names that no source exports by itself.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout, whatever is installed
from seqmix._lazy import REGISTERS
from seqmix._sources import Declared, declared
from seqmix._stubs import write_stubs


def on_config(config: Any) -> None:
    write_stubs()


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    return re.sub(r"<!-- registered: (\w+) of ([\w.]+) -->", _filled, markdown)


def _filled(marker: re.Match[str]) -> str:
    kind, package = marker.groups()
    entries = [each for _, each in sorted(declared(*REGISTERS[package]).items())]
    return "\n".join(_KINDS[kind](entries))


def _links(entries: list[Declared]) -> list[str]:
    return [", ".join(_link(each) for each in entries)]


def _link(each: Declared) -> str:
    return f"[`{each.attribute}`][{each.module}.{each.attribute}]"


def _table(entries: list[Declared]) -> list[str]:
    rows = [f"| `{e.name}` | {_link(e)} | {e.description} | {_source(e.source)} |" for e in entries]
    return ["| name | class | what it is | source |", "|:--|:--|:--|:--|", *rows]


def _source(text: str) -> str:
    return re.sub(r"\b(\d{4}\.\d{5})\b", r"[\1](https://arxiv.org/abs/\1)", text)


def _classes(entries: list[Declared]) -> list[str]:
    """A section for each, with what its module says and its class."""
    shown = "{{show_root_heading: false, show_root_toc_entry: false, members: [{}], heading_level: 2}}"
    return [f"## {e.name}\n\n::: {e.module}\n    options: {shown.format(e.attribute)}\n" for e in entries]


def _modules(entries: list[Declared]) -> list[str]:
    return [f"::: {module}\n    options: {{heading_level: 3}}\n" for module in dict.fromkeys(e.module for e in entries)]


_KINDS = {"links": _links, "table": _table, "classes": _classes, "modules": _modules}
