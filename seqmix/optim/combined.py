"""Several optimizers as one, each with its own parameter groups: Muown on the matrices and AdamW on the rest."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Combined"]


class Combined(Optimizer):
    """Optimizers over disjoint parameters behind one interface: one step, one state dict, one list of groups.

    Groups and state are shared with the parts, so schedulers, hooks and checkpoints work as with one optimizer. Each
    group's `part` says who takes it. A group added later without a `part` goes to the last of them.

    Args:
        parts: optimizers by name, in the order in which they step.

    Raises:
        ValueError: no parts, or a parameter given to two of them.

    Example:
        >>> import torch
        >>> from seqmix.optim import Combined
        >>> layer = torch.nn.Linear(2, 2)
        >>> parts = {"muon": torch.optim.Muon([layer.weight]), "adamw": torch.optim.AdamW([layer.bias])}
        >>> [group["part"] for group in Combined(parts).param_groups]
        ['muon', 'adamw']
    """

    def __init__(self, parts: Mapping[str, Optimizer]) -> None:
        if not parts:
            raise ValueError("Combined: parts must hold at least one optimizer, got none")
        self.parts: dict[str, Optimizer] = {}
        groups = []
        for name, part in parts.items():
            for group in part.param_groups:
                group["part"] = name
                groups.append(group)
        super().__init__(groups, {})
        self.parts = dict(parts)
        self.defaults = dict(next(iter(parts.values())).defaults)
        for part in parts.values():
            self.state.update(part.state)
        self._link()

    def _link(self) -> None:
        for name, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.state = self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.parts:
            part = param_group.setdefault("part", list(self.parts)[-1])
            if part not in self.parts:
                raise ValueError(f"Combined: part must be one of {', '.join(self.parts)}, got {part!r}")
            before = len(self.parts[part].param_groups)
            self.parts[part].add_param_group(param_group)
            param_group = self.parts[part].param_groups.pop(before)
        super().add_param_group(param_group)
        if self.parts:
            self._link()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.parts:
            self._link()
            for part in self.parts.values():
                part.__setstate__({"state": self.state, "param_groups": part.param_groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:  # type: ignore[override]
        """One step of every part; `closure`, if given, is called once, before the first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none)
