"""What modules declare, read from their text: names, descriptions and classes are known before anything is imported.

A class or function that is added to a package under its register's decorator, as `@register_mixer("lru", ...)`, is
found by its file alone; nothing else lists it.
"""

import ast
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Declared", "declared", "file_of"]


@dataclass(frozen=True)
class Declared:
    """One decorated class or function: what the decorator says, and where it stands."""

    name: str
    description: str
    source: str
    module: str
    attribute: str


@functools.cache
def declared(package: str, decorator: str) -> dict[str, Declared]:
    """What stands under `@decorator("name", description=..., source=...)` in the modules of a package, by name.

    Raises:
        ValueError: a name that two of them have.
    """
    found: dict[str, Declared] = {}
    # Only the decorators are parsed: it is all that `import seqmix` and the command line wait for.
    opening = re.compile(rf"^@{decorator}\(.*?^(?:class|def) \w+", re.MULTILINE | re.DOTALL)
    for path in sorted(file_of(package).parent.glob("*.py")):
        for text in opening.findall(path.read_text(encoding="utf-8")):
            node: Any = ast.parse(f"{text}(): pass").body[0]
            call = node.decorator_list[0]
            words = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
            name = ast.literal_eval(call.args[0])
            if name in found:
                raise ValueError(f"{decorator}: {path.stem} and {found[name].module} both declare {name!r}")
            found[name] = Declared(
                name, words["description"], words.get("source", ""), f"{package}.{path.stem}", node.name
            )
    return found


def file_of(module: str) -> Path:
    """The source of a module, found without importing what it lies in.

    Raises:
        ValueError: there is no such module, or it has no source.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    if not places and not rest and spec is not None and spec.origin is not None:
        return Path(spec.origin)
    for place in places:
        path = place.joinpath(*rest)
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                return file
    raise ValueError(f"there is no source of a module {module!r}")
