"""Checks that bad input is told by name, before work starts."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqmix.mixers.base import TokenMixer
from seqmix.testing.comparison import is_float, offsets
from seqmix.testing.subject import Subject, checks

__all__ = ["CHECKS"]


class _Foreign(NamedTuple):
    h: Tensor


def _resized(state: Any) -> Any:
    return pytree.tree_map(lambda leaf: torch.cat((leaf, leaf[..., :1]), -1) if is_float(leaf) else leaf, state)


_CASES: dict[str, tuple[Callable[[TokenMixer, Any], Any], str]] = {
    "T = 0": (lambda m, x: m(x[:, :0]), "x must hold at least one token"),
    "width": (lambda m, x: m(x[..., :-1]), "x must have shape"),
    "rank 2": (lambda m, x: m(x[0]), "x must have shape"),
    "rank 4": (lambda m, x: m(x[None]), "x must have shape"),
    "integers": (lambda m, x: m(x.long()), "x must be real floating"),
    "complex": (lambda m, x: m(x + 0j), "x must be real floating"),
    "a list": (lambda m, x: m(x.tolist()), "x must have shape"),
    "double into single": (lambda m, x: m.float()(x.double()), "x must be torch.float32 like the parameters"),
    "half into double": (lambda m, x: m.double()(x.half()), "x must be torch.float64 like the parameters"),
    "device": (lambda m, x: m(x.to("meta")), "x must be on cpu"),
    "step with time": (lambda m, x: m.step(x, m.init_state(2)), "x must have shape"),
    "state of another": (lambda m, x: m(x, _Foreign(x[:, 0])), "state must be a"),
    "a bare tensor": (lambda m, x: m(x, x[:, 0]), "state must be a"),
    "state batch": (lambda m, x: m(x, m.init_state(3)), r"state\.\w+ must hold 2 sequences, got 3"),
    "lengths": (lambda m, x: m(x, lengths=torch.tensor([0, 1])), r"lengths must be in \[1, T = \d+\], got 0"),
    "state width": (lambda m, x: m(x, _resized(m.init_state(2))), "state"),
    "state device": (lambda m, x: m(x, m.init_state(2, device="meta")), "state.* meta"),
    "packed state batch": (
        lambda m, x: m(x[:1], m.init_state(1), cu_seqlens=offsets([2, 3])),
        r"state\.\w+ must hold 2 sequences, got 1",
    ),
    "offsets start": (lambda m, x: m(x[:1], cu_seqlens=offsets([2, 3]) + 1), "cu_seqlens must start at 0"),
    "offsets end": (lambda m, x: m(x[:1], cu_seqlens=offsets([2, 2])), "cu_seqlens must end at T = 5"),
    "offsets too far": (lambda m, x: m(x[:1], cu_seqlens=offsets([2, 4])), "cu_seqlens must end at T = 5"),
    "offsets falling": (lambda m, x: m(x[:1], cu_seqlens=offsets([4, -1, 2])), "cu_seqlens must not decrease"),
    "offsets with B = 2": (lambda m, x: m(x, cu_seqlens=offsets([2, 3])), "cu_seqlens.* B = 2"),
    "offsets int64": (lambda m, x: m(x[:1], cu_seqlens=offsets([2, 3]).long()), "cu_seqlens must be an int32"),
    "offsets 2-D": (lambda m, x: m(x[:1], cu_seqlens=offsets([2, 3])[None]), "cu_seqlens must be an int32"),
    "offsets list": (lambda m, x: m(x[:1], cu_seqlens=[0, 5]), "cu_seqlens must be an int32"),
    "no sequence": (lambda m, x: m(x[:1], cu_seqlens=offsets([])), "cu_seqlens must hold"),
    "offsets on another device": (
        lambda m, x: m(x[:1], cu_seqlens=offsets([2, 3]).to("meta")),
        "cu_seqlens must be on cpu",
    ),
}


def _expect_error(call: Callable[[], Any], pattern: str) -> None:
    try:
        call()
    except ValueError as error:
        if re.search(pattern, str(error)) is None:
            raise AssertionError(f"expected a ValueError that says {pattern!r}, it says {str(error)!r}") from error
    else:
        raise AssertionError(f"expected a ValueError that says {pattern!r}, there was none")


def bad_input_is_named(subject: Subject, case: str) -> None:
    call, pattern = _CASES[case]
    mixer = subject.build()
    _expect_error(lambda: call(mixer, subject.inputs(2, 5)), pattern)


def every_size_of_a_state_is_looked_at(subject: Subject) -> None:
    """Each tensor of a state, each axis behind the sequences: compiled kernels would read and write beside them."""
    mixer, x = subject.build(), subject.inputs(2, 5)
    state = mixer(x)[1]
    leaves, spec = pytree.tree_flatten(state)
    for place, leaf in enumerate(leaves):
        for axis in range(1, leaf.ndim if leaf.numel() else 0):
            for other in (leaf.narrow(axis, 0, leaf.shape[axis] - 1), torch.cat((leaf, leaf.narrow(axis, 0, 1)), axis)):
                changed = pytree.tree_unflatten([*leaves[:place], other.contiguous(), *leaves[place + 1 :]], spec)
                _expect_error(partial(mixer, x, changed), "state")


def a_width_of_zero_is_named(subject: Subject) -> None:
    _expect_error(lambda: subject.factory(0), "d_model")


CHECKS = (
    *checks(bad_input_is_named, {case: {"case": case} for case in _CASES}),
    *checks(every_size_of_a_state_is_looked_at),
    *checks(a_width_of_zero_is_named),
)
