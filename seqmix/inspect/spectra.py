"""Eigenvalues of a layer's transitions, and the layers of a model at work."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seqmix.inspect.mixing import linear_form
from seqmix.kernels.checks import describe
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.fp_mamba import FixedPointMamba

__all__ = ["eigenvalues", "mixers_of", "observe", "spectrum"]

T = TypeVar("T")


@torch.no_grad()
def eigenvalues(layer: TokenMixer, x: Tensor) -> Tensor:
    """All eigenvalues (B, T, E) of the transitions of `layer` at every token of x (B, T, d_model), complex.

    They are those in `layer.diagnostics(x)`, of all its heads, blocks or channels in one row; a decay that acts on a
    whole matrix counts once. `fp-mamba`, whose transition is a matrix of d_inner N rows, takes O(E^3) a token.

    Raises:
        ValueError: a layer without a transition of its own for each token: `attention`, `lstm`, and `gla` where decays
            and turns do not commute; an x that does not fit.

    Example:
        >>> import torch
        >>> from seqmix import BDLRU
        >>> from seqmix.inspect import eigenvalues
        >>> eigenvalues(BDLRU(16, block_size=4), torch.randn(3, 5, 16)).shape
        torch.Size([3, 5, 16])
    """
    if not isinstance(layer, TokenMixer):
        raise ValueError(f"eigenvalues: layer must be a TokenMixer, got a {type(layer).__name__}")
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[-1] != layer.d_model or 0 in x.shape:
        raise ValueError(
            f"eigenvalues: x must have shape (B, T, d_model = {layer.d_model}) and hold a token, got {describe(x)}"
        )
    found = spectrum(layer, x)
    if found is None:
        raise ValueError(f"eigenvalues: {type(layer).__name__} has no transition that belongs to a token")
    return found


@torch.no_grad()
def spectrum(layer: TokenMixer, x: Tensor) -> Tensor | None:
    """`eigenvalues`, or None for a layer that has none."""
    if isinstance(layer, FixedPointMamba):
        found: Tensor | None = linear_form(layer, x).eigenvalues()  # type: ignore[attr-defined]
    else:
        found = layer.diagnostics(x).get("eigenvalues")
    if found is None:
        return None
    found = found.flatten(2)
    return found if found.is_complex() else torch.complex(found, torch.zeros_like(found))


def mixers_of(module: nn.Module) -> dict[str, TokenMixer]:
    """The token mixers in `module` by name; of mixers made of mixers, the inner ones."""
    found = {name: each for name, each in module.named_modules() if isinstance(each, TokenMixer)}
    return {
        name: each for name, each in found.items() if not any(isinstance(m, TokenMixer) for m in [*each.modules()][1:])
    }


@torch.no_grad()
def observe(model: nn.Module, look: Callable[[TokenMixer, Tensor], T], *inputs: Any, **options: Any) -> dict[str, T]:
    """What `look(mixer, x)` says of every mixer in `model` while `model(*inputs, **options)` runs, by name.

    x (B, T, d_model) is what the mixer is given there. The model runs without dropout, and is as it was afterwards.

    Example:
        >>> import torch
        >>> from seqmix import SequenceModel
        >>> from seqmix.inspect import eigenvalues, observe
        >>> model = SequenceModel("mamba", vocab_size=3, d_model=8, n_layers=2)
        >>> found = observe(model, eigenvalues, torch.zeros(1, 5, dtype=torch.int64))
        >>> {name: values.shape for name, values in found.items()}
        {'blocks.0.mixer': torch.Size([1, 5, 256]), 'blocks.1.mixer': torch.Size([1, 5, 256])}
    """
    said: dict[str, T] = {}

    def note(name: str, mixer: TokenMixer, args: tuple[Any, ...]) -> None:
        # Inside the forward pass, where sharded parameters are whole.
        said[name] = look(mixer, args[0])

    mixers = mixers_of(model)
    training = {module: module.training for module in model.modules()}
    solves = {mixer: mixer.last_solve for mixer in mixers.values() if hasattr(mixer, "last_solve")}
    hooks = [mixer.register_forward_pre_hook(partial(note, name)) for name, mixer in mixers.items()]
    try:
        model.eval()
        model(*inputs, **options)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
        for mixer, solve in solves.items():
            mixer.last_solve = solve
    return said
