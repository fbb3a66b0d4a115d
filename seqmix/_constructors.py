"""What classes take, read from their sources without importing them: torch and Lightning take seconds, text not."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from seqmix._sources import file_of

__all__ = ["Argument", "Constructor", "read_constructor"]

_Node = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor; `default` and `annotation` as they are written, None where there is none."""

    name: str
    default: str | None
    annotation: str | None
    meaning: str = ""


@dataclass(frozen=True)
class Constructor:
    """What a class or function takes: its docstring, its arguments without `self`, and the type of its `**rest`.

    `classes` are, with their modules, the one that has the constructor and those above it.
    """

    docstring: str
    arguments: tuple[Argument, ...]
    rest: str | None
    classes: tuple[tuple[str, ast.ClassDef], ...] = ()

    def attribute(self, name: str) -> Any:
        """The literal value of a class attribute, of a call `Type(key=value)` a dict; None where there is none."""
        for position, (_, node) in enumerate(self.classes):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                    above = Constructor(self.docstring, (), None, self.classes[position + 1 :])
                    return _literal(getattr(line, "value", None), above)
        return None


@cache
def read_constructor(target: str) -> Constructor:
    """What `"module:Class"` takes, from the source of the module and of those that it imports from.

    Raises:
        ValueError: there is no such module, or nothing of that name in it.
    """
    module, _, name = target.partition(":")
    found = list(_lineage(module, name))
    if not found:
        raise ValueError(f"{target}: its source has no class or function of that name")
    docstrings = [ast.get_docstring(node) or "" for _, node in found]
    # "Arguments as in `Other`", of the same module.
    likened = [node for name in re.findall(r"`(\w+)`", docstrings[0]) for _, node in _lineage(module, name)]
    docstrings += [ast.get_docstring(node) or "" for node in likened]
    meanings = {key: text for docstring in reversed(docstrings) for key, text in _meanings(docstring).items()}
    where, first = found[0]
    if isinstance(first, ast.FunctionDef):
        return Constructor(docstrings[0], *_arguments(where, first, meanings))
    classes = tuple((where, node) for where, node in found if isinstance(node, ast.ClassDef))
    for position, (where, node) in enumerate(classes):
        for line in node.body:
            if isinstance(line, ast.FunctionDef) and line.name == "__init__":
                arguments, rest = _arguments(where, line, meanings)
                return Constructor(docstrings[0], arguments[1:], rest, classes[position:])
    return Constructor(docstrings[0], (), None, classes)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def _lineage(module: str, name: str) -> Iterator[tuple[str, _Node]]:
    """A class or function and the classes above it, with their modules; imports are followed to where they lead."""
    for line in ast.walk(_tree(module)):
        if isinstance(line, _Node) and line.name == name:
            yield module, line
            for base in getattr(line, "bases", ()):
                if isinstance(base, ast.Name):
                    yield from _lineage(module, base.id)
            return
        if isinstance(line, ast.ImportFrom) and line.module:
            origins = [alias.name for alias in line.names if (alias.asname or alias.name) == name]
            # What is above a class of ours in other libraries is theirs.
            if origins and line.module.partition(".")[0] == module.partition(".")[0]:
                yield from _lineage(line.module, origins[0])
            if origins:
                return


def _arguments(
    module: str, function: ast.FunctionDef, meanings: dict[str, str]
) -> tuple[tuple[Argument, ...], str | None]:
    every = function.args
    placed = [*every.posonlyargs, *every.args]
    defaults = [None] * (len(placed) - len(every.defaults)) + list(every.defaults) + list(every.kw_defaults)
    found = [
        Argument(
            each.arg,
            None if default is None else _written(default, module),
            None if each.annotation is None else ast.unparse(each.annotation),
            meanings.get(each.arg, ""),
        )
        for each, default in zip([*placed, *every.kwonlyargs], defaults, strict=True)
    ]
    rest = None if every.kwarg is None else ast.unparse(every.kwarg.annotation) if every.kwarg.annotation else ""
    return tuple(found), rest


def _written(default: ast.expr, module: str) -> str:
    """A default as it is written; of a name that the module gives a literal, that."""
    if isinstance(default, ast.Name):
        for line in _tree(module).body:
            if isinstance(line, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == default.id for t in line.targets
            ):
                return ast.unparse(line.value)
    return ast.unparse(default)


def _literal(value: ast.expr | None, above: Constructor) -> Any:
    if isinstance(value, ast.Call):
        return {word.arg: _literal(word.value, above) for word in value.keywords}
    if isinstance(value, ast.Tuple):
        parts = [
            _literal(each.value, above) if isinstance(each, ast.Starred) else (_literal(each, above),)
            for each in value.elts
        ]
        return tuple(item for part in parts for item in part)
    if isinstance(value, ast.Attribute):  # of a class above
        return above.attribute(value.attr)
    return None if value is None else ast.literal_eval(value)


def _meanings(docstring: str) -> dict[str, str]:
    """What the `Args:` of a docstring say, by argument, each in one line."""
    section = re.search(r"^Args:\n((?: .*\n?|\n(?= ))+)", docstring, flags=re.MULTILINE)
    line = r"^ {4}(\w[\w, ]*?)(?: \(.*?\))?:((?:.*\n?)(?: {5,}.*\n?)*)"
    found: dict[str, str] = {}
    for names, text in re.findall(line, section[1] if section else "", flags=re.MULTILINE):
        found |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return found
