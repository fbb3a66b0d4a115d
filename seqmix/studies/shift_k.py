"""`seqmix shift-k`: fit the poles of layers to shifts, keep a JSON line for each fit, make a table and a figure.

A record has `mixer, order, states, shift, starts, steps, lr, seed` (what was asked), `loss, bound, gain, losses, poles`
(what came of it: the best error, the bound, the normalised gain, the error of every start, [real, imaginary] of every
pole), `seconds`, and `repro`. A fit that the store has is not made again.
"""

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqmix._bounded import MAX_JSON, read_text
from seqmix._figures import encode, new_figure, style
from seqmix._files import write_text_whole
from seqmix._markdown import escaped, markdown_table
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["figure", "main", "read_fits", "table"]

Record = dict[str, Any]

_ASKED = ("mixer", "order", "states", "shift", "starts", "steps", "lr", "seed")
_FIELDS = {*_ASKED, "loss", "bound", "gain", "losses", "poles", "seconds", "repro"}
_MARKERS = ("o", "s", "^", "D", "v")


@dataclass(frozen=True)
class _Plan:
    mixer: str
    states: int
    shift: int
    arguments: argparse.Namespace

    @property
    def asked(self) -> Record:
        from seqmix.tasks.shift_k import get_family

        a = self.arguments
        order = a.order if get_family(self.mixer).by_order else 2
        values = (self.mixer, order, self.states, self.shift, a.starts, a.steps, a.lr, a.seed)
        return dict(zip(_ASKED, values, strict=True))


def main(argv: list[str]) -> int:
    """Run `seqmix shift-k` with these arguments; mistakes are `ValueError`s."""
    arguments = _parser().parse_args(argv)
    check_write_options(arguments)
    if arguments.store is not None and (not arguments.store.parent.is_dir() or arguments.store.is_dir()):
        raise ValueError(f"--store: expected a file in a folder that exists, got {str(arguments.store)!r}")
    known = read_fits(arguments.store) if arguments.store is not None and arguments.store.exists() else []
    records = _fits(arguments, known)
    text = table(records)
    print(text)
    if arguments.figure is not None:
        write_text_whole(arguments.figure, figure(records))
        print(f"figure: {arguments.figure}")
    if arguments.write is not None:
        if arguments.figure is not None:
            text += f"\n\n![error over its lower bound, by mixer]({arguments.figure.name})"
        print_or_write(text, arguments, ["seqmix", "shift-k", *argv])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "seqmix shift-k",
        description="Fit poles to the task of saying the input of K steps ago, by the exact error, and hold it against "
        "the lower bound 1 - S / (K + 1) for S poles. Poles are those of layers whose gates are constant.",
        epilog="example: seqmix shift-k --mixer lru h-lru bd-lru --states 4 8 16 --shifts 32 64 128",
        allow_abbrev=False,
    )
    numbers: dict[str, Any] = {"nargs": "+", "type": int, "metavar": "N"}
    parser.add_argument("--mixer", nargs="+", default=["lru", "h-lru", "bd-lru"], help="default: all three")
    parser.add_argument("--states", default=[4, 8, 16], help="numbers of poles S, default 4 8 16", **numbers)
    parser.add_argument("--shifts", default=[32, 64, 128], help="shifts K, default 32 64 128", **numbers)
    parser.add_argument("--order", type=int, default=4, help="order of h-lru, block size of bd-lru, default 4")
    parser.add_argument("--starts", type=int, default=8, help="starts of each fit, default 8")
    parser.add_argument("--steps", type=int, default=1500, help="steps of Adam, default 1500")
    parser.add_argument("--lr", type=float, default=0.05, help="of Adam, default 0.05")
    parser.add_argument("--seed", type=int, default=0, help="of the starts, default 0")
    parser.add_argument("--store", type=Path, metavar="FILE.jsonl", help="records: fits in it are not made again")
    parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="error against the bound")
    add_write_options(parser, "write the table into this file")
    return parser


def _fits(arguments: argparse.Namespace, known: list[Record]) -> list[Record]:
    from seqmix.leaderboard.sweep.local import repro_facts
    from seqmix.tasks.shift_k import fit_poles

    plans = [
        _Plan(mixer, states, shift, arguments)
        for mixer in arguments.mixer
        for states in arguments.states
        for shift in arguments.shifts
    ]
    repro = repro_facts()
    records = []
    for index, plan in enumerate(plans):
        asked = plan.asked
        found = next((r for r in known if all(r[name] == value for name, value in asked.items())), None)
        if found is None:
            begin = time.perf_counter()
            fit = fit_poles(
                plan.mixer,
                plan.states,
                plan.shift,
                order=arguments.order,
                starts=arguments.starts,
                steps=arguments.steps,
                lr=arguments.lr,
                seed=arguments.seed,
            )
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            found = asked | {
                "loss": fit.loss,
                "bound": fit.bound,
                "gain": fit.gain,
                "losses": list(fit.losses),
                "poles": [[pole.real, pole.imag] for pole in fit.poles.tolist()],
                "seconds": round(time.perf_counter() - begin, 3),
                "repro": repro | {"utc": now},
            }
            print(f"[{index + 1}/{len(plans)}] {_name(found)}: {found['loss']:.4f}", file=sys.stderr, flush=True)
            if arguments.store is not None:
                with arguments.store.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
        records.append(found)
    return records


def read_fits(path: Path) -> list[Record]:
    """The records of a store; a line that is none is a `ValueError` that names it."""
    records = []
    for number, line in enumerate(read_text(path, MAX_JSON).splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(record, dict) or set(record) != _FIELDS:
            raise ValueError(
                f"{path}:{number}: expected the fields of a fit ({', '.join(sorted(_FIELDS))}), got others"
            )
        records.append(record)
    return records


def table(records: Sequence[Record]) -> str:
    """Markdown: a row for each (S, K), the bound, and every mixer's error and gain."""
    labels = list(dict.fromkeys(_label(record) for record in records))
    header = ["S", "K", "bound", *labels]
    rows = []
    for states, shift in sorted({(record["states"], record["shift"]) for record in records}):
        same = {_label(r): r for r in records if (r["states"], r["shift"]) == (states, shift)}
        bound = next(iter(same.values()))["bound"]
        cells = [f"{r['loss']:.4f} ({r['gain']:.2f})" if (r := same.get(label)) else "" for label in labels]
        rows.append([str(states), str(shift), f"{bound:.4f}", *cells])
    asked = records[0]
    return (
        f"{markdown_table(header, rows, left=0)}\n\nError with the best read-out, in parts of the input's variance "
        "(and the gain over a filter of zeros, in parts of what the bound allows), for the best poles found: "
        f"{escaped(asked['starts'])} starts of {escaped(asked['steps'])} steps."
    )


def figure(records: Sequence[Record]) -> str:
    """Error against S / (K + 1), with the bound, as SVG that is the same for the same numbers."""
    with style("seqmix shift-k --figure", extra="train"):
        drawing = new_figure(6, 3.8)
        axes = drawing.add_subplot()
        largest = max(record["states"] / (record["shift"] + 1) for record in records)
        axes.plot([0, largest], [1, max(0.0, 1 - largest)], color="black", label="bound 1 - S / (K + 1)")
        for marker, label in zip(_MARKERS * len(records), dict.fromkeys(map(_label, records)), strict=False):
            mine = sorted((r["states"] / (r["shift"] + 1), r["loss"]) for r in records if _label(r) == label)
            axes.plot(*zip(*mine, strict=True), marker=marker, linestyle=":", label=label)
        axes.set(xlabel="S / (K + 1)", ylabel="error over the input's variance")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
        return encode(drawing, "svg").decode()


def _label(record: Record) -> str:
    return record["mixer"] if record["mixer"] == "lru" else f"{record['mixer']}, m = {record['order']}"


def _name(record: Record) -> str:
    return f"{_label(record)}, S = {record['states']}, K = {record['shift']}"
