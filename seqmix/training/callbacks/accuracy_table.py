"""What a model can do at each length: a table on the terminal, a CSV and a figure in the folder of the run."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._figures import new_figure
from seqmix._files import write_whole
from seqmix._measures import MEASURES
from seqmix.tasks.asked import asked_of

__all__ = ["AccuracyTable"]

Row = dict[str, Any]


class AccuracyTable(Callback):
    """After a test: prints accuracy by length, and writes `accuracy.csv` and `accuracy.png` in the run's folder.

    Of text it is bits per byte and perplexity, and the files are `text.csv` and `text.png`. Test sets that a task calls
    by other names than their length keep those, in the task's order.

    Args:
        figure: draw the figure (needs matplotlib).
    """

    def __init__(self, figure: bool = True) -> None:
        super().__init__()
        self.figure = figure
        self.rows: list[Row] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = _rows(trainer.callback_metrics)
        if not self.rows or not trainer.is_global_zero:
            return
        task = trainer.datamodule  # type: ignore[attr-defined]
        says = asked_of(task)
        chance, trained = says.chance, says.train_length
        title = f"{type(task).__name__} {says.title}".strip()
        print(_text(self.rows, title, chance, trained, says.eval_size), flush=True)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "text" if _is_text(self.rows) else "accuracy"
        write_whole(folder / f"{name}.csv", self._write_csv)
        if self.figure:
            write_whole(folder / f"{name}.png", lambda path: _draw(path, self.rows, title, chance, trained))
            print(f"figure: {folder / f'{name}.png'}", flush=True)

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["length", "loss", *_columns(self.rows)])
            writer.writeheader()
            writer.writerows(self.rows)


def _rows(metrics: dict[str, Any]) -> list[Row]:
    rows: dict[str, Row] = {}
    for metric, value in metrics.items():
        stage, _, rest = metric.partition("/")
        measure, _, name = rest.partition("/")
        if stage == "test":
            name = name or "test"  # the only set of a data module that names none
            row = rows.setdefault(name, {"length": int(name) if name.isdecimal() else name})
            row[measure] = float(value)
    if all(name.isdecimal() for name in rows):
        return [rows[name] for name in sorted(rows, key=int)]
    return list(rows.values())


def _is_text(rows: list[Row]) -> bool:
    return all("bits_per_byte" in row for row in rows)


def _columns(rows: list[Row]) -> dict[str, str]:
    shown = sorted((measure for measure in MEASURES if measure.place), key=lambda measure: measure.place)
    return {measure.name: measure.title for measure in shown if all(measure.name in row for row in rows)}


def _text(rows: list[Row], title: str, chance: float | None, trained: int | None, size: int | None) -> str:
    lines = [
        f"\n{title}"
        + (f", {size} {'documents' if _is_text(rows) else 'sequences'} at each length" if size else "")
        + (f", chance {chance:.3f}" if chance else "")
    ]
    labels = {name: f"{label:>14}" for name, label in _columns(rows).items()}
    width = max(8, *(len(str(row["length"])) for row in rows))
    lines.append(f"{'length':>{width}}  " + "  ".join(labels.values()))
    for row in rows:
        mark = "  (training length)" if row["length"] == trained else ""
        values = (f"{row[name]:>{len(label)}.3f}" for name, label in labels.items())
        lines.append(f"{row['length']:>{width}}  " + "  ".join(values) + mark)
    return "\n".join(lines)


def _draw(path: Path, rows: list[Row], title: str, chance: float | None, trained: int | None) -> None:
    figure = new_figure(6, 3.6)
    axes = figure.add_subplot()
    names = [str(row["length"]) for row in rows]
    numbers = all(name.isdecimal() for name in names)
    places = [row["length"] for row in rows] if numbers else list(range(len(rows)))
    text = _is_text(rows)
    for name, label in _columns(rows).items():
        if not text or name == "bits_per_byte":
            axes.plot(places, [row[name] for row in rows], marker="o", label=label)
    if chance:
        axes.axhline(chance, color="0.6", linestyle=":", label="chance")
    if trained and numbers:
        axes.axvline(trained, color="0.6", linestyle="--", label="training length")
    axes.set(xlabel="sequence length" if numbers else "test set", title=title)
    axes.set(ylabel="bits per byte") if text else axes.set(ylabel="accuracy", ylim=(-0.03, 1.03))
    if numbers:
        axes.set_xscale("log")
    axes.set_xticks(places, names)
    axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150, format="png")
