"""Checks of hard numbers: tokens that are zero, and sequences that are not finite."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqmix.mixers.base import TokenMixer
from seqmix.testing.comparison import ensure, float_leaves, is_float, offsets, some_state, weighted
from seqmix.testing.subject import Subject, checks

__all__ = ["CHECKS"]

POISONED = 1  # which of three sequences


def zeros_are_harmless(subject: Subject, dtype: torch.dtype) -> None:
    """In front, in the middle and everywhere: finite numbers, and gradients that do not grow with their count."""
    mixer, x = subject.build(torch.float32).to(dtype), subject.inputs(2, 12, dtype)
    scale = _steepest(mixer, x, "normal tokens")
    for place in ("leading", "middle", "only"):
        found = []
        for count in (4, 16, 64):
            zeros = x.new_zeros(2, count, x.shape[-1])
            parts = {"leading": [zeros, x], "middle": [x[:, :6], zeros, x[:, 6:]], "only": [zeros]}[place]
            found.append(_steepest(mixer, torch.cat(parts, 1), f"{count} {place} zeros"))
        what = f"the largest gradients over 4, 16 and 64 {place} zero tokens are {found}"
        ensure(found[-1] <= 16 * (found[0] + scale), f"{what}: they grow with the zeros")
        ensure(max(found) <= 1e6 * scale, f"{what}, and {scale:.2e} with normal tokens")


def _steepest(mixer: TokenMixer, x: Tensor, what: str) -> float:
    """The largest gradient of x; all that a run gives must be finite."""
    x = x.detach().requires_grad_()
    y, state = mixer(x)
    leaves = float_leaves(state)
    # Small enough for what reaches a zero through two norms, each with a slope of 1,000, to fit into float16.
    loss = 1e-3 * (weighted(y.float()) + sum(weighted(leaf) for leaf in leaves))
    named = {"x": x} | dict(mixer.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    seen = {"y": y} | {f"state {i}": leaf for i, leaf in enumerate(leaves)}
    seen |= {f"the gradient of {name}": grad for name, grad in zip(named, grads, strict=True)}
    bad = [name for name, value in seen.items() if not value.isfinite().all()]
    ensure(not bad, f"{what}: not finite: {', '.join(bad)}")
    return grads[0].abs().max().item()


def a_poisoned_sequence_leaves_the_others_as_they_were(subject: Subject, packed: bool) -> None:
    """Bit for bit, with infinity or NaN in one sequence's input, state or upstream gradient."""
    lengths = [40, 33, 35] if packed else [33, 33, 33]
    mixer = subject.build(torch.float32)
    x, state = subject.inputs(1, sum(lengths), torch.float32), some_state(mixer, 3, torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one worker takes all sequences, with the same scratch memory
    try:
        expected = _others(mixer, x, state, lengths, packed)
        for place in ("x", "state", "y", "final"):
            for value in (torch.inf, torch.nan):
                for name, found in _others(mixer, x, state, lengths, packed, place, value).items():
                    ensure(torch.equal(found, expected[name]), f"{value} in {place} reaches {name} of other sequences")
    finally:
        torch.set_num_threads(threads)


def _others(
    mixer: TokenMixer, x: Tensor, state: Any, lengths: list[int], packed: bool, place: str = "", value: float = 0.0
) -> dict[str, Tensor]:
    """Outputs and gradients of all sequences but the poisoned one; x (1, T, d_model) holds them one after the other."""

    def poison(tensors: list[Tensor], here: str, timed: bool) -> list[Tensor]:
        tensors = [t.detach().clone() for t in tensors]
        for t in tensors if here == place else ():
            (t[0].split(lengths) if timed else t)[POISONED].fill_(value)
        return tensors

    def rest(t: Tensor, timed: bool) -> Tensor:
        parts = t.flatten(0, 1).split(lengths) if timed else t.unbind()
        return torch.cat([part.flatten() for s, part in enumerate(parts) if s != POISONED])

    (x,) = poison([x], "x", True)
    leaves = [leaf.requires_grad_() for leaf in poison(float_leaves(state), "state", False)]
    state = _with_leaves(state, leaves)
    x.requires_grad_()
    y, final = (
        mixer(x, state, cu_seqlens=offsets(lengths)) if packed else mixer(x.view(len(lengths), -1, x.shape[-1]), state)
    )
    outputs = float_leaves(final)
    (dy,) = poison([torch.ones_like(y).view(x.shape)], "y", True)
    upstream = [dy.view(y.shape), *poison([torch.ones_like(t) for t in outputs], "final", False)]
    dx, *dleaves = torch.autograd.grad([y, *outputs], [x, *leaves], upstream, allow_unused=True, materialize_grads=True)
    seen = {"y": rest(y, True), "the gradient of x": rest(dx, True)}
    named = {"final state": outputs, "the gradient of state": dleaves}
    return seen | {f"{name} {i}": rest(t, False) for name, ts in named.items() for i, t in enumerate(ts)}


def _with_leaves(state: Any, leaves: list[Tensor]) -> Any:
    remaining = iter(leaves)
    return pytree.tree_map(lambda t: next(remaining) if is_float(t) else t, state)


CHECKS = (
    *checks(zeros_are_harmless, {str(d): {"dtype": d} for d in (torch.float32, torch.bfloat16, torch.float16)}),
    *checks(
        a_poisoned_sequence_leaves_the_others_as_they_were, {"rows": {"packed": False}, "packed": {"packed": True}}
    ),
)
