"""The mixers that `seqmix bench layers` and `seqmix bench decode` run, with their arguments and sizes."""

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from seqmix._suggest import unknown_name
from seqmix.mixers import TokenMixer, create_mixer, list_mixers

# What is not the default of a mixer's constructor.
ARGUMENTS: dict[str, dict[str, Any]] = {"bd-lru": {"block_size": 4}, "h-lru": {"order": 4}}


# Of the largest number: parallel pass and step differ by rounding alone.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class WrongNumbers(Exception):
    """A layer disagrees with itself; its time means nothing."""


@dataclass(frozen=True)
class Shape:
    """Batch, tokens and width that layers are run at."""

    batch: int = 16
    length: int = 512
    d_model: int = 128


def select_mixers(patterns: str | None) -> list[str]:
    """Names of the mixers that match any of the comma-separated shell `patterns`; none given means all."""
    names = list_mixers()
    if patterns is None:
        return names
    chosen: list[str] = []
    for pattern in patterns.split(","):
        matches = fnmatch.filter(names, pattern.strip())
        if not matches:
            raise unknown_name("mixer for --only", pattern, names)
        chosen += [name for name in matches if name not in chosen]
    return chosen


def row_of(name: str, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """What the row of a mixer says before it has run."""
    return {
        "mixer": name,
        "arguments": ARGUMENTS.get(name, {}),
        "sizes": {"B": shape.batch, "T": shape.length, "d_model": shape.d_model},
        "dtype": str(dtype).removeprefix("torch."),
    }


def build(name: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> TokenMixer:
    """A mixer with the same parameters in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_mixer(name, shape.d_model, device=device, dtype=dtype, **ARGUMENTS.get(name, {}))


def one_token(
    layer: TokenMixer, length: int, batch: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A call of `layer.step` on `batch` sequences after a prefix of `length` tokens, from the same state every time.

    Raises `WrongNumbers` unless its output is that of the whole sequence passed at once.
    """
    generator = torch.Generator().manual_seed(2)
    prefix = torch.randn((batch, length, layer.d_model), generator=generator).to(device, dtype)
    token = torch.randn((batch, layer.d_model), generator=generator).to(device, dtype)
    with torch.no_grad():
        _, state = layer(prefix)
        whole, _ = layer(torch.cat((prefix, token[:, None]), dim=1))
        stepped, _ = layer.step(token, state)
        error, largest = (stepped - whole[:, -1]).abs().max().item(), whole[:, -1].abs().max().item()
    allowed = _TOLERANCE[dtype] * largest
    if not error <= allowed:
        raise WrongNumbers(
            f"step() after {length} tokens is {error:.3g} off the parallel pass, allowed is {allowed:.3g}"
        )

    @torch.no_grad()
    def call() -> object:
        return layer.step(token, state)

    return call
