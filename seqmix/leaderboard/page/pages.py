"""Templates become files of one folder, long tables in parts."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from seqmix import __version__
from seqmix._bounded import read_json
from seqmix._extras import require
from seqmix._files import write_folder_whole

__all__ = ["Context", "Names", "Pages", "check_folder", "parts", "write_pages"]

_LIST = "pages.json"

Context = dict[str, Any]


class Names:
    """Names of files for names of things: letters, digits and hyphens, each once."""

    def __init__(self, *reserved: str) -> None:
        self._taken = set(reserved)

    def of(self, name: str) -> str:
        """A new one."""
        base = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:60] or "x"
        found, number = base, 1
        while found in self._taken:
            number += 1
            found = f"{base}-{number}"
        self._taken.add(found)
        return found


def parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Pieces of at most `size`; one empty piece of nothing."""
    for start in range(0, max(len(items), 1), size):
        yield items[start : start + size]


@dataclass
class Pages:
    """Renders templates into files of one folder.

    Args:
        folder: where they go.
        site: what every page knows.
    """

    folder: Path
    site: Context
    weight: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require("jinja2", extra="board", owner="seqmix leaderboard page")
        import jinja2

        # Indentation of templates stays out of the pages; what records bring is not touched.
        templates = resources.files("seqmix.leaderboard.page") / "templates"
        sources = {
            file.name: re.sub(r"\n\s+", "\n", file.read_text(encoding="utf-8"))
            for file in templates.iterdir()
            if file.name.endswith(".html")
        }
        self._environment = jinja2.Environment(
            loader=jinja2.DictLoader(sources),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )

    def assets(self) -> None:
        """Style sheet and script."""
        for file in (resources.files("seqmix.leaderboard.page") / "assets").iterdir():
            self.write(f"assets/{file.name}", file.read_text(encoding="utf-8"))

    def render(self, name: str, template: str, **context: Any) -> None:
        """One page; `root` is the way from it to the folder's top."""
        root = "../" * name.count("/")
        self.write(name, self._environment.get_template(template).render(site=self.site, root=root, **context))

    def paged(self, name: str, template: str, items: Sequence[Any], size: int, fill: Callable[..., Context]) -> None:
        """Pages of at most `size` items, linked with each other; `fill(part)` is what a page knows."""
        pieces = list(parts(items, size))
        names = [page_name(name, number) for number in range(len(pieces))]
        links = [
            {
                "href": file.rpartition("/")[2],
                "text": f"{number * size + 1:,} to {min((number + 1) * size, len(items)):,}",
            }
            for number, file in enumerate(names)
        ]
        for number, piece in enumerate(pieces):
            self.render(names[number], template, pages=links, page=number, **fill(piece))

    def write(self, name: str, text: str) -> None:
        """A file of the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode()
        path.write_bytes(data)
        self.weight[name] = len(data)


def write_pages(out: Path, site: Context, fill: Callable[[Pages], None]) -> dict[str, int]:
    """Make or replace a folder with what `fill` renders, beside style sheet and script; the bytes of its files.

    Raises:
        ValueError: as `check_folder` does.
    """
    check_folder(out)
    weight: dict[str, int] = {}

    def write(folder: Path) -> None:
        pages = Pages(folder, site)
        pages.assets()
        fill(pages)
        weight.update(pages.weight)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        (folder / _LIST).write_text(json.dumps({"seqmix": __version__, "files": [*files, _LIST]}, indent=0))

    write_folder_whole(out, write)
    return weight


def check_folder(out: Path) -> None:
    """`ValueError` for a folder that could not be made, or that has files which are not of such pages."""
    if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
        raise ValueError(f"--out: expected a folder in one that exists, got {str(out)!r}")
    if not out.exists():
        return
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    try:
        own = set(read_json(out / _LIST)["files"]) if _LIST in found else set()
    except (ValueError, KeyError, TypeError):
        own = set()
    if strange := sorted(found - own):
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise ValueError(
            f"--out: {out} has files that this command did not write: {', '.join(strange[:3])}{more}; expected a new "
            "or empty folder, or pages to replace"
        )


def page_name(name: str, number: int) -> str:
    """The file of a page's part: `a5.html`, `a5-2.html`."""
    return name if number == 0 else f"{name.removesuffix('.html')}-{number + 1}.html"
