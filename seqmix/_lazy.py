"""Names that load their module when first used, so that importing a package costs next to nothing.

They stand once, as imports under `if TYPE_CHECKING:`, where type checkers and editors look for them.
"""

import ast
import importlib
from collections.abc import Callable, Iterable
from typing import Any

from seqmix._sources import declared, file_of

__all__ = ["REGISTERS", "exports", "lazy"]

# Packages whose attributes are also the classes of a register: the package that these lie in, and their decorator.
REGISTERS = {
    "seqmix": ("seqmix.mixers", "register_mixer"),
    "seqmix.mixers": ("seqmix.mixers", "register_mixer"),
    "seqmix.tasks": ("seqmix.tasks", "register_task"),
}


def lazy(package: str, submodules: Iterable[str] = ()) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, from its own imports under `if TYPE_CHECKING:` and its register.

    `submodules` are packages beneath it that are attributes without being imported. `__all__` is an attribute, too.
    """
    home, beneath = _imported_when_checked(package), frozenset(submodules)

    def get(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        if name in beneath:
            return importlib.import_module(f"{package}.{name}")
        if name == "__all__":
            return sorted(exports(package))
        if not name.startswith("_") and name in (known := exports(package)):
            return getattr(importlib.import_module(known[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *exports(package), *beneath})

    return get, names


def exports(package: str) -> dict[str, str]:
    """The module of every name that a lazy package offers."""
    found = declared(*REGISTERS[package]).values() if package in REGISTERS else ()
    return _imported_when_checked(package) | {each.attribute: each.module for each in found}


def _imported_when_checked(package: str) -> dict[str, str]:
    """The module of every name that its source imports from for type checkers."""
    return {
        alias.name: str(line.module)
        for block in ast.parse(file_of(package).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
