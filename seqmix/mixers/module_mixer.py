"""`ModuleMixer`: any `nn.Module` from (B, T, D) to (B, T, D) in the place of a mixer."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake

from seqmix._suggest import unknown_name
from seqmix.kernels.transforms import is_transformed
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.state import Device, DType, mixer_state

__all__ = ["ModuleMixer", "ModuleState"]

# What constructors call their width, in the order in which they are looked for.
_WIDTHS = ("d_model", "hidden_size", "dim", "embed_dim", "n_embd", "d_embed", "input_size", "features", "width")
_TRIED, _CHANGED = 12, 7  # tokens of the trial, and the first that is changed
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


@mixer_state
class ModuleState(NamedTuple):
    """Nothing: the module is only ever asked about whole sequences."""


class ModuleMixer(TokenMixer):
    """A module of somebody else as a mixer. It sees whole sequences; packed ones are padded at their ends.

    The first call looks whether the module is one: y has the shape of x, y_t does not depend on tokens after t, nor on
    other sequences of the batch. The module is in training mode then, as it is when it learns, with the same dropout.

    Args:
        d_model: width.
        module: class or function that builds the module; called with the width (as `d_model`, `hidden_size`, `dim` or
            another usual name that it has, else as its first argument) and with `kwargs`.
        state_size: real numbers that it would keep per sequence while it decodes; None where that is unknown, unless
            the module has a `state_size` of its own.
        kwargs: its other arguments.

    Shapes: x and y (B, T, d_model); the module may return a tuple that begins with y, as fla's layers do.

    Raises:
        ValueError: an argument that the constructor does not have (with the nearest names), or a module that is not
            causal, mixes sequences, or returns something else.
        NotImplementedError: a state is given, or asked for the size of one that is unknown.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Shift(nn.Module):
        ...     def __init__(self, dim):
        ...         super().__init__()
        ...         self.proj = nn.Linear(dim, dim)
        ...     def forward(self, x):
        ...         return self.proj(nn.functional.pad(x, (0, 0, 1, -1)))
        >>> y, _ = ModuleMixer(8, module=Shift)(torch.randn(2, 5, 8))
        >>> y.shape
        torch.Size([2, 5, 8])
    """

    State = ModuleState

    def __init__(
        self,
        d_model: int,
        *,
        module: Callable[..., nn.Module],
        state_size: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(d_model)
        name = getattr(module, "__name__", repr(module))
        if state_size is not None and (not isinstance(state_size, int) or state_size < 0):
            raise ValueError(f"{name}: state_size must be a number of at least 0 or null, got {state_size!r}")
        built = _build(name, module, d_model, kwargs)
        if not isinstance(built, nn.Module):
            raise ValueError(f"{name}: expected a class or function that builds an nn.Module, got {built!r:.80}")
        self.module = built.to(device=device, dtype=dtype)
        self._state_size, self._tried = state_size, False

    def forward(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, ModuleState]:
        if state is not None and not isinstance(state, ModuleState):
            raise ValueError(f"{self._name}: state must be None, got a {type(state).__name__}")
        if state is not None:
            raise NotImplementedError(f"{self._name}: a module without a state takes whole sequences only, no state")
        return super().forward(x, None, cu_seqlens=cu_seqlens, lengths=lengths)

    def mix(self, x: Tensor, state: Any, cu_seqlens: Tensor | None) -> tuple[Tensor, ModuleState]:
        if not self._tried and _has_numbers(x):
            self._try(x)
        if cu_seqlens is None:
            return self._output(self.module, x), ModuleState()
        # One sequence to a row; what is behind its end no causal module sees.
        lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).tolist()
        padded = nn.utils.rnn.pad_sequence(list(x[0].split(lengths)), batch_first=True)
        y = self._output(self.module, padded)
        return torch.cat([row[:length] for row, length in zip(y, lengths, strict=True)]).unsqueeze(0), ModuleState()

    def mix_padded(self, x: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, ModuleState]:
        """`mix`: a causal module does not see padding at the end, and keeps nothing behind it."""
        return self.mix(x, state, None)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, ModuleState]:
        raise NotImplementedError(f"{self._name}: a module without a state cannot go token by token")

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> ModuleState:
        return ModuleState()

    def state_size(self, sequence_length: int = 1) -> int:
        """What was given, or what the module says of itself; `NotImplementedError` if neither is known."""
        if self._state_size is not None:
            return self._state_size
        own = getattr(self.module, "state_size", None)
        if callable(own):
            takes = "sequence_length" in inspect.signature(own).parameters
            return int(own(sequence_length=sequence_length) if takes else own())
        if isinstance(own, int):
            return own
        raise NotImplementedError(f"{self._name}: its state's size is unknown; give state_size, numbers per sequence")

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    def _output(self, module: nn.Module, x: Tensor) -> Tensor:
        y = module(x)
        y = y[0] if isinstance(y, tuple | list) and y else y
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise ValueError(
                f"{self._name}: must return a tensor of the shape of x, (B, T, D) = {tuple(x.shape)}, alone or first "
                f"in a tuple, got {got}"
            )
        return y

    def _try(self, like: Tensor) -> None:
        # On a copy: buffers of the module, batch statistics among them, stay as they are.
        module = copy.deepcopy(self.module).train()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, _TRIED, self.d_model, generator=generator).to(like.device, like.dtype)
        later, other = x.clone(), x.clone()
        later[:, _CHANGED:] += 1
        other[1] += 1
        devices = [like.device] if like.device.type == "cuda" else []

        def output(tokens: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                torch.manual_seed(0)
                try:
                    return self._output(module, tokens)
                except TypeError as error:
                    raise ValueError(f"{self._name}: must be callable as module(x): {error}") from None

        before = output(x)
        if not bool(torch.isfinite(before).all()):
            raise ValueError(f"{self._name}: returns numbers that are not finite for x of N(0, 1)")
        limit = _TOLERANCE.get(like.dtype, 0.05) * max(1e-6, float(before.abs().max()))
        seen = (output(later) - before)[:, :_CHANGED].abs().amax(dim=(0, 2)) > limit
        if bool(seen.any()):
            first = int(seen.to(torch.int64).argmax())
            raise ValueError(
                f"{self._name}: looks into the future: its output at position {first} changes with the input at "
                f"positions {_CHANGED} and later; a mixer must be causal"
            )
        if bool((output(other) - before)[0].abs().max() > limit):
            raise ValueError(f"{self._name}: the output of one sequence changes with another one of the batch")
        self._tried = True


def _has_numbers(x: Tensor) -> bool:
    # Where shapes alone are followed, to count operations, there is nothing to compare.
    return not (torch.compiler.is_compiling() or x.is_meta or is_fake(x) or is_transformed(x))


def _build(name: str, module: Callable[..., nn.Module], d_model: int, kwargs: dict[str, Any]) -> Any:
    parameters = inspect.signature(module).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key in kwargs:
        if key not in parameters and not anything:
            raise unknown_name(f"argument of {name}:", key, set(parameters) - set(_WIDTHS))
    width = next((word for word in _WIDTHS if word in parameters), None)
    if width in kwargs:
        raise ValueError(f"{name}: {width} is the model's width, {d_model}, and no argument; got {kwargs[width]!r}")
    try:
        return module(**{width: d_model}, **kwargs) if width else module(d_model, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
