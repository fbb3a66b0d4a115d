"""The gate in front of what a file of somebody else names: classes that would be imported, paths that would be written.

Checkpoints, `config.json` of `save_pretrained`, the config in the folder of a run, configs that are looked at rather
than trained, records, boards and submissions are data, and anybody may have written them. What they name is imported
only if it is seqmix's own and a class of the kind that is expected there, or if its module is among those that the user
trusts: `--trust MODULE` on the command line, `trust=["module"]` in Python, of one call and remembered nowhere. Trust in
a module is trust in what lies beneath it. What a user types, passes in Python or hands to `seqmix fit` is their own:
there `trust` is None.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from seqmix._files import replace_whole

__all__ = [
    "OWN",
    "beneath",
    "import_trusted",
    "inside",
    "links_out",
    "load_class",
    "require_trust",
    "write_inside",
]

T = TypeVar("T")
OWN = __name__.partition(".")[0]


def import_trusted(modules: Iterable[str]) -> None:
    """Import what the user trusts, from its source: compiled files beside it may hold other code than can be read.

    Raises:
        ValueError: there is no such module.
    """
    kept = sys.dont_write_bytecode, sys.pycache_prefix
    with tempfile.TemporaryDirectory() as nothing:
        sys.dont_write_bytecode, sys.pycache_prefix = True, nothing
        try:
            for module in modules:
                _import(module, "--trust")
        finally:
            sys.dont_write_bytecode, sys.pycache_prefix = kept


def require_trust(module: str, trust: Iterable[str] | None, where: str) -> None:
    """`ValueError` unless `module` or a package above it is trusted; `where` says what names it."""
    if trust is not None and not any(beneath(module, name) for name in trust):
        raise ValueError(
            f"{where} names {module!r}, code that is not seqmix's: if you have read it and want it to run, say so "
            f"with --trust {module} (in Python trust=[{module!r}])"
        )


def load_class(path: Any, kind: type[T], trust: Iterable[str] | None, where: str) -> type[T]:
    """The class `module.Class` that data names, if it may be imported and is a `kind`.

    Raises:
        ValueError: a module that is neither seqmix's nor trusted, or no such class.
    """
    module, _, name = str(path).rpartition(".")
    own = beneath(module, OWN)
    if not own:
        require_trust(module, trust, where)
    found = getattr(_import(module, where), name, None)
    # What seqmix has imported from elsewhere is not its own.
    if isinstance(found, type) and issubclass(found, kind) and (not own or beneath(found.__module__, OWN)):
        return found
    raise ValueError(f"{where}: expected a {kind.__name__}, got {path!r}")


def inside(folder: Path, name: str, where: str) -> Path:
    """The path of `name` in `folder`; `ValueError` if it leads out of it, by itself or by a link."""
    path = folder / name
    root = os.path.realpath(folder)
    found = os.path.realpath(path)
    if os.path.commonpath([root, found]) != root or found == root:
        raise ValueError(f"{where}: a path out of the folder {folder}: {name!r:.80}")
    return path


def links_out(folder: Path) -> list[Path]:
    """Links in a folder, at any depth, that lead out of it."""
    root, found = os.path.realpath(folder), []
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
                found.append(path)
    return sorted(found)


def write_inside(folder: Path, name: str, text: str, where: str) -> None:
    """Write the file `name` of `folder`, whole; a link of that name is replaced, and what it leads to left alone.

    Raises:
        ValueError: a name that is more than the name of a file.
    """
    if name != os.path.basename(name) or name in ("", ".", ".."):
        raise ValueError(f"{where}: expected the name of a file, got {name!r:.80}")
    replace_whole(folder / name, lambda part: part.write_text(text, encoding="utf-8", newline=""))


def beneath(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def _import(module: str, where: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ValueError, TypeError):  # no name at all, or one that begins with a dot
        raise ValueError(f"{where}: expected the name of a module, got {module!r}") from None
    except ModuleNotFoundError as error:
        there = (
            "there is" if error.name is not None and beneath(module, error.name) else f"{module} needs, and there is"
        )
        raise ValueError(f"{where}: {there} no module {error.name!r}") from None
