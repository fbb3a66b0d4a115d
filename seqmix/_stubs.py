"""Stubs for type checkers and editors, which cannot know what a register exports: `python -m seqmix._stubs`.

`__init__.pyi` beside the `__init__.py` of each package with a register. They are made when seqmix is installed or
packed, by `make lint` and with the docs; they are in no commit.
"""

from pathlib import Path

from seqmix._lazy import REGISTERS, exports
from seqmix._sources import file_of

__all__ = ["stub", "write_stubs"]


def stub(package: str) -> str:
    """The text of a package's stub."""
    source = file_of(package).read_text(encoding="utf-8")
    lines = [f"from {module} import {name} as {name}" for name, module in sorted(exports(package).items())]
    if "__version__" in source:
        lines.append("__version__: str")
    return "\n".join([*lines, f"__all__ = {sorted(exports(package))}", ""])


def write_stubs() -> list[Path]:
    """Write them all; the files that are new or have changed."""
    written = []
    for package in REGISTERS:
        path, text = file_of(package).with_suffix(".pyi"), stub(package)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


if __name__ == "__main__":
    write_stubs()
