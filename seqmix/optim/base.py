"""What our optimizers share: groups checked by value, tensors in blocks for foreach ops, norms of sharded tensors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from seqmix._checks import is_number

__all__ = [
    "SLICE",
    "BaseOptimizer",
    "Closure",
    "at_rest",
    "blocks",
    "check_at_least",
    "check_betas",
    "check_share",
    "count_step",
    "evaluate",
    "local",
    "never_zero",
    "shrink",
]

Closure = Callable[[], Any] | None

SLICE = 1 << 16  # elements; five arrays of them in float32 are 1.3 MB


class BaseOptimizer(Optimizer):
    """A torch optimizer that checks each group when it comes and says by name what it cannot take.

    Real dense parameters of any floating type; states have the parameter's type. `foreach` (one call for many tensors)
    or one tensor after the other, which needs less memory, is a key of each group. No step waits for the device.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        """`ValueError` for a value out of range or a parameter that this optimizer cannot take."""
        owner, lr = type(self).__name__, group["lr"]
        if isinstance(lr, Tensor) and (lr.numel() != 1 or lr.device.type != "cpu"):
            raise ValueError(f"{owner}: a tensor lr must have one element on the CPU, got {lr.numel()} on {lr.device}")
        check_at_least(owner, 0, lr=lr, weight_decay=group.get("weight_decay", 0.0))
        for p in group["params"]:
            if p.is_complex():
                raise ValueError(f"{owner}: parameters must be real (store pairs), got {p.dtype} of {tuple(p.shape)}")

    def _active(self, group: dict[str, Any]) -> list[Tensor]:
        """Parameters of a group with a gradient, their states begun."""
        active = [p for p in group["params"] if p.grad is not None]
        for p in active:
            if p.grad.layout is not torch.strided:
                raise ValueError(f"{type(self).__name__}: gradients must be dense, got {p.grad.layout}")
        for p in active:
            if not self.state[p]:
                self._begin(p, group)
        return active

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        """Fill `self.state[p]` before its first step."""

    def _buffers(self, params: list[Tensor], key: str) -> list[Tensor]:
        """`state[key]` of each parameter, zeros where it is new."""
        for p in params:
            if key not in self.state[p]:
                self.state[p][key] = torch.zeros_like(p)
        return [self.state[p][key] for p in params]


def at_rest(group: dict[str, Any]) -> bool:
    """Whether the learning rate of a group is 0."""
    rate = group.get("lr")
    # A rate on a GPU would have to be waited for.
    return rate is not None and not (isinstance(rate, Tensor) and rate.device.type != "cpu") and bool(rate == 0)


def blocks(group: dict[str, Any], params: list[Tensor], *companions: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Lists (parameters, gradients, *companions) for foreach calls; a companion has an item for each parameter.

    Tensors of one device and type go together. On a CPU they come in slices that stay in cache, temporaries included:
    a temporary as large as the model costs ten times the arithmetic there. Gradients change sign for `maximize`.
    """
    kinds: dict[Any, list[tuple[Any, ...]]] = {}
    for index, row in enumerate(zip(params, [p.grad for p in params], *companions, strict=True)):
        p, grad = row[:2]
        kinds.setdefault((p.device, p.dtype, grad.dtype) if group["foreach"] else index, []).append(row)
    for key, rows in kinds.items():
        sliced = isinstance(key, tuple) and key[0].type == "cpu"
        for block in _slices(rows) if sliced else [rows]:
            columns = [list(column) for column in zip(*block, strict=True)]
            if group.get("maximize"):
                columns[1] = list(torch._foreach_neg(columns[1]))
            yield tuple(columns)


def _slices(rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    block: list[tuple[Any, ...]] = []
    filled = 0
    for row in rows:
        tensors = [item for item in row if isinstance(item, Tensor) and item.dim()]
        pieces = [row]
        if row[0].numel() > SLICE and all(t.is_contiguous() and not hasattr(t, "full_tensor") for t in tensors):
            parts = [item.view(-1).split(SLICE) if isinstance(item, Tensor) and item.dim() else item for item in row]
            count = len(parts[0])
            columns = [part if isinstance(part, tuple) else [part] * count for part in parts]
            pieces = list(zip(*columns, strict=True))
        for piece in pieces:
            block.append(piece)
            filled += piece[0].numel()
            if filled >= SLICE:
                yield block
                block, filled = [], 0
    if block:
        yield block


def evaluate(closure: Closure) -> Any:
    """The closure's loss, computed with gradients on; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def local(tensor: Tensor) -> Tensor:
    """A plain tensor on this rank: of a sharded one (DTensor) the whole value, summed over the ranks."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def count_step(states: list[dict[str, Any]]) -> None:
    """One more in the `step` of every state; these live on the CPU, where reading them waits for nothing."""
    if states:
        torch._foreach_add_([state["step"] for state in states], 1)


def shrink(tensors: list[Tensor], share: float) -> None:
    """tensors *= 1 - share, decoupled weight decay."""
    if share:
        torch._foreach_mul_(tensors, 1 - share)


def never_zero(eps: float, dtype: torch.dtype) -> float:
    """`eps`, or what keeps 0 / (0 + eps) from being NaN where `dtype` holds no number as small."""
    return max(eps, torch.finfo(dtype).tiny)


def check_at_least(owner: str, low: float, **values: Any) -> None:
    """`ValueError` unless every value is a number of at least `low`."""
    for name, value in values.items():
        if not (is_number(value) or isinstance(value, Tensor)) or not value >= low:
            raise ValueError(f"{owner}: {name} must be at least {low}, got {value!r}")


def check_share(owner: str, **values: Any) -> None:
    """`ValueError` unless every value, or member of a sequence, lies in [0, 1)."""
    for name, value in values.items():
        for item in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
            if not is_number(item) or not 0 <= item < 1:
                raise ValueError(f"{owner}: {name} must be in [0, 1), got {value!r}")


def check_betas(owner: str, betas: Any) -> None:
    """`ValueError` unless `betas` are two numbers in [0, 1)."""
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise ValueError(f"{owner}: betas must be two numbers, got {betas!r}")
    check_share(owner, betas=betas)
