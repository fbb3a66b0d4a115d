"""What a model answers, in files."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._files import write_whole
from seqmix.tasks.asked import asked_of

__all__ = ["PredictionFiles"]


class PredictionFiles(Callback):
    """After `predict`: one `predictions-SET.npz` per test set with `tokens`, `targets`, `predictions` (N, T).

    Packed sequences lie in one row (1, T), with `cu_seqlens` (S + 1,) where each begins.
    """

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predictions: Any = trainer.predict_loop.predictions
        if not predictions:
            return
        sets = asked_of(trainer.datamodule).test_sets  # type: ignore[attr-defined]
        loaders = predictions if isinstance(predictions[0], list) else [predictions]
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        for index, batches in enumerate(loaders):
            arrays = _joined([{name: value.cpu().numpy() for name, value in batch.items()} for batch in batches])
            scored = (arrays["targets"] != -100).any(1)
            path = folder / f"predictions-{sets[index].name if sets else index}{rank}.npz"

            def write(part: Path, arrays: dict[str, Any] = arrays, scored: Any = scored) -> None:
                with part.open("wb") as file:
                    np.savez_compressed(file, **{n: v if n == "cu_seqlens" else v[scored] for n, v in arrays.items()})

            write_whole(path, write)
            print(f"predictions: {path}", flush=True)


def _joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    if "cu_seqlens" not in batches[0]:
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    arrays = {name: np.concatenate([batch[name] for batch in batches], axis=-1) for name in batches[0]}
    widths = np.concatenate([np.diff(batch["cu_seqlens"]) for batch in batches])
    return arrays | {"cu_seqlens": np.concatenate([[0], np.cumsum(widths)])}
