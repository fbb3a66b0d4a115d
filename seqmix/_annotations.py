"""Whether a value is what an annotation says, read from the annotation's text; what it does not know, it lets pass."""

import ast
import math
from collections.abc import Callable, Iterator
from typing import Any

from seqmix._checks import is_number, is_whole

__all__ = ["is_plain", "misfit", "takes_as_text"]

_PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer", lambda value: is_whole(value, -math.inf)),
    "float": ("a number", is_number),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "None": ("null", lambda value: value is None),
}
_LISTS = {"Sequence", "list", "List", "tuple", "Tuple", "Iterable"}
_MAPPINGS = {"dict", "Dict", "Mapping"}
_MANY = {"int": "integers", "float": "numbers", "str": "texts", "bool": "true and false"}


def is_plain(value: Any) -> bool:
    """Whether a value is what a config can hold, as no array, path or object is."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or type(value) in (bool, int, float, str)


def misfit(annotation: str | None, value: Any) -> str | None:
    """What was expected, in words; None where the value fits, or the annotation says what only its own module knows.

    Example:
        >>> misfit("int | None", "five"), misfit("Sequence[int]", [1, 2]), misfit("Tensor", "five")
        ('an integer or null', None, None)
    """
    if annotation is None:
        return None
    words: list[str] = []
    for member in _members(ast.parse(annotation, mode="eval").body):
        found = _kind(member, value)
        if found is None or found[1]:
            return None
        words.append(found[0])
    return " or ".join(dict.fromkeys(words)) or None


def takes_as_text(annotation: str | None, value: Any) -> bool:
    """Whether a text is taken, and what YAML has made of one is nothing else that is."""
    if annotation is None:
        return False
    members = list(_members(ast.parse(annotation, mode="eval").body))
    kinds = [_kind(member, value) for member in members]
    return any(_name(member) == "str" for member in members) and not any(kind and kind[1] for kind in kinds)


def _members(node: ast.expr) -> Iterator[ast.expr]:
    """The types that a union is made of."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _members(node.left)
        yield from _members(node.right)
    elif isinstance(node, ast.Subscript) and _name(node.value) in ("Union", "Optional"):
        for each in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            yield from _members(each)
        if _name(node.value) == "Optional":
            yield ast.Constant(None)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _members(ast.parse(node.value, mode="eval").body)
    else:
        yield node


def _kind(node: ast.expr, value: Any) -> tuple[str, bool] | None:
    """A type in words and whether the value is of it; None for a type that is not known here."""
    name = _name(node)
    if name in _PLAIN:
        words, fits = _PLAIN[name]
        return words, fits(value)
    if name == "Literal" and isinstance(node, ast.Subscript):
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        choices = [ast.literal_eval(each) for each in inside]
        return f"one of {', '.join(map(str, choices))}", value in choices
    if name in _LISTS:
        item = node.slice if isinstance(node, ast.Subscript) else None
        if isinstance(item, ast.Tuple):  # of one kind, or nothing is said
            kinds = {ast.dump(each) for each in item.elts if not (isinstance(each, ast.Constant) and each.value is ...)}
            item = item.elts[0] if len(kinds) == 1 else None
        words = f"a list of {_MANY[_name(item)]}" if _name(item) in _MANY else "a list"
        if item is None or not isinstance(value, list | tuple):
            return words, isinstance(value, list | tuple)
        found = [_kind(item, each) for each in value]
        return words, all(kind is None or kind[1] for kind in found)
    return ("arguments", isinstance(value, dict)) if name in _MAPPINGS else None


def _name(node: ast.expr | None) -> str:
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Constant) and node.value is None:
        return "None"
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
