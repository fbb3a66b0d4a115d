"""What an optimizer's closure returns and does under Lightning: the loss of a whole step, and second derivatives.

Lightning's own closure returns the loss of the last micro-batch of this process over the number of micro-batches. Here
it is the mean over the micro-batches and processes, the number whose gradient the parameters hold when the step is
taken: `.grad` is averaged over both as well, and penalties are in both.
"""

import inspect
import warnings
from collections.abc import Callable
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
        self._stepped = False
        self._coefficient: Tensor | None = None

    def configure_callbacks(self) -> list[Callback]:
        """What the optimizer needs beside its steps."""
        return [OptimizerModes()] if "train() and eval()" in _needs(self.optimizer) else []

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        self._stepped = True
        if not self._wants_loss or optimizer_closure is None:
            optimizer.step(closure=optimizer_closure)
            return
        evaluations, total = 0, torch.zeros((), device=self.device)

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            if evaluations > 1 and isinstance(self._earlier, Tensor):
                raise ValueError(
                    f"optimizer {self.optimizer['name']!r} evaluates the loss more than once a step, which needs "
                    "trainer.accumulate_grad_batches = 1"
                )
            loss = optimizer_closure() + self._earlier
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
        if self._stepped:
            self._earlier, self._stepped = 0.0, False
        elif self._wants_loss and "loss" in outputs:
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
        if not (self._wants_graph and self.training):
            return super().__call__(*args, **kwargs)
        # Only the reference has a backward pass that can be differentiated again.
        with backend("reference"):
            return super().__call__(*args, **kwargs)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not self._wants_graph:
            super().backward(loss, *args, **kwargs)
            return
        with warnings.catch_warnings():
            # Gradients are cleared at every step, which ends the cycle that torch warns of.
            warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
            super().backward(loss, *args, **kwargs | {"create_graph": True})


def _needs(optimizer: dict[str, Any]) -> str:
    base = optimizer.get("base")
    inner = {"name": base} if isinstance(base, str) else base
    own = get_optimizer(optimizer["name"]).needs
    return f"{own}, {_needs(inner)}" if isinstance(inner, dict) and "name" in inner else own
