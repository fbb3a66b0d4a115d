"""Averages of weights along a run: the latest few snapshots (LAWA), and what to do with saved ones.

With a snapshot every nu steps, LAWA is the plain mean of the last L of them (of all, while there are fewer); it forgets
what is older, which the cumulative mean of `torch.optim.swa_utils` does not. A window nu L of about 1 % of the steps of
a run is a good one, nu 64 to 128 and L 20 good values. Source: 2502.06761. The exponential average is torch's own,
`AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))`; its memory is nu / (1 - decay) steps.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seqmix._checks import positive

__all__ = ["LatestAverage", "average_state_dicts"]


class LatestAverage(AveragedModel):
    """The mean of the last `size` snapshots of a model; the state has them all, oldest first.

    Args:
        model: whose weights are averaged; it is copied.
        size: snapshots kept, L; memory is L + 1 copies of the parameters.
        device: where snapshots and mean are, `"cpu"` to save memory of an accelerator; None for that of the model.

    Raises:
        ValueError: a size that is no positive integer.

    Example:
        >>> import torch
        >>> from seqmix.optim import LatestAverage
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> average = LatestAverage(model, size=2)
        >>> for value in (1.0, 2.0, 4.0):
        ...     _ = torch.nn.init.constant_(model.weight, value)
        ...     average.update_parameters(model)
        >>> average.module.weight.item()
        3.0
    """

    def __init__(self, model: nn.Module, size: int, device: torch.device | str | int | None = None) -> None:
        positive("LatestAverage", "size", size)
        super().__init__(model, device=device)  # type: ignore[arg-type]
        self.queue: deque[list[Tensor]] = deque(maxlen=size)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a snapshot of `model`, drop the oldest beyond `size`, and average."""
        averaged = list(self.module.parameters())
        pairs = zip(model.parameters(), averaged, strict=True)
        self.queue.append([p.detach().to(mean.device, copy=True) for p, mean in pairs])
        # Summed anew: a running sum would drift.
        for mean, snapshots in zip(averaged, zip(*self.queue, strict=True), strict=True):
            total = snapshots[0].clone()
            for snapshot in snapshots[1:]:
                total += snapshot
            mean.copy_(total / len(snapshots))
        for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
        self.n_averaged += 1

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LatestAverage":
        super()._apply(fn, recurse)
        for snapshot in self.queue:
            snapshot[:] = map(fn, snapshot)
        return self

    def start_again(self) -> None:
        """Forget all snapshots."""
        self.queue.clear()
        self.n_averaged.zero_()

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue": [list(snapshot) for snapshot in self.queue]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        devices = [p.device for p in self.module.parameters()]
        self.queue.clear()
        for snapshot in state["queue"]:
            self.queue.append([p.to(device, copy=True) for p, device in zip(snapshot, devices, strict=True)])


def average_state_dicts(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """The weighted mean of state dicts, by default the plain one, summed in float64; integers are those of the last.

    Raises:
        ValueError: no states, weights that do not sum to a positive number, or names and shapes that differ.
    """
    if not states:
        raise ValueError("average_state_dicts: states must hold at least one, got none")
    weights = [1.0] * len(states) if weights is None else list(weights)
    if len(weights) != len(states) or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError(
            f"average_state_dicts: weights must be {len(states)} numbers of at least 0, not all 0, got {weights!r}"
        )
    last = states[-1]
    for index, state in enumerate(states):
        different = sorted(set(state) ^ set(last)) or [n for n in last if state[n].shape != last[n].shape]
        if different:
            raise ValueError(
                f"average_state_dicts: state {index} and the last one differ in {', '.join(different[:5])}"
            )
    result = {}
    for name, tensor in last.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            result[name] = tensor.clone()
            continue
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        total = torch.zeros_like(tensor, dtype=wide)
        for state, weight in zip(states, weights, strict=True):
            total += state[name].to(wide) * (weight / sum(weights))
        result[name] = total.to(tensor.dtype)
    return result
