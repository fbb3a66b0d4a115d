"""The atlas in Markdown with all four marks of a cell: cannot, can, learned, certified."""

from collections.abc import Mapping, Sequence

from seqmix.atlas.cells import LAYERS
from seqmix.atlas.page import SIGNS, unbuilt
from seqmix.atlas.prediction import Prediction
from seqmix.atlas.theorems import THEOREMS
from seqmix.leaderboard.summary.atlas_records import Marks

__all__ = ["cells_table", "proof_of"]

_PAGE = "atlas.md"
_WEIGHTS, _PAPER = "weights-that-are-written", "from-papers"


def proof_of(found: Prediction) -> str | None:
    """The heading of docs/atlas.md that has the proof or the weights; None where nothing is known."""
    if found.verdict == "can":
        return _WEIGHTS if found.source == "construction" else _PAPER
    return next((theorem.proof for theorem in THEOREMS if theorem.name == found.theorem), None)


def cells_table(
    marks: Mapping[tuple[str, str], Marks], mixers: Sequence[str], automata: Sequence[str], n_layers: int = 1
) -> str:
    """A row a mixer, below a line that says of which kind its layer is, and a column an automaton."""
    kinds = {name: kind for kind, names in LAYERS.items() for name in names}
    layers = "one layer" if n_layers == 1 else f"{n_layers} layers"
    lines = [f"| {layers} | {' | '.join(automata)} |", f"|---{'|:-:' * len(automata)}|"]
    proofs: dict[str, str] = {}
    before = ""
    for mixer in mixers:
        if kinds[mixer] != before:
            before = kinds[mixer]
            lines.append(f"| *{before}* {'| ' * len(automata)}|")
        row = [_cell(marks[mixer, automaton], proofs) for automaton in automata]
        lines.append(f"| {mixer} | {' | '.join(row)} |")
    cells = list(marks.values())
    decided = sum(cell.prediction.verdict != "open" for cell in cells)
    runs, solved, certified = (sum(getattr(cell, name) for cell in cells) for name in ("runs", "solved", "certified"))
    lines += [
        "",
        "Y can, with written weights; - cannot, by the theorem that a click leads to; ? open: "
        f"{decided} of {len(cells)} cells are decided. Behind it, where there are runs: those that learned it, of all. "
        "They answer every test word of twice the training length and more rightly at every position, up to four times "
        "that length at least. c: so many of their networks are certified for every length with hard gates. "
        f"In all {solved:,} of {runs:,} runs, {certified:,} certified."
        + unbuilt({place: cell.prediction for place, cell in marks.items()}),
        "",
        *(f"[{name}]: {_PAGE}#{heading}" for heading, name in proofs.items()),
    ]
    return "\n".join(lines).rstrip()


def _cell(marks: Marks, proofs: dict[str, str]) -> str:
    """`[-][p1] 0/10`; `proofs` are given the headings that cells refer to."""
    heading, sign = proof_of(marks.prediction), SIGNS[marks.prediction.verdict]
    parts = [sign if heading is None else f"[{sign}][{proofs.setdefault(heading, f'p{len(proofs) + 1}')}]"]
    if marks.runs:
        parts.append(f"{marks.solved}/{marks.runs}")
    if marks.certified:
        parts.append(f"c{marks.certified}")
    return " ".join(parts)
