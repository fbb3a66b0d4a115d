"""Names that load their module when first used, so that importing a package costs next to nothing.

They stand once, as imports under `if TYPE_CHECKING:`, where type checkers and editors look for them.
"""

import ast
import importlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["lazy"]


def lazy(
    package: str, submodules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from its own imports under `if TYPE_CHECKING:`.

    `submodules` are packages beneath it that are attributes without being imported.
    """
    home, beneath = _imported_when_checked(package), frozenset(submodules)

    def get(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(home[name]), name)
        if name in beneath:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *home, *beneath})

    return get, names, sorted(home)


def _imported_when_checked(package: str) -> dict[str, str]:
    """The module of every name that the source of a package imports from under `if TYPE_CHECKING:`."""
    spec = importlib.util.find_spec(package)
    source = spec.loader.get_source(package) if spec is not None else None  # type: ignore[union-attr]
    return {
        alias.name: str(line.module)
        for block in ast.parse(source or "").body
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
