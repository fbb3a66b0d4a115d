"""Heads and embeddings by name: what `head: {name: classification, n_classes: 10}` in a config looks up."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from seqmix._suggest import unknown_name
from seqmix.models.autoencoder import AutoencoderHead
from seqmix.models.classification import ClassificationHead
from seqmix.models.intensity import IntensityEmbedding

__all__ = ["EMBEDDINGS", "HEADS", "build_part", "part_of"]

# None: what the model has by itself, a logit for each token at each position, and a vector for each token.
HEADS: dict[str, Callable[..., nn.Module] | None] = {
    "language": None,
    "classification": ClassificationHead,
    "autoencoder": AutoencoderHead,
}
EMBEDDINGS: dict[str, Callable[..., nn.Module] | None] = {"tokens": None, "intensity": IntensityEmbedding}
_GIVEN = ("d_model", "vocab_size", "device", "dtype")  # by the model


def part_of(kind: str, spec: Any, default: str) -> dict[str, Any]:
    """`{name: ..., arguments}` of a name, of itself, or of None; unknown names and arguments raise `ValueError`."""
    known = HEADS if kind == "head" else EMBEDDINGS
    spec = {"name": default if spec is None else spec} if spec is None or isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise ValueError(f"SequenceModel: {kind} must be a name or {{name: ..., arguments}}, got {spec!r}")
    if spec["name"] not in [*known]:
        raise unknown_name(kind, spec["name"], known)
    constructor = known[spec["name"]]
    arguments = {} if constructor is None else inspect.signature(constructor).parameters
    for key in spec:
        if key != "name" and (key not in arguments or key in _GIVEN):
            raise unknown_name(f"argument of {kind} {spec['name']!r}:", key, set(arguments) - {*_GIVEN})
    missing = [
        name
        for name, parameter in arguments.items()
        if name not in (*spec, *_GIVEN) and parameter.default is inspect.Parameter.empty
    ]
    if missing:
        raise ValueError(f"SequenceModel: {kind} {spec['name']!r} needs {', '.join(missing)}, got {dict(spec)!r}")
    return dict(spec)


def build_part(kind: str, spec: dict[str, Any], d_model: int, vocab_size: int, **like: Any) -> nn.Module | None:
    """The module of a checked entry; None for the model's own."""
    constructor = (HEADS if kind == "head" else EMBEDDINGS)[spec["name"]]
    if constructor is None:
        return None
    given = {"d_model": d_model, "vocab_size": vocab_size}
    known = inspect.signature(constructor).parameters
    arguments = {key: value for key, value in spec.items() if key != "name"}
    return constructor(**{key: value for key, value in given.items() if key in known}, **arguments, **like)
