"""The registry as a table of the documentation: `seqmix list optimizers --docs docs/optimizers.md`."""

from pathlib import Path

from seqmix._files import write_text_whole
from seqmix.optim.registry import get_optimizer, list_optimizers

__all__ = ["registry_table", "write_registry"]

_BEGIN, _END = "<!-- optimizers: begin -->", "<!-- optimizers: end -->"
_TITLES = {
    "seqmix": "Ours",
    "torch": "`torch.optim`",
    "pytorch-optimizer": "pytorch-optimizer",
    "none": "In no library used here; `create_optimizer` says why",
}
_TAKES = {"matrices": "matrices; AdamW the rest", "optimizer": "around a base", "list": "one group", "model": "a model"}


def registry_table() -> str:
    """Markdown: a table for each library, a line for each optimizer."""
    parts = []
    for library, title in _TITLES.items():
        rows = ["| name | what it is | takes | needs |", "|:--|:--|:--|:--|"]
        for name in list_optimizers(library=library):
            entry = get_optimizer(name)
            text = f"{entry.description} (`{entry.deviations}`)" if entry.deviations else entry.description
            rows.append(f"| `{name}` | {text} | {_TAKES.get(entry.takes, '')} | {entry.needs} |")
        parts.append(f"**{title}** ({len(rows) - 2})\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def write_registry(docs: Path) -> None:
    """Put the table between the markers of a file; `ValueError` if it has none."""
    if not docs.is_file():
        raise ValueError(f"--docs must name a file with {_BEGIN} and {_END}, got {str(docs)!r}")
    text = docs.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.find(_BEGIN) > text.find(_END):
        raise ValueError(f"--docs must hold {_BEGIN} before {_END}, once each, {str(docs)!r} does not")
    before, _, rest = text.partition(_BEGIN)
    write_text_whole(docs, f"{before}{_BEGIN}\n{registry_table()}\n{_END}{rest.partition(_END)[2]}")
