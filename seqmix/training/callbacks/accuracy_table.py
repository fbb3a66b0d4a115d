"""What a model can do at each length: a table on the terminal, a CSV and a figure in the folder of the run."""

import csv
import io
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._files import write_text_whole, write_whole
from seqmix.tasks.asked import asked_of
from seqmix.training.callbacks._accuracy_figure import columns_of, draw, is_text

__all__ = ["AccuracyTable"]

Row = dict[str, Any]


class AccuracyTable(Callback):
    """After a test or a validation: prints accuracy by length; a test writes `accuracy.csv` and `accuracy.png`, too.

    They are in the run's folder; a test that follows no training and finds another table there than its own writes
    `accuracy-2.csv`, and so on. Of text it is bits per byte and perplexity, and the files are `text.csv` and
    `text.png`. Test sets that a task calls by other names than their length keep those, in the task's order.

    Args:
        figure: draw the figure (needs matplotlib).
    """

    def __init__(self, figure: bool = True) -> None:
        super().__init__()
        self.figure = figure
        self.rows: list[Row] = []
        self._targets: dict[int, float] = {}
        self._trained = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the targets of a sequence, for the chance of a whole one."""
        if batch_idx == 0:
            counts = (batch["targets"] != -100).sum(-1)
            self._targets[dataloader_idx] = float(counts[counts > 0].float().mean())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._tell(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._tell(trainer, "test"):
            return
        task, says = trainer.datamodule, asked_of(trainer.datamodule)  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "text" if is_text(self.rows) else "accuracy"
        text = self._csv()
        alone, self._trained = not self._trained, False
        if alone:
            name = next(free for free in _numbered(name) if _is_free(folder / f"{free}.csv", text))
        write_text_whole(folder / f"{name}.csv", text)
        if self.figure:
            names = [each.name for each in says.test_sets or ()] or ["test"]
            targets = {names[at]: count for at, count in self._targets.items() if at < len(names)}
            made = [_title(task), _mixers(pl_module.hparams.get("mixer"))]
            made += [f"seed {says.hparams['seed']}"] if "seed" in (says.hparams or {}) else []
            title = ", ".join(filter(None, made))
            write_whole(
                folder / f"{name}.png",
                lambda path: draw(path, self.rows, title, says.chance, says.train_length, targets),
            )
        told = [f"table: {folder / name}.csv"] * alone + [f"figure: {folder / name}.png"] * self.figure
        if told:
            print(", ".join(told), flush=True)

    def _tell(self, trainer: Trainer, stage: str) -> bool:
        """Print what the trainer has measured; whether there is something to write, here."""
        self.rows = _rows(trainer.callback_metrics, stage)
        if not self.rows or not trainer.is_global_zero:
            return False
        task, says = trainer.datamodule, asked_of(trainer.datamodule)  # type: ignore[attr-defined]
        if len(self.rows) == 1 and self.rows[0]["length"] == stage and says.train_length is not None:
            self.rows[0]["length"] = says.train_length
        print(_text(self.rows, _title(task), says.chance, says.train_length, says.eval_size), flush=True)
        return True

    def _csv(self) -> str:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, fieldnames=["length", "loss", *columns_of(self.rows)])
        writer.writeheader()
        writer.writerows(self.rows)
        return file.getvalue()


def _numbered(name: str) -> Iterator[str]:
    return (name if number == 1 else f"{name}-{number}" for number in count(1))


def _is_free(path: Path, text: str) -> bool:
    """Whether nothing is lost when `text` is written there."""
    return not path.exists() or path.read_bytes() == text.encode()


def _title(task: Any) -> str:
    says = asked_of(task)
    return f"{type(task).__name__} {says.title or (says.hparams or {}).get('group', '')}".strip()


def _mixers(spec: Any) -> str:
    """`bd-lru(block_size=5)`, as a config names it."""
    if isinstance(spec, list | tuple):
        return " + ".join(dict.fromkeys(map(_mixers, spec)))
    if not isinstance(spec, dict):
        return str(spec or "")
    arguments = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec.get('name')}({arguments})" if arguments else str(spec.get("name"))


def _rows(metrics: dict[str, Any], wanted: str) -> list[Row]:
    rows: dict[str, Row] = {}
    for metric, value in metrics.items():
        stage, _, rest = metric.partition("/")
        measure, _, name = rest.partition("/")
        if stage == wanted:
            name = name or wanted  # the only set of a data module that names none
            row = rows.setdefault(name, {"length": int(name) if name.isdecimal() else name})
            row[measure] = float(value)
    if len(rows) > 1:  # the mean over sets, which chooses checkpoints
        rows.pop(wanted, None)
    if all(name.isdecimal() for name in rows):
        return [rows[name] for name in sorted(rows, key=int)]
    return list(rows.values())


def _text(rows: list[Row], title: str, chance: float | None, trained: int | None, size: int | None) -> str:
    lines = [
        f"\n{title}"
        + (f", {size} {'documents' if is_text(rows) else 'sequences'} at each length" if size else "")
        + (f", chance {chance:.3f}" if chance else "")
    ]
    labels = {name: f"{label:>14}" for name, label in columns_of(rows).items()}
    width = max(8, *(len(str(row["length"])) for row in rows))
    lines.append(f"{'length':>{width}}  " + "  ".join(labels.values()))
    for row in rows:
        mark = "  (training length)" if row["length"] == trained else ""
        values = (f"{row[name]:>{len(label)}.3f}" for name, label in labels.items())
        lines.append(f"{row['length']:>{width}}  " + "  ".join(values) + mark)
    return "\n".join(lines)
