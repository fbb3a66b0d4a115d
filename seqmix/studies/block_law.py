"""The block-size law: which groups BD-LRU learns with which blocks, beside what the group itself says.

A cell is a group, a block size, a kind of gates and a read-out, run with several seeds. All cells have the same config
but for what a group or a kind of gates needs, whatever the block size.
Prediction: `seqmix.tasks.block_sizes.smallest_block`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

from seqmix._markdown import Markup, escaped, markdown_table
from seqmix._suggest import unknown_name
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import latest
from seqmix.leaderboard.summary.statistics import accuracy
from seqmix.leaderboard.sweep.plan import Run, check_count, plan_run
from seqmix.leaderboard.tables.runs import circumstances
from seqmix.tasks.block_sizes import smallest_block
from seqmix.tasks.groups import group

__all__ = ["BLOCK_SIZES", "CONFIG", "GROUPS", "Cell", "cells_of", "label", "plan", "rows_of", "table"]

CONFIG = "block-law"
GROUPS = ("Z2", "Z3", "Z5", "S3", "D4", "Q8", "A4", "S4", "D5", "A5", "S5")
BLOCK_SIZES = (1, 2, 3, 4, 5, 6, 8)
GATES = {"softmax": "softmax", "signed": "l1"}  # and the normalization of BD-LRU
READ_OUTS = {"linear": 0, "any": 1}  # and the hidden width of the MLP over d_model
N_BLOCKS = 8
ACCURACY = 0.99  # of whole sequences at the longest test length, to be solved
# What larger groups need on top of the config: S5 its own width and batch, since its 14,400 words of two letters are
# learned by heart.
_CHANGES = {"S5": ("model.d_model=128", "data.batch_size=128", "curriculum.start=4")}
# More steps, and with softmax gates new weights where no block has begun to permute five points.
_SOFTMAX: dict[str, tuple[str, ...]] = {
    "A5": ("trainer.max_steps=3000",),
    "S5": ("trainer.max_steps=4000", "volume_restart.length=6", "volume_restart.max_steps=1500"),
}
# Signed gates move with their logits, also at a corner: only a small learning rate brings them to rest there. They are
# never restarted for small volume: in blocks larger than the group needs also networks that are right have little.
_SIGNED = ("schedule.name=wsd", "schedule.warmup=50", "schedule.cooldown=0.4", "gate_entropy.ramp_steps=300")
_SIGNED_STEPS = {"A5": 2000, "S5": 3000}  # others 1,000
_NO_RESTARTS = "volume_restart=null"
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
        """The order of the largest quotient of the group that a block carries, lower median over runs looked at.

        1 where blocks carry nothing; None if no run was looked at.
        """
        orders = [_largest_image(run, group(self.group).order) for run in self.runs]
        known = [order for order in orders if order is not None]
        return median_low(known) if known else None

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
    check_count("--groups x --m x --gates x --seeds", len(groups), len(sizes), len(gates), len(seeds))
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
        more: tuple[str, ...] = (*_SIGNED, _NO_RESTARTS, f"trainer.max_steps={_SIGNED_STEPS.get(name, 1000)}")
    else:
        more = _SOFTMAX.get(name, (_NO_RESTARTS,))
    return (f"data.group={name}", *mixer, f"model.mlp_ratio={READ_OUTS[read_out]}", *_CHANGES.get(name, ()), *more)


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


def rows_of(cells: dict[Key, Cell]) -> list[tuple[str, str]]:
    """(group, read-out) of the cells, as tables and figures list them."""
    # Groups in the order of the plan, others after them; what has another read-out stands below.
    rows = {(name, read_out) for name, read_out, _, _ in cells}
    order = {name: index for index, name in enumerate(GROUPS)}
    return sorted(rows, key=lambda row: (order.get(row[0], len(order)), row[0], list(READ_OUTS).index(row[1])))


def label(row: tuple[str, str]) -> str:
    """What a row is called."""
    return row[0] if row[1] == "linear" else f"{row[0]}, MLP"


def table(cells: dict[Key, Cell]) -> str:
    """A Markdown table for each kind of gates: prediction, and solved and certified runs at each block size."""
    parts = []
    sizes = sorted({m for _, _, _, m in cells})
    for gates in GATES:
        rows = []
        for name, read_out in rows_of(cells):
            least = smallest_block(name, signed=gates == "signed", read_out=read_out)
            own = [cells.get((name, read_out, gates, m)) for m in sizes]
            if any(own):
                rows.append([label((name, read_out)), str(least), *(_counts(cell) for cell in own)])
        if rows:
            header = [f"{gates} gates", "least m", *(f"m = {m}" for m in sizes)]
            parts.append(markdown_table(header, rows))
    runs = [run for cell in cells.values() for run in cell.runs]
    parts.append(
        f"Runs solved (at least {ACCURACY:g} of the words right at the longest test length), then those certified for "
        "every length, of all; where none was solved, the order of the largest quotient of the group that one block "
        "carries instead (lower median over the runs). Bold: the law says that blocks of this size are enough. !: no "
        f"run was solved although it says so, or one was although it says the opposite. {_agreement(cells)} "
        + circumstances(runs)
    )
    return "\n\n".join(parts)


def _counts(cell: Cell | None) -> str:
    if cell is None:
        return ""
    certified = "-" if cell.certified is None else str(cell.certified)
    learned = "" if cell.solved or cell.image is None else f"; {cell.image}"
    text = f"{cell.solved}, {certified} of {len(cell.runs)}{learned}{' !' * cell.surprising}"
    return Markup(f"**{text}**" if cell.predicted else text)


def _agreement(cells: dict[Key, Cell]) -> str:
    rows, kinds = rows_of(cells), list(GATES)
    other = [cell for cell in cells.values() if cell.surprising]
    other.sort(key=lambda c: (rows.index((c.group, c.read_out)), kinds.index(c.gates), c.block_size))
    names = "; ".join(f"{escaped(label((c.group, c.read_out)))} {c.gates} m = {c.block_size}" for c in other)
    agree = f"{len(cells) - len(other)} of {len(cells)} cells agree" + (f"; not {names}." if other else ".")
    by_gates = [(gates, [cell for cell in cells.values() if cell.gates == gates]) for gates in kinds]
    return " ".join([agree, *(_by_side(gates, own) for gates, own in by_gates if own)])


def _by_side(gates: str, cells: list[Cell]) -> str:
    told = []
    for enough, where in ((True, "blocks are large enough"), (False, "they are not")):
        side = [cell for cell in cells if cell.predicted == enough]
        if side:
            told.append(f"{sum(c.solved for c in side)} of {sum(len(c.runs) for c in side)} runs where {where}")
    return f"Solved with {gates} gates: {', '.join(told)}."
