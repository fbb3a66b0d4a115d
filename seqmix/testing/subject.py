"""The layer under test, and the checks that a contract is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqmix.mixers.base import TokenMixer
from seqmix.mixers.registry import create_mixer
from seqmix.testing.comparison import inputs

__all__ = ["Check", "Factory", "Subject"]

Factory = str | Callable[..., TokenMixer]


@dataclass(frozen=True)
class Subject:
    """What builds the layer, as in the registry: `factory(d_model, dtype=...)`, or the name of a registered mixer."""

    factory: Callable[..., TokenMixer]
    d_model: int

    @classmethod
    def of(cls, factory: Factory, d_model: int) -> "Subject":
        """From a constructor or a registered name."""
        if isinstance(factory, str):
            return cls(partial(create_mixer, factory), d_model)
        if not callable(factory):
            raise ValueError(
                f"check_mixer: factory must be the name of a mixer or take (d_model, dtype=...), got {factory!r}"
            )
        return cls(factory, d_model)

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> TokenMixer:
        """The layer with the weights of this seed."""
        torch.manual_seed(seed)
        mixer = self.factory(self.d_model, dtype=dtype)
        if not isinstance(mixer, TokenMixer):
            raise ValueError(f"check_mixer: factory must build a TokenMixer, got a {type(mixer).__name__}")
        return mixer

    def inputs(self, batch: int, length: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """Normal x (B, T, d_model)."""
        return inputs(batch, length, dtype, seed, d_model=self.d_model)


@dataclass(frozen=True)
class Check:
    """One promise of the contract. Called with what builds a layer it raises `AssertionError` where that breaks it.

    Other errors come from the layer itself.
    """

    name: str
    run: Callable[[Subject], None]

    def __call__(self, factory: Factory, d_model: int = 16) -> None:
        # The caller's random numbers stay what they were.
        with torch.random.fork_rng(devices=[]):
            self.run(Subject.of(factory, d_model))

    def __str__(self) -> str:
        return self.name


def checks(function: Callable[..., None], cases: dict[str, dict[str, Any]] | None = None) -> list[Check]:
    """A check for each case: `function(subject, **arguments)`, named after both; without cases the function alone."""
    name = function.__name__.replace("_", "-")
    if cases is None:
        return [Check(name, function)]
    return [Check(f"{name}[{case}]", partial(function, **arguments)) for case, arguments in cases.items()]
