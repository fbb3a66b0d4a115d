"""What every optimizer made by name keeps, whoever wrote it: rate 0 moves nothing, and states are plain values.

Both are hooks of the instance. Rate 0 is what a distributed checkpoint steps a new optimizer with, to learn what its
state looks like, and where warm-ups begin; momentum, noise and projections would move parameters there as well.
"""

import sys
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from seqmix.optim.base import at_rest

__all__ = ["keep_plain", "leave_alone"]

_OBJECT = "object of"
_LIBRARY = "pytorch_optimizer"


def leave_alone(optimizer: Optimizer, *, divides_by_rate: bool = False) -> None:
    """Parameters of groups whose rate is 0 stay where they are; what a step keeps of their gradients is its business.

    `divides_by_rate`: that step could not take them, and does not see them.
    """
    resting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        still = [p for group in optimizer.param_groups if at_rest(group) for p in group["params"]]
        resting[:] = [(p, p.detach().clone(), None) for p in still]
        if not (still and divides_by_rate):
            return None
        resting[:] = [(p, kept, p.grad) for p, kept, _ in resting]
        _drop(still)
        given = kwargs.get("closure", args[1] if len(args) > 1 else None)  # args begin with the optimizer
        return (optimizer,), {"closure": None if given is None else _then(given, lambda: _drop(still))}

    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for p, kept, grad in resting:
                p.copy_(kept)
                p.grad = p.grad if grad is None else grad
        resting.clear()

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)


def keep_plain(optimizer: Optimizer) -> None:
    """`state_dict` is tensors and plain values, which need no pickled classes; loading puts them together again."""
    load = optimizer.load_state_dict

    def load_plain(state_dict: dict[str, Any]) -> None:
        load(_assembled(optimizer, state_dict))

    optimizer.register_state_dict_post_hook(lambda _, state_dict: plain(state_dict))
    optimizer.load_state_dict = load_plain  # type: ignore[method-assign]


def _drop(params: list[Tensor]) -> None:
    for p in params:
        p.grad = None


def _then(closure: Callable[[], Any], do: Callable[[], None]) -> Callable[[], Any]:
    def both() -> Any:
        result = closure()
        do()
        return result

    return both


def plain(value: Any) -> Any:
    """`value` with queues, enumerations and objects of pytorch-optimizer as dicts that say of what class they are."""
    if isinstance(value, Enum):
        return {_OBJECT: _name(value), "value": value.value}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, deque):
        return {_OBJECT: "deque", "items": [plain(item) for item in value], "maxlen": value.maxlen}
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value).__module__.partition(".")[0] == _LIBRARY:
        return {_OBJECT: _name(value), "fields": plain(vars(value))}
    return value


def _name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _objects(value: Any, device: torch.device | None = None) -> Any:
    """What `plain` took apart; tensors of objects go to the device."""
    if type(value) in (list, tuple):
        return type(value)(_objects(item, device) for item in value)
    if not isinstance(value, dict):
        return value
    if _OBJECT not in value:
        return {key: _objects(item, device) for key, item in value.items()}
    if value[_OBJECT] == "deque":
        return deque(_objects(value["items"], device), value["maxlen"])
    kind = _class(value[_OBJECT])
    if "value" in value:
        return kind(value["value"])
    made = object.__new__(kind)
    made.__dict__.update(tree_map_only(Tensor, lambda t: t.to(device, copy=True), _objects(value["fields"], device)))
    return made


def _class(name: str) -> Any:
    # Of what the optimizer's own library has imported: nothing that a checkpoint names is.
    module, _, path = name.partition(":")
    found = getattr(sys.modules.get(module), path, None) if module.partition(".")[0] == _LIBRARY else None
    if not isinstance(found, type):
        raise ValueError(f"state_dict: objects must be of classes of {_LIBRARY}, got {name!r}")
    return found


def _assembled(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    there = [p for group in optimizer.param_groups for p in group["params"]]
    ids = [index for group in saved["param_groups"] for index in group["params"]]
    devices = {index: p.device for index, p in zip(ids, there, strict=False)}  # that they fit is checked by who loads
    state = {key: _objects(value, devices.get(key)) for key, value in saved["state"].items()}
    return {**saved, "state": state, "param_groups": [_objects(group) for group in saved["param_groups"]]}
