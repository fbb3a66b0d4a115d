"""One checkpoint from several, with the mean of their weights."""

from pathlib import Path
from typing import Any

import torch

from seqmix._bounded import check_expanded
from seqmix.optim.averaging import average_state_dicts
from seqmix.training.checkpoint_files import check_archive

__all__ = ["average_checkpoints"]

# What belongs to the current weights alone: a run cannot go on from an average.
_DROPPED = ("optimizer_states", "lr_schedulers", "current_model_state", "averaging_state", "loops", "MixedPrecision")


def average_checkpoints(paths: list[Path], *, last: int | None = None, decay: float | None = None) -> dict[str, Any]:
    """The newest of some checkpoints, with averaged weights and without the state of its optimizer.

    Of a checkpoint with an average of its own the current weights are taken.

    Args:
        paths: files, in any order; they are sorted by their steps.
        last: how many of the newest to take; None for all.
        decay: weights 1, decay, decay^2, ... from the newest back, instead of equal ones.

    Raises:
        ValueError: a file that is no checkpoint of a training run, two of one step, or models that differ.
    """
    checkpoints: dict[int, dict[str, Any]] = {}
    for path in paths:
        try:
            check_archive(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            check_expanded(checkpoint)
        except Exception as error:  # unpickling fails in many ways
            raise ValueError(f"CKPT: cannot read {path}: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step"} <= set(checkpoint):
            raise ValueError(f"CKPT: expected a checkpoint of seqmix fit, got {path}")
        step = checkpoint["global_step"]
        if not isinstance(step, int) or not all(map(_is_state, (checkpoint["state_dict"], _current(checkpoint)))):
            raise ValueError(f"CKPT: {path} is damaged: its step is no number, or its weights are no tensors")
        if step in checkpoints:
            raise ValueError(f"CKPT: expected checkpoints of different steps, got two of step {step}")
        checkpoints[step] = checkpoint
    steps = sorted(checkpoints)[-last if last else 0 :]
    states = [_current(checkpoints[s]) for s in steps]
    weights = None if decay is None else [decay**age for age in reversed(range(len(steps)))]
    result = {key: value for key, value in checkpoints[steps[-1]].items() if key not in _DROPPED}
    return result | {"state_dict": average_state_dicts(states, weights), "averaged_steps": steps}


def _current(checkpoint: dict[str, Any]) -> Any:
    return checkpoint.get("current_model_state", checkpoint["state_dict"])


def _is_state(state: Any) -> bool:
    # A sparse or a meta tensor, or one of another kind, has no values to add.
    return isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(it, torch.Tensor) and it.layout == torch.strided and not it.is_meta
        for name, it in state.items()
    )
