"""A callback that leaves what a run was, and what came of it, in one JSON file of its folder."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from seqmix._files import write_whole
from seqmix._measures import MEASURES, keys, of_text
from seqmix._posix import resource
from seqmix.leaderboard.cost.flops import flops_per_token
from seqmix.leaderboard.cost.footprint import decode_milliseconds, state_bytes, state_size
from seqmix.leaderboard.records.schema import plain
from seqmix.tasks.asked import asked_of
from seqmix.training.callbacks.curriculum import LengthCurriculum
from seqmix.training.callbacks.non_finite import NonFiniteLossError

__all__ = ["RunRecorder"]

_THRESHOLDS = (0.5, 0.9, 0.99)  # of `steps_to`


class RunRecorder(Callback):
    """Writes `results.json` in the run's folder when training ends, and again, with accuracies, after the test.

    The file has the sections of a leaderboard record that only the run itself knows: `identity`, `size`, `training`,
    `result` and `cost` (`seqmix.leaderboard.records.schema` says what is in them). A run whose loss stops being a
    number leaves one too, marked as diverged. Seconds, tokens and iterations go on counting in a resumed run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.tokens = 0.0, 0
        self.curve: list[dict[str, float | None]] = []
        self._since: float | None = None
        self._trained = False
        # Of validations, which are no training; processor time of the processes that went before.
        self._validating, self._validation_began, self._cpu_before = 0.0, 0.0, 0.0
        # Of the solves of fixed-point layers by test set: sum and number of iterations, on the device.
        self._solves: dict[str, Tensor] = {}
        self._state: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._state = _state_of_one_token(trainer, pl_module)
        self._since, self._trained = time.monotonic(), True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += batch["tokens"].numel() * trainer.world_size
        self._count_solves("train", pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        sets = asked_of(trainer.datamodule).test_sets  # type: ignore[attr-defined]
        if sets:
            self._count_solves(sets[dataloader_idx].name, pl_module)

    def _count_solves(self, name: str, pl_module: LightningModule) -> None:
        found = [getattr(mixer, "last_solve", None) for mixer in pl_module.model.mixers]  # type: ignore[union-attr]
        for solve in found:
            if isinstance(solve, Tensor):
                counts = torch.stack([solve[:, 0].double().sum(), solve.new_tensor(len(solve), dtype=torch.float64)])
                self._solves[name] = self._solves[name] + counts if name in self._solves else counts

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not self._trained:
            return
        self._validating += time.monotonic() - self._validation_began
        metrics = trainer.callback_metrics
        losses = [float(value) for name, value in metrics.items() if name.startswith("val/loss")]
        point = {"step": trainer.global_step, "loss": losses[-1] if losses else None}
        if "val/bits_per_byte" in metrics:
            right = [float(value) for name, value in metrics.items() if name.startswith("val/token_accuracy")]
            point |= {"accuracy": right[-1], "bpb": float(metrics["val/bits_per_byte"])}
        else:
            point["accuracy"] = float(metrics.get("val/accuracy", math.nan))
        self.curve.append(point)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._since = self._seconds(), None
        self._write(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._trained:
            self._write(trainer, pl_module, tested=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, NonFiniteLossError) and self._trained:
            self._write(trainer, pl_module, reason=str(exception))

    def state_dict(self) -> dict[str, Any]:
        return {
            "seconds": self._seconds(),
            "tokens": self.tokens,
            "curve": list(self.curve),
            "validating": self._validating,
            "cpu": self._cpu_seconds(),
            "solves": self._solves.get("train"),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.tokens = state_dict["seconds"], state_dict["tokens"]
        self.curve = list(state_dict["curve"])
        # Checkpoints of before did not keep these.
        self._validating, self._cpu_before = state_dict.get("validating", 0.0), state_dict.get("cpu", 0.0)
        if state_dict.get("solves") is not None:
            self._solves["train"] = state_dict["solves"]

    def _seconds(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def _cpu_seconds(self) -> float:
        return self._cpu_before + time.process_time()

    def _flops(self, model: Any, task: Any, sets: list[Any]) -> float | None:
        length = asked_of(task).train_length or max((each.length for each in sets), default=0)
        train = self._solves.get("train")
        # A direct solve says 0 iterations, and is one application.
        iterations = 1.0 if train is None else max(1.0, float(train[0] / train[1]))
        try:
            return flops_per_token(model, length, iterations=iterations) if length else None
        except NotImplementedError:
            return None

    def _write(self, trainer: Trainer, learner: Any, reason: str | None = None, tested: bool = False) -> None:
        task: Any = trainer.datamodule  # type: ignore[attr-defined]
        model, says = learner.model, asked_of(task)
        sets = list(says.test_sets or ())
        text = of_text(getattr(task, "metric", None))
        metrics = _metrics(trainer, sets, text)
        diverged = reason is not None or any(
            not math.isfinite(value) for row in metrics.values() for value in row.values()
        )
        results = {
            "identity": {**_mixer(model.config["mixer"]), **_task(task), "n_layers": model.n_layers}
            | {"d_model": model.d_model},
            "size": {
                "params_total": model.num_parameters(),
                "params_non_embedding": model.num_parameters(non_embedding=True),
                "params_mixer": sum(p.numel() for mixer in model.mixers for p in mixer.parameters()),
                "state_size": {each.name: state_size(model, each.length) for each in sets},
                "state_bytes": {each.name: state_bytes(model, self._state, each.length) for each in sets},
                "flops_per_token": self._flops(model, task, sets),
            },
            "training": _training(trainer, learner, task) | {"tokens": self.tokens},
            "result": {
                "metric": getattr(task, "metric", None),
                "chance": says.chance,
                "train_length": says.train_length,
                "metrics": metrics,
                "curve": self.curve,
                **_reached(self.curve, text),
                "iterations": {name: float(sums[0] / sums[1]) for name, sums in self._solves.items()} or None,
                **_progress(trainer),
                "diverged": diverged,
                "certificate": _certificate(trainer),
            },
            "cost": {
                "train_seconds": round(self._seconds(), 3),
                "cpu_seconds": round(self._cpu_seconds(), 3),
                "tokens_per_second": self.tokens / max(1e-9, self._seconds() - self._validating),
                "decode_ms": decode_milliseconds(model) if tested else None,
                "threads": torch.get_num_threads(),
                "device": _device(trainer),
                "peak_memory_bytes": _peak_memory(),
            },
            "reason": reason or ("a test loss is not finite" if diverged else None),
        }
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(plain(results), indent=1, allow_nan=False) + "\n"
            write_whole(folder / "results.json", lambda path: path.write_text(content))


def _metrics(trainer: Trainer, sets: list[Any], text: bool) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for each in sets:
        names = {m.key: f"test/{m.name}/{each.name}" for m in MEASURES if (m.text if text else m.answers)}
        found = {key: name for key, name in names.items() if name in trainer.callback_metrics}
        if found.keys() >= set(keys(text=text, always=True)):
            rows[each.name] = {k: float(trainer.callback_metrics[name]) for k, name in found.items()} | {"n": each.size}
    return rows


def _state_of_one_token(trainer: Trainer, learner: Any) -> Any:
    # At the start: later the weights may not be finite. Nothing of it must be felt by the training.
    token = torch.zeros(1, 1, dtype=torch.int64, device=learner.device)
    training = learner.model.training
    learner.model.eval()
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        _, state = learner.model.features(token)
    learner.model.train(training)
    return state


def _reached(curve: list[dict[str, float | None]], text: bool) -> dict[str, Any]:
    # Validations whose measure is no number say nothing; of equal ones the first is the best, as in `best.ckpt`.
    measure, sign = ("bpb", -1) if text else ("accuracy", 1)
    points = [(p["step"], sign * v) for p in curve if (v := p[measure]) is not None and math.isfinite(v)]
    best = max(points, key=lambda point: point[1], default=(None, None))[0]
    first = {f"{t:g}": next((step for step, value in points if value >= t), None) for t in _THRESHOLDS}
    return {"best_step": best, "steps_to": None if text else first}


def _mixer(specs: list[Any]) -> dict[str, Any]:
    # One mixer in every layer is one mixer; a hybrid is named by all of them.
    named = [spec if isinstance(spec, dict) else {"name": repr(spec)} for spec in specs]
    arguments = [{key: value for key, value in spec.items() if key != "name"} for spec in named]
    if all(spec == named[0] for spec in named):
        return {"mixer": named[0]["name"], "mixer_kwargs": arguments[0]}
    return {"mixer": "+".join(spec["name"] for spec in named), "mixer_kwargs": arguments}


def _task(task: Any) -> dict[str, Any]:
    from seqmix.tasks.registry import task_names

    path = f"{type(task).__module__}.{type(task).__qualname__}"
    version = task.version() if callable(getattr(task, "version", None)) else None
    arguments = {key: value for key, value in task.hparams.items() if key != "seed"}
    return {
        "task": task_names().get(path, path),
        "task_kwargs": arguments,
        "task_version": version,
        "data_seed": getattr(task, "seed", None),
    }


def _training(trainer: Trainer, learner: Any, task: Any) -> dict[str, Any]:
    decays = [group["weight_decay"] for group in trainer.optimizers[0].param_groups if "weight_decay" in group]
    steps = trainer.global_step
    return {
        "optimizer": learner.optimizer,
        "lr": trainer.optimizers[0].defaults.get("lr") if trainer.optimizers else learner.optimizer.get("lr"),
        "weight_decay": max(decays, default=None),
        "schedule": learner.schedule,
        "warmup": learner.schedule.get("warmup", 0),
        "batch_size": getattr(task, "batch_size", None),
        "steps": steps,
        "max_steps": trainer.max_steps,
        "stopped_early": steps < trainer.max_steps if trainer.max_steps > 0 else None,
        "precision": str(trainer.precision),
        "clip": trainer.gradient_clip_val,
    }


def _progress(trainer: Trainer) -> dict[str, Any]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    lengths = [callback.length for callback in callbacks if isinstance(callback, LengthCurriculum)]
    restarts = [callback.restarts for callback in callbacks if hasattr(callback, "restarts")]
    return {"final_length": max(lengths, default=None), "restarts": sum(restarts) if restarts else None}


def _certificate(trainer: Trainer) -> Any:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.certificate for callback in callbacks if hasattr(callback, "certificate")), None)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_memory() -> int:
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
