"""The block-size law: which groups BD-LRU learns with which blocks, beside what the group itself says.

A cell is a group, a block size, a kind of gates and a read-out, run with several seeds. All cells have the same config
but for what a group or a kind of gates needs, whatever the block size.
Prediction: `seqmix.tasks.block_sizes.smallest_block`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqmix._extras import require
from seqmix._suggest import unknown_name
from seqmix.leaderboard.plan import Run, plan_run
from seqmix.leaderboard.runs import latest
from seqmix.leaderboard.schema import Record
from seqmix.leaderboard.statistics import accuracy
from seqmix.leaderboard.tables import circumstances, markdown
from seqmix.tasks.block_sizes import smallest_block
from seqmix.tasks.groups import group

__all__ = ["BLOCK_SIZES", "CONFIG", "GROUPS", "Cell", "cells_of", "draw", "plan", "table"]

CONFIG = "block-law"
GROUPS = ("Z2", "Z3", "Z5", "S3", "D4", "Q8", "A4", "S4", "D5", "A5", "S5")
BLOCK_SIZES = (1, 2, 3, 4, 5, 6, 8)
GATES = {"softmax": "softmax", "signed": "l1"}  # and the normalization of BD-LRU
READ_OUTS = {"linear": 0, "any": 1}  # and the hidden width of the MLP over d_model
N_BLOCKS = 8
ACCURACY = 0.99  # of whole sequences at the longest test length, to be solved
# What larger groups need on top of the config: more steps, with softmax gates new weights where no block has begun to
# permute five points, and for S5 its own width and batch, since its 14,400 words of two letters are learned by heart.
_CHANGES: dict[str, tuple[str, ...]] = {
    "A5": ("trainer.max_steps=3000",),
    "S5": ("trainer.max_steps=4000", "model.d_model=128", "data.batch_size=128", "curriculum.start=4"),
}
_RESTARTS: dict[str, tuple[str, ...]] = {"A5": (), "S5": ("volume_restart.length=6", "volume_restart.max_steps=1500")}
_NO_RESTARTS = ("volume_restart=null",)
# Signed gates move with their logits, also at a corner: only a small learning rate brings them to rest there. They are
# never restarted for small volume: in blocks larger than the group needs also networks that are right have little.
_SIGNED = ("schedule.name=wsd", "schedule.warmup=50", "schedule.cooldown=0.4", "gate_entropy.ramp_steps=300")
_SIGNED_STEPS = {"A5": 2000, "S5": 3000}  # others 1,000
Key = tuple[str, str, str, int]  # group, read-out, gates, block size


@dataclass
class Cell:
    """The runs of one cell; of a run that was tried again the last attempt."""

    group: str
    read_out: str
    gates: str
    block_size: int
    runs: list[Record] = field(default_factory=list, repr=False)

    @property
    def predicted(self) -> bool:
        """Whether blocks of this size can track the group."""
        return self.block_size >= smallest_block(self.group, signed=self.gates == "signed", read_out=self.read_out)

    @property
    def solved(self) -> int:
        """Runs right on nearly all words of the longest test length."""
        return sum(_is_solved(run) for run in self.runs)

    @property
    def certified(self) -> int | None:
        """Runs that were proved right for every length; None if no run was looked at."""
        found = [run["result"]["certificate"] for run in self.runs]
        looked = [certificate["certified"] for certificate in found if certificate is not None]
        return sum(looked) if looked else None

    @property
    def image(self) -> int | None:
        """The order of the largest quotient of the group that a block carries, median over runs that were looked at.

        1 where blocks carry nothing; None if no run was looked at.
        """
        orders = [_largest_image(run, group(self.group).order) for run in self.runs]
        known = [order for order in orders if order is not None]
        return int(np.median(known)) if known else None

    @property
    def surprising(self) -> bool:
        """Whether no run was solved although the law says so, or one although it says the opposite."""
        return self.predicted != bool(self.solved or self.certified)


def plan(
    groups: Sequence[str], sizes: Sequence[int], gates: Sequence[str], seeds: Sequence[int], read_out: str,
    overrides: Sequence[str] = (), config: str = CONFIG,
) -> list[Run]:  # fmt: skip
    """The runs of all cells: the first seed of every cell, then the second.

    Raises:
        ValueError: an unknown group or kind of gates, a block size or a seed below its least, a part of the
            restarts, which most cells do without.
    """
    for override in overrides:
        if override.startswith("volume_restart."):
            raise ValueError(f"--set: most cells have no volume_restart; expected null or all of it, got {override!r}")
    for name in groups:
        group(name)
    for kind in gates:
        if kind not in GATES:
            raise unknown_name("kind of gates", kind, GATES)
    for m in sizes:
        if m < 1:
            raise ValueError(f"--m: expected block sizes of at least 1, got {m}")
    return [
        plan_run(config, (*_settings(name, kind, m, read_out), *overrides), seed)
        for seed in dict.fromkeys(seeds)
        for name in dict.fromkeys(groups)
        for kind in dict.fromkeys(gates)
        for m in dict.fromkeys(sizes)
    ]


def _settings(name: str, gates: str, m: int, read_out: str) -> tuple[str, ...]:
    mixer = (f"mixer.block_size={m}", f"mixer.normalization={GATES[gates]}", f"mixer.d_state={m * N_BLOCKS}")
    if gates == "signed":
        more: tuple[str, ...] = (*_SIGNED, *_NO_RESTARTS, f"trainer.max_steps={_SIGNED_STEPS.get(name, 1000)}")
    else:
        more = _RESTARTS.get(name, _NO_RESTARTS)
    settings = (f"data.group={name}", *mixer, f"model.mlp_ratio={READ_OUTS[read_out]}", *_CHANGES.get(name, ()), *more)
    return tuple({option.partition("=")[0]: option for option in settings}.values())


def cells_of(records: Sequence[Record]) -> dict[Key, Cell]:
    """The cells that records belong to; records of other tasks and mixers are no cells' and a mistake.

    Raises:
        ValueError: a record that is none of a word problem with BD-LRU, or a second one of a cell's seed.
    """
    cells: dict[Key, Cell] = {}
    for record in latest(records):
        settings = record["identity"]["settings"]
        data, mixer = settings.get("data") or {}, settings.get("mixer") or {}
        if data.get("name") != "word-problem" or mixer.get("name") != "bd-lru":
            raise ValueError(
                f"run {record['id']}: expected a word problem with bd-lru, got {record['identity']['task']} with "
                f"{record['identity']['mixer']}"
            )
        read_out = "any" if (settings.get("model") or {}).get("mlp_ratio", 1) else "linear"
        gates = next(kind for kind, name in GATES.items() if name == mixer.get("normalization", "softmax"))
        key = data["group"], read_out, gates, mixer["block_size"]
        cell = cells.setdefault(key, Cell(*key))
        same = next((run["id"] for run in cell.runs if run["identity"]["seed"] == record["identity"]["seed"]), None)
        if same is not None:
            raise ValueError(
                f"run {record['id']}: expected one run of a seed in each cell, got run {same} of other settings, too"
            )
        cell.runs.append(record)
    return cells


def _is_solved(run: Record) -> bool:
    if run["status"] != "ok" or run["result"]["diverged"]:
        return False
    longest = max(run["result"]["metrics"], key=int)
    value = accuracy(run, longest, "seq")
    return value is not None and value >= ACCURACY


def _largest_image(run: Record, order: int) -> int | None:
    certificate = run["result"]["certificate"]
    if certificate is None:
        return None
    return max((order // block["kernel"] for block in certificate["blocks"] if block["kernel"]), default=1)


def _rows(cells: dict[Key, Cell]) -> list[tuple[str, str]]:
    # Groups in the order of the plan, others after them; what has another read-out stands below.
    rows = {(name, read_out) for name, read_out, _, _ in cells}
    order = {name: index for index, name in enumerate(GROUPS)}
    return sorted(rows, key=lambda row: (order.get(row[0], len(order)), row[0], list(READ_OUTS).index(row[1])))


def _label(row: tuple[str, str]) -> str:
    return row[0] if row[1] == "linear" else f"{row[0]}, MLP"


def table(cells: dict[Key, Cell]) -> str:
    """A Markdown table for each kind of gates: prediction, and solved and certified runs at each block size."""
    parts = []
    sizes = sorted({m for _, _, _, m in cells})
    for gates in GATES:
        rows = []
        for name, read_out in _rows(cells):
            least = smallest_block(name, signed=gates == "signed", read_out=read_out)
            own = [cells.get((name, read_out, gates, m)) for m in sizes]
            if any(own):
                rows.append([_label((name, read_out)), str(least), *(_counts(cell) for cell in own)])
        if rows:
            header = [f"{gates} gates", "least m", *(f"m = {m}" for m in sizes)]
            parts.append(markdown(header, rows))
    runs = [run for cell in cells.values() for run in cell.runs]
    parts.append(
        f"Runs solved (at least {ACCURACY:g} of the words right at the longest test length), then those certified for "
        "every length, of all; where none was solved, the order of the largest quotient of the group that one block "
        "carries instead (median over the runs). Bold: the law says that blocks of this size are enough. !: no run was "
        f"solved although it says so, or one was although it says the opposite. {_agreement(cells)} "
        + circumstances(runs)
    )
    return "\n\n".join(parts)


def _counts(cell: Cell | None) -> str:
    if cell is None:
        return ""
    certified = "-" if cell.certified is None else str(cell.certified)
    learned = "" if cell.solved or cell.image is None else f"; {cell.image}"
    text = f"{cell.solved}, {certified} of {len(cell.runs)}{learned}{' !' * cell.surprising}"
    return f"**{text}**" if cell.predicted else text


def _agreement(cells: dict[Key, Cell]) -> str:
    other = [cell for cell in cells.values() if cell.surprising]
    names = ", ".join(f"{_label((c.group, c.read_out))} {c.gates} m = {c.block_size}" for c in other)
    return f"{len(cells) - len(other)} of {len(cells)} cells agree" + (f"; not {names}." if other else ".")


def draw(cells: dict[Key, Cell], kind: str) -> bytes:
    """Heat maps of the share of solved runs, one for each kind of gates, as `svg` or `png`.

    Cells say solved/certified counts; the line is the law: what stands to its right should be solved. A dot marks a
    cell without runs. The same records give the same file.
    """
    require("matplotlib", extra="board", owner="seqmix block-law figure")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, sizes = _rows(cells), sorted({m for _, _, _, m in cells})
    kinds = [gates for gates in GATES if any(key[2] == gates for key in cells)]
    with matplotlib.rc_context({"svg.hashsalt": "seqmix", "svg.fonttype": "none"}):
        width, height = 1.6 + len(kinds) * (0.8 + 0.62 * len(sizes)), 1.3 + 0.36 * len(rows)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        images = [_panel(ax, cells, rows, sizes, gates) for ax, gates in zip(axes, kinds, strict=True)]
        figure.colorbar(images[0], ax=figure.axes, label="share of runs solved", fraction=0.04)
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=150)
    data = buffer.getvalue()
    return b"\n".join(line.rstrip() for line in data.splitlines()) + b"\n" if kind == "svg" else data


def _panel(ax: Any, cells: dict[Key, Cell], rows: list[tuple[str, str]], sizes: list[int], gates: str) -> Any:
    shares = np.full((len(rows), len(sizes)), np.nan)
    for y, (name, read_out) in enumerate(rows):
        for x, m in enumerate(sizes):
            cell = cells.get((name, read_out, gates, m))
            if cell is None:
                ax.text(x, y, "·", ha="center", va="center", color="0.5")
                continue
            shares[y, x] = cell.solved / len(cell.runs)
            certified = "" if cell.certified is None else f"/{cell.certified}"
            color = "white" if shares[y, x] < 0.5 else "black"
            ax.text(x, y, f"{cell.solved}{certified}", ha="center", va="center", color=color, fontsize=8)
    edges = staircase(rows, sizes, gates)
    xs = [edge - 0.5 for edge in edges for _ in (0, 1)]
    ys = [y + side for y in range(len(rows)) for side in (-0.5, 0.5)]
    ax.plot(xs, ys, color="crimson", linewidth=2.5)
    image = ax.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set(title=f"{gates} gates", xlabel="block size m", xlim=(-0.5, len(sizes) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(sizes)), [str(m) for m in sizes])
    ax.set_yticks(range(len(rows)), [_label(row) for row in rows])
    return image


def staircase(rows: Sequence[tuple[str, str]], sizes: Sequence[int], gates: str) -> list[int]:
    """For each row how many of the sizes are too small."""
    least = [smallest_block(name, signed=gates == "signed", read_out=read_out) for name, read_out in rows]
    return [sum(m < smallest for m in sizes) for smallest in least]
