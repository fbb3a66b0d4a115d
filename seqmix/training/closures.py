"""What an optimizer's closure returns and does under Lightning: the loss of a whole step, and second derivatives.

Lightning averages gradients over micro-batches and over processes as if all had equally many targets, and its closure
returns the loss of the last micro-batch of this process over the number of micro-batches. Here both are those of the
whole batch: every micro-batch of every process counts by its targets, and the loss of a step is the number whose
gradient the parameters hold when it is taken. Penalties are in both, weighted alike.
"""

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

from seqmix.kernels import backend
from seqmix.optim.registry import get_optimizer
from seqmix.training.callbacks.optimizer_modes import OptimizerModes

__all__ = ["LossInStep"]

_NO_NORM = "norm_after_clipping: False is for NGN, optimizer {!r} uses no norm"


class LossInStep(LightningModule):
    """Steps of the optimizer `{name: ..., arguments}` under automatic optimization, with the loss where it needs one.

    Args:
        optimizer: the registry entry; that of a wrapper says what its base needs.
        norm_after_clipping: what NGN takes for |g|^2: that of the clipped gradients, as 2508.15071 does for language
            models, or False for that before clipping (by norm).

    Raises:
        ValueError: `norm_after_clipping=False` for an optimizer without norm, or with clipping by value, which leaves
            no factor to undo; several micro-batches under an optimizer that evaluates the loss more than once a step.
    """

    def __init__(self, optimizer: dict[str, Any], norm_after_clipping: bool = True) -> None:
        super().__init__()
        self.optimizer, self.norm_after_clipping = optimizer, norm_after_clipping
        needs = _needs(optimizer)
        self._wants_loss = "closure" in needs or "loss" in needs
        if not self._wants_loss and not norm_after_clipping:
            raise ValueError(_NO_NORM.format(optimizer["name"]))
        self._wants_graph = "second derivatives" in needs
        self._earlier: Tensor | float = 0.0  # of the micro-batches since the last step
        # Targets of all processes in this micro-batch, in the first one of the step, and in those before this one.
        self._targets: Tensor | None = None
        self._first_targets: Tensor | None = None
        self._earlier_targets: Tensor | int = 0
        self._means = StepMeans()
        self._stepped = False
        self._coefficient: Tensor | None = None

    def configure_callbacks(self) -> list[Callback]:
        """What the optimizer needs beside its steps."""
        return [OptimizerModes()] if "train() and eval()" in _needs(self.optimizer) else []

    def weighted(self, loss: Tensor, n_targets: Tensor) -> Tensor:
        """What a `training_step` returns for a micro-batch of this process with the mean `loss` over its targets.

        Weights are relative to the first micro-batch of a step, since those to come are not known; `backward` turns
        them into shares of the whole when the last one is there. Equally many targets are weighted by exactly one.
        """
        trainer: Any = self.trainer
        if trainer.accumulate_grad_batches == 1 and trainer.world_size == 1:
            return loss
        self._targets = over_processes(trainer, n_targets)
        if self._first_targets is None:
            self._first_targets = self._targets.clamp_min(1)
        return loss * (n_targets.to(loss.dtype) * trainer.world_size / self._first_targets)

    def _correction(self, dtype: torch.dtype) -> Tensor | None:
        """From weights relative to the first micro-batch, over their nominal number, to shares of the whole."""
        n = self.trainer.accumulate_grad_batches
        if n == 1 or self._targets is None or self._first_targets is None:
            return None
        whole = (self._targets + self._earlier_targets).clamp_min(1)
        return n * self._first_targets.to(torch.promote_types(dtype, torch.float32)) / whole

    def log_means(self, sums: dict[str, Tensor], n_targets: Tensor) -> None:
        """Log sums over targets as means over those of the whole step, and of all processes.

        An optimizer may ask for a batch several times: the first time counts, at the weights that the step begins from.
        """
        means = self._means.add(sums, n_targets, lambda values: over_processes(self.trainer, values))
        if means is not None:
            self.log_dict(means, batch_size=1)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        self._stepped = True
        if not self._wants_loss or optimizer_closure is None:
            optimizer.step(closure=optimizer_closure)
            return
        dtype = torch.promote_types(self.dtype, torch.float32)  # type: ignore[arg-type]
        evaluations, total = 0, torch.zeros((), dtype=dtype, device=self.device)

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            if evaluations > 1 and isinstance(self._earlier, Tensor):
                raise ValueError(
                    f"optimizer {self.optimizer['name']!r} evaluates the loss more than once a step, which needs "
                    "trainer.accumulate_grad_batches = 1"
                )
            loss = optimizer_closure() + self._earlier
            if (correction := self._correction(loss.dtype)) is not None:
                loss = loss * correction
            return total.copy_(self.trainer.strategy.reduce(loss, reduce_op="mean"))

        arguments: dict[str, Any] = {}
        self._coefficient = None
        inner = getattr(optimizer.optimizer, "base", optimizer.optimizer)  # of noise around it, which hands on
        known = inspect.signature(inner.step).parameters
        if not self.norm_after_clipping and self.trainer.gradient_clip_val:
            if "clip_coefficient" not in known:
                raise ValueError(_NO_NORM.format(self.optimizer["name"]))
            # Filled in by the closure, which clips after it has the gradients.
            self._coefficient = arguments["clip_coefficient"] = torch.ones((), device=self.device)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None and "loss" in known:
            # A gradient scaler evaluates the closure itself and calls step without one.
            arguments["loss"] = total
        optimizer.step(closure=closure, **arguments)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._means.end_of_batch(stepped=self._stepped)
        if self._stepped:
            self._earlier, self._stepped = 0.0, False
            self._targets, self._first_targets, self._earlier_targets = None, None, 0
            return
        if self._targets is not None:
            self._earlier_targets = self._earlier_targets + self._targets
        if self._wants_loss and "loss" in outputs:
            self._earlier = self._earlier + outputs["loss"]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if self._coefficient is not None and gradient_clip_val:
            if (gradient_clip_algorithm or "norm") != "norm":
                raise ValueError(
                    f"norm_after_clipping: False needs clipping by norm, got {str(gradient_clip_algorithm)!r}"
                )
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            self._coefficient.copy_((gradient_clip_val / (norm + 1e-6)).clamp(max=1.0))
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.for_graphs():
            return super().__call__(*args, **kwargs)

    def for_graphs(self) -> AbstractContextManager[None]:
        """What the forward pass of a training step has around it."""
        # Only the reference has a backward pass that can be differentiated again.
        return backend("reference") if self._wants_graph and self.training else nullcontext()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            # Gradients are cleared at every step, which ends the cycle that torch warns of.
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            super().backward(loss, *args, **kwargs | ({"create_graph": True} if self._wants_graph else {}))
        if self._stepped:
            self._correct_gradients()

    def _correct_gradients(self) -> None:
        for parameter in self.parameters():
            if parameter.grad is None or (factor := self._correction(parameter.grad.dtype)) is None:
                continue
            if self._wants_graph:
                parameter.grad = parameter.grad * factor
            else:
                # Of sharded gradients each process has its part.
                getattr(parameter.grad, "to_local", lambda grad=parameter.grad: grad)().mul_(factor)


class StepMeans:
    """Means over the targets of a step, which come by micro-batches."""

    def __init__(self) -> None:
        self._earlier: Tensor | None = None
        self._sums: Tensor | None = None

    def add(
        self, sums: dict[str, Tensor], n_targets: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor] | None:
        """The means so far; None where the micro-batch was added before."""
        if self._sums is not None:
            return None
        dtype = torch.promote_types(next(iter(sums.values())).dtype, torch.float32)
        values = [value.detach().to(dtype) for value in (*sums.values(), n_targets)]
        self._sums = reduce(torch.stack(values))
        if self._earlier is not None:
            self._sums = self._sums + self._earlier
        *totals, count = self._sums.unbind()
        return {name: total / count.clamp_min(1) for name, total in zip(sums, totals, strict=True)}

    def end_of_batch(self, *, stepped: bool) -> None:
        """The next batch is of this step, or of another one."""
        self._earlier, self._sums = None if stepped else self._sums, None


def over_processes(trainer: Any, values: Tensor) -> Tensor:
    """The sum over all processes; `values` stay as they are."""
    if trainer.world_size == 1:
        return values
    values = values.clone()
    torch.distributed.all_reduce(values)  # the strategy's own would wait for the device
    return values


def _needs(optimizer: dict[str, Any]) -> str:
    base = optimizer.get("base")
    inner = {"name": base} if isinstance(base, str) else base
    own = get_optimizer(optimizer["name"]).needs
    return f"{own}, {_needs(inner)}" if isinstance(inner, dict) and "name" in inner else own
