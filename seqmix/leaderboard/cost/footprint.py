"""What a model keeps between tokens, in bytes, and how long it takes over one."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seqmix.models import SequenceModel

__all__ = ["decode_milliseconds", "state_bytes", "state_size"]

_TOKENS = 16  # that are timed, after a quarter as many that are not


def state_size(model: SequenceModel, sequence_length: int) -> int | None:
    """Real numbers kept per sequence; None where a layer does not say how many."""
    try:
        return model.state_size(sequence_length)
    except NotImplementedError:
        return None


def state_bytes(model: SequenceModel, state: Any, sequence_length: int) -> int | None:
    """Bytes of the state of one sequence after `sequence_length` tokens, over all layers; None where it is not kept.

    Args:
        model: a model.
        state: what it returned for one sequence of one token, which shows the types; counters do not count.
        sequence_length: at least 1.
    """
    if state_size(model, 1) != sum(_reals(leaf) for leaf in _kept(state)):
        return None  # layers that see whole sequences only
    total = 0
    for mixer, kept in zip(model.mixers, state.layers, strict=True):
        leaves = list(_kept(kept))
        total += sum(leaf.nbytes for leaf in leaves)
        # What grows with the sequence, keys and values, has one type.
        grown = mixer.state_size(sequence_length) - mixer.state_size(1)
        total += grown * max((leaf.nbytes // _reals(leaf) for leaf in leaves if leaf.numel()), default=0)
    return total


def decode_milliseconds(model: SequenceModel) -> float | None:
    """Median wall-clock milliseconds of a step with one sequence; None for a model that cannot go token by token."""
    if model.head_name != "language" or model.bidirectional:
        return None
    token = torch.zeros(1, dtype=torch.int64, device=next(model.parameters()).device)
    state: Any = model.init_state(1)
    seconds = []
    with torch.inference_mode():
        for _ in range(_TOKENS + _TOKENS // 4):
            begin = time.perf_counter()
            try:
                logits, state = model.step(token, state)
            except NotImplementedError:
                return None
            logits.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds[-_TOKENS:])


def _reals(leaf: Tensor) -> int:
    return leaf.numel() * (2 if leaf.is_complex() else 1)


def _kept(state: Any) -> Iterator[Tensor]:
    if not isinstance(state, Tensor):
        for part in state:
            yield from _kept(part)
    elif state.is_floating_point() or state.is_complex():
        yield state
