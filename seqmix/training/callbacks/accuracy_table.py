"""What a model can do at each length: a table on the terminal, a CSV and a figure in the folder of the run."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._files import write_whole

__all__ = ["AccuracyTable"]

_COLUMNS = {"sequence_accuracy": "whole sequence", "last_accuracy": "last position", "token_accuracy": "every position"}


class AccuracyTable(Callback):
    """After a test: prints accuracy by length, and writes `accuracy.csv` and `accuracy.png` in the run's folder.

    Args:
        figure: draw the figure (needs matplotlib).
    """

    def __init__(self, figure: bool = True) -> None:
        super().__init__()
        self.figure = figure
        self.rows: list[dict[str, float]] = []

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rows = _rows(trainer.callback_metrics)
        if not self.rows or not trainer.is_global_zero:
            return
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        chance, trained = getattr(task, "chance", None), getattr(task, "train_length", None)
        title = f"{type(task).__name__} {getattr(task, 'title', '')}".strip()
        print(_text(self.rows, title, chance, trained, getattr(task, "eval_size", None)), flush=True)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "accuracy.csv", self._write_csv)
        if self.figure:
            write_whole(folder / "accuracy.png", lambda path: _draw(path, self.rows, title, chance, trained))
            print(f"figure: {folder / 'accuracy.png'}", flush=True)

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=["length", "loss", *_COLUMNS])
            writer.writeheader()
            writer.writerows(self.rows)


def _rows(metrics: dict[str, Any]) -> list[dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        stage, _, rest = name.partition("/")
        measure, _, length = rest.partition("/")
        if stage == "test" and length.isdigit():
            rows.setdefault(int(length), {"length": int(length)})[measure] = float(value)
    return [rows[length] for length in sorted(rows)]


def _text(rows: list[dict[str, float]], title: str, chance: float | None, trained: int | None, size: int | None) -> str:
    lines = [
        f"\n{title}"
        + (f", {size} sequences at each length" if size else "")
        + (f", chance {chance:.3f}" if chance else "")
    ]
    lines.append(f"{'length':>8}  " + "  ".join(f"{label:>14}" for label in _COLUMNS.values()))
    for row in rows:
        mark = "  (training length)" if row["length"] == trained else ""
        lines.append(f"{row['length']:>8}  " + "  ".join(f"{row[name]:>14.3f}" for name in _COLUMNS) + mark)
    return "\n".join(lines)


def _draw(path: Path, rows: list[dict[str, float]], title: str, chance: float | None, trained: int | None) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, without pyplot: no display, no global state.
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lengths = [row["length"] for row in rows]
    for name, label in _COLUMNS.items():
        axes.plot(lengths, [row[name] for row in rows], marker="o", label=label)
    if chance:
        axes.axhline(chance, color="0.6", linestyle=":", label="chance")
    if trained:
        axes.axvline(trained, color="0.6", linestyle="--", label="training length")
    axes.set(xscale="log", xlabel="sequence length", ylabel="accuracy", ylim=(-0.03, 1.03), title=title)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150, format="png")
