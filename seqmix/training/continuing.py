"""What a run that goes on from a checkpoint may change: what the checkpoint does not hold, and nothing else.

Weights, the optimizer's state and the place in the data come from the checkpoint. Arguments that made them would be
kept in `config.yaml` and `results.json`, and not be what ran; such a change is refused in one line.
"""

from collections.abc import Mapping
from typing import Any

from seqmix.tasks.asked import asked_of

__all__ = ["check_continues", "check_same", "check_value"]

# The schedule says itself which states it continues; the others change nothing that is learned.
_FREE = {
    "model": {"schedule", "activation_checkpointing"},
    "data": {"eval_lengths", "eval_size", "eval_seed", "eval_sets", "eval_range", "num_workers"},
}
_ENTRIES = ("optimizer", "mixer", "objective", "head", "embedding")
_NEEDED = ("optimizer_states", "lr_schedulers", "loops", "global_step")
_MISSING = object()


def check_continues(checkpoint: Mapping[str, Any], learner: Any, task: Any, max_steps: int) -> None:
    """`ValueError` unless a trained run's checkpoint can be gone on with by this learner and task.

    Args:
        checkpoint: its content.
        learner, task: with their arguments as `hparams`; a task that keeps none is not looked at.
        max_steps: of the trainer; -1 for no end.
    """
    missing = [name for name in _NEEDED if name not in checkpoint]
    if missing:
        raise ValueError(
            f"ckpt_path: a run cannot go on from this checkpoint, which has no {missing[0]}: it holds weights alone, "
            "for seqmix test"
        )
    if 0 <= max_steps < checkpoint["global_step"]:
        raise ValueError(
            f"trainer.max_steps: the checkpoint has {checkpoint['global_step']} steps already, got {max_steps}"
        )
    own = f"{type(task).__module__}.{type(task).__qualname__}"
    if checkpoint.get("task", own) != own and task is not None:
        raise ValueError(_refusal("data", checkpoint["task"], own))
    check_same("model", checkpoint.get("hyper_parameters"), learner.hparams)
    check_same("data", checkpoint.get("datamodule_hyper_parameters"), asked_of(task).hparams)


def check_same(group: str, made: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    """`ValueError` for the first argument of `model` or `data` that is not what the checkpoint was made with."""
    if not made or not now:
        return
    for name in sorted(made.keys() & now.keys() - _FREE[group]):
        path = name if name in _ENTRIES[:3] else f"{group}.{name}"
        check_value(path, _entry(name, made[name]), _entry(name, now[name]))


def check_value(path: str, made: Any, now: Any) -> None:
    """`ValueError` that names the option `path`, or the one below it, whose value is another one now."""
    if (found := _difference(path, made, now)) is not None:
        raise ValueError(_refusal(*found))


def _refusal(path: str, made: Any, now: Any) -> str:
    def shown(value: Any) -> str:
        return "nothing" if value is _MISSING else repr(value)

    return (
        f"{path}: the run of this checkpoint has {shown(made)}, and goes on with it; got {shown(now)}. "
        f"Without --{path} it goes on, without --ckpt_path a new run begins"
    )


def _entry(name: str, value: Any) -> Any:
    # `lstm`, `{name: lstm}` and a list of it are written for the same thing.
    if name in _ENTRIES and isinstance(value, str):
        return {"name": value}
    if name == "mixer" and isinstance(value, list | tuple):
        return [_entry(name, each) for each in value]
    return value


def _difference(path: str, made: Any, now: Any) -> tuple[str, Any, Any] | None:
    if isinstance(made, Mapping) and isinstance(now, Mapping):
        # A name first: the arguments of another are others.
        for key in sorted(made.keys() | now.keys(), key=lambda key: (key != "name", str(key))):
            where = path if key == "name" else f"{path}.{key}"
            found = _difference(where, made.get(key, _MISSING), now.get(key, _MISSING))
            if found is not None:
                return found
        return None
    if isinstance(made, list | tuple) and isinstance(now, list | tuple):
        same = len(made) == len(now) and not any(_difference(path, a, b) for a, b in zip(made, now, strict=True))
    else:
        same = made is now or bool(made == now)
    return None if same else (path, made, now)
