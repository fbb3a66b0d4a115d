"""Files of somebody else, read within bounds: what they cost is decided by their size, and their size is limited."""

import json
import re
import stat
from functools import cache
from pathlib import Path
from typing import Any

from seqmix._extras import require

__all__ = [
    "MAX_JSON",
    "MAX_YAML",
    "NotYamlError",
    "check_expanded",
    "parse_yaml",
    "read_json",
    "read_text",
    "top_lines",
]

MAX_YAML = 1 << 18
"""Bytes of a config, board, grid or meta.yaml; the parser takes seconds for so many."""

MAX_JSON = 1 << 26
"""Bytes of a JSON file: a certificate, results of benchmarks, `config.json`."""

_MOST_VALUES = 1 << 22  # of JSON, and of what a checkpoint holds beside its tensors
_EXPANDED = 1 << 20  # signs and values of YAML once every alias is written out
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


class NotYamlError(ValueError):
    """Text that is no YAML, and the line where it is not."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


def read_text(path: Path, limit: int = MAX_YAML) -> str:
    """The text of a file.

    Raises:
        ValueError: no plain file, more than `limit` bytes, or no UTF-8.
        OSError: a file that cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never end, or never begin
        raise ValueError(f"{path}: expected a file, got something else")
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path}: expected at most {limit} bytes, got {path.stat().st_size}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path) -> Any:
    """What a JSON file says; `ValueError` and `OSError` as `read_text`, and for what is no JSON."""
    text = read_text(path, MAX_JSON)
    # A byte or two of text become a list or a mapping of a hundred.
    values = sum(map(text.count, "[{,:"))
    if values > _MOST_VALUES:
        raise ValueError(f"{path}: expected at most {_MOST_VALUES} values, got {values}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("not JSON that can be read: too many brackets within brackets") from None


def parse_yaml(text: str) -> Any:
    """What YAML says, with numbers like 1e-3 as numbers: lists, mappings, text, numbers, true, false and null.

    Raises:
        ValueError: no YAML, too long, other types than these, or aliases that lead to themselves or to too much.
    """
    yaml = require("yaml", extra="train", owner="seqmix")
    loader = _loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise _not_yaml(error) from None
    except RecursionError:
        raise ValueError("not YAML that can be read: too many brackets within brackets") from None
    finally:
        loader.dispose()


def top_lines(text: str) -> dict[str, int]:
    """The line of each key of the mapping that `text` is, which `parse_yaml` has read."""
    loader = _loader(text)
    try:
        node = loader.get_single_node()
        pairs = node.value if node is not None and node.id == "mapping" else ()
        return {key.value: key.start_mark.line + 1 for key, _ in pairs if key.id == "scalar"}
    finally:
        loader.dispose()


def check_expanded(content: Any) -> None:
    """`ValueError` for containers that, with all that stands in them more than once written out, are too many values.

    A pickle of a few lines can hold a list of ten lists of ten lists, or one number as a tensor of a milliard of them;
    whatever shows it or copies it takes no end.
    """
    try:
        _values_in(content, {})
    except RecursionError:
        raise ValueError("expected plain values, got too many within one another") from None


def _values_in(content: Any, known: dict[int, int]) -> int:
    if not isinstance(content, dict | list | tuple | set):
        return 1 + _repeated(content)
    if id(content) in known:
        if not known[id(content)]:
            raise ValueError("expected plain values, got a container that holds itself")
        return known[id(content)]
    known[id(content)] = 0
    size = 1 + sum(_values_in(item, known) for item in content)
    if isinstance(content, dict):
        size += sum(_values_in(item, known) for item in content.values())
    if size > _MOST_VALUES:
        raise ValueError(f"expected plain values, got more than {_MOST_VALUES} where each stands more than once")
    known[id(content)] = size
    return size


def _repeated(content: Any) -> int:
    """Values of a tensor beyond those that it stores."""
    if type(content).__name__ not in ("Tensor", "Parameter") or str(content.layout) != "torch.strided":
        return 0
    repeated: int = content.numel() - content.untyped_storage().nbytes() // content.element_size()
    if repeated > _MOST_VALUES:
        raise ValueError(f"expected tensors as large as what they store, got one of shape {tuple(content.shape)}")
    return max(repeated, 0)


def _loader(text: str) -> Any:
    yaml = require("yaml", extra="train", owner="seqmix")
    if len(text) > MAX_YAML:
        raise ValueError(f"not YAML that can be read: expected at most {MAX_YAML} characters, got {len(text)}")
    try:
        return _loader_class()(text)
    except yaml.YAMLError as error:  # a sign that YAML does not have
        raise _not_yaml(error) from None


@cache
def _loader_class() -> Any:
    yaml = require("yaml", extra="train", owner="seqmix")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        # A day is text, as it is in JSON.
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )
    return Loader


def _not_yaml(error: Exception) -> NotYamlError:
    mark = getattr(error, "problem_mark", None)
    return NotYamlError(f"not YAML: {' '.join(str(error).split())}", 1 if mark is None else mark.line + 1)


def _expanded(node: Any, known: dict[int, int]) -> int:
    """How long a node is with every alias written out; `known` has 0 for those that are being measured."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("not YAML that can be read: an alias leads to itself")
        return known[id(node)]
    known[id(node)] = 0
    if node.tag not in _PLAIN:
        raise ValueError(f"not YAML that can be read: expected plain values, got the tag {node.tag!r:.60}")
    if node.id == "scalar":
        size = 1 + len(node.value)
    else:
        parts = node.value if node.id == "sequence" else [part for pair in node.value for part in pair]
        size = 1 + sum(_expanded(part, known) for part in parts)
    if size > _EXPANDED:
        raise ValueError(f"not YAML that can be read: its aliases make more than {_EXPANDED} values of it")
    known[id(node)] = size
    return size
