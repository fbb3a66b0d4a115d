"""What a model answers, in files."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from seqmix._files import write_whole

__all__ = ["PredictionFiles"]


class PredictionFiles(Callback):
    """After `predict`: one `predictions-SET.npz` per test set with `tokens`, `targets`, `predictions` (N, T)."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        predictions: Any = trainer.predict_loop.predictions
        if not predictions:
            return
        sets = getattr(trainer.datamodule, "test_sets", None)  # type: ignore[attr-defined]
        loaders = predictions if isinstance(predictions[0], list) else [predictions]
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        for index, batches in enumerate(loaders):
            arrays = {name: np.concatenate([b[name].cpu().numpy() for b in batches]) for name in batches[0]}
            scored = (arrays["targets"] != -100).any(1)
            path = folder / f"predictions-{sets[index].name if sets else index}{rank}.npz"

            def write(part: Path, arrays: dict[str, Any] = arrays, scored: Any = scored) -> None:
                with part.open("wb") as file:
                    np.savez_compressed(file, **{name: values[scored] for name, values in arrays.items()})

            write_whole(path, write)
            print(f"predictions: {path}", flush=True)
