"""Draws docs/architecture.svg, the rooms of seqmix and the arrows between them, from the imports: run it by name.

An arrow says that modules of one room import from another. Those that follow from others are left out: who imports from
leaderboard, which imports from training, may import from training, too.
"""

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs" / "architecture.svg"
_WIDTH, _ROW, _BOX, _HEIGHT = 720, 74, 150, 34


def layers() -> list[list[str]]:
    """Rooms from the top, as the contract in pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(contract["layers"] for contract in contracts if contract["id"] == "rooms")
    return [layer.split(" | ") for layer in named if not layer.startswith("_")]


def arrows(rooms: list[str]) -> set[tuple[str, str]]:
    """Pairs (importer, imported), without those that follow from others."""
    graph = grimp.build_graph("seqmix", cache_dir=None, exclude_type_checking_imports=True)
    room_of = {module: module.split(".")[1] if "." in module else "" for module in graph.modules}
    found = {
        (room_of[module], room_of[other])
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    }
    found = {(a, b) for a, b in found if a != b and a in rooms and b in rooms}
    while longer := {(a, d) for a, b in found for c, d in found if b == c} - found:
        found |= longer
    return {(a, c) for a, c in found if not any((a, b) in found and (b, c) in found for b in rooms)}


def draw(rows: list[list[str]], found: set[tuple[str, str]]) -> str:
    """The figure as SVG; the same for the same imports."""
    place = {
        room: (_WIDTH * (2 * column + 1) // (2 * len(row)), 20 + _ROW * level)
        for level, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    height = 20 + _ROW * (len(rows) - 1) + _HEIGHT + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="15" text-anchor="middle">',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#607d8b"/></marker></defs>',
    ]
    for importer, imported in sorted(found):
        (x, y), (to_x, to_y) = place[importer], place[imported]
        lines.append(
            f'<path d="M{x} {y + _HEIGHT}L{to_x} {to_y}" stroke="#607d8b" stroke-width="1.5" fill="none" '
            'marker-end="url(#tip)"/>'
        )
    for room, (x, y) in place.items():
        lines.append(
            f'<rect x="{x - _BOX // 2}" y="{y}" width="{_BOX}" height="{_HEIGHT}" rx="6" fill="#e0f2f1" '
            f'stroke="#00897b"/><text x="{x}" y="{y + 22}" fill="#263238">{room}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def figure() -> str:
    """What docs/architecture.svg must hold."""
    rows = [row for row in layers() if row != ["__main__"]]
    return draw(rows, arrows([room for row in rows for room in row]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout, whatever is installed
    FIGURE.write_text(figure())
    sys.stdout.write(f"{FIGURE.relative_to(ROOT)}: written\n")
