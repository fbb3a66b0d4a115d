"""Checks that every way to run a sequence gives the same outputs, final states and gradients."""

from typing import Any

import torch
from torch.utils import _pytree as pytree

from seqmix.kernels import states_in_place
from seqmix.testing.comparison import (
    assert_same,
    chunked,
    ensure,
    float_leaves,
    measure,
    offsets,
    packed,
    padded,
    separate,
    separate_rows,
    some_state,
    stepwise,
    weighted,
    whole,
)
from seqmix.testing.subject import Subject, checks

__all__ = ["CHECKS"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def whole_equals_chunks_equals_steps(subject: Subject, length: int, dtype: torch.dtype) -> None:
    mixer = subject.build(dtype)
    x, state = subject.inputs(2, length, dtype), some_state(mixer, 2, dtype)
    expected = measure(mixer, x, state, whole)
    runs = {"chunks of 1, 2": chunked(1, 2), "halves": chunked(length // 2), "steps": stepwise}
    if length == 70:
        runs = {"chunks of 64, 2, 1": chunked(64, 2, 1), "steps": stepwise}
    for what, run in runs.items():
        assert_same(measure(mixer, x, state, run), expected, TOLERANCE[dtype], what)


def steps_in_place_equal_steps(subject: Subject) -> None:
    mixer = subject.build()
    weights = [p.detach().clone() for p in mixer.parameters()]
    # A start of the layer's own, which for one sequence may be a parameter as it lies; and some state of two.
    for batch, state in ((1, None), (2, pytree.tree_map(torch.Tensor.detach, some_state(mixer, 2)))):
        x = subject.inputs(batch, 7)
        with torch.no_grad():
            y, expected = stepwise(mixer, x, state)
            own = None if state is None else pytree.tree_map(torch.Tensor.clone, state)
            with states_in_place():
                found, final = stepwise(mixer, x, own)
        torch.testing.assert_close(found, y, rtol=1e-9, atol=1e-12)
        pytree.tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12), final, expected)
    ensure(all(map(torch.equal, mixer.parameters(), weights)), "steps in place changed a parameter")


def packed_equals_separate(subject: Subject, lengths: list[int], dtype: torch.dtype) -> None:
    mixer = subject.build(dtype)
    x, state = subject.inputs(1, sum(lengths), dtype), some_state(mixer, len(lengths), dtype)
    expected = measure(mixer, x, state, separate(lengths))
    assert_same(measure(mixer, x, state, packed(lengths)), expected, TOLERANCE[dtype], "packed")


def padded_equals_separate(subject: Subject, lengths: list[int], dtype: torch.dtype) -> None:
    mixer = subject.build(dtype)
    x, state = subject.inputs(len(lengths), max(lengths) + 2, dtype), some_state(mixer, len(lengths), dtype)
    expected = measure(mixer, x, state, separate_rows(lengths))
    assert_same(measure(mixer, x, state, padded(lengths)), expected, TOLERANCE[dtype], "padded")


def padding_may_hold_anything(subject: Subject) -> None:
    """What stands behind the end of a sequence is in none of its outputs, nor in its state."""
    mixer, lengths = subject.build(), torch.tensor([5, 1, 7])
    x = subject.inputs(3, 7)
    padding = torch.arange(7) >= lengths[:, None]
    y, state = mixer(x, lengths=lengths)
    odd, state_of_odd = mixer(x.masked_fill(padding.unsqueeze(-1), torch.nan), lengths=lengths)
    torch.testing.assert_close(odd[~padding], y[~padding], rtol=1e-12, atol=1e-12)
    for leaf, other in zip(pytree.tree_leaves(state), pytree.tree_leaves(state_of_odd), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-12, atol=1e-12)


def packed_states_continue(subject: Subject) -> None:
    mixer, lengths = subject.build(), [5, 0, 8]
    x, more = subject.inputs(1, 13), subject.inputs(3, 4, seed=5)
    _, final = mixer(x, cu_seqlens=offsets(lengths))
    continued, _ = mixer(more, final)
    for s, part in enumerate(x.split(lengths, dim=1)):
        expected, _ = mixer(torch.cat((part, more[s : s + 1]), dim=1))
        torch.testing.assert_close(continued[s : s + 1], expected[:, lengths[s] :], rtol=1e-9, atol=1e-12)


def no_state_is_the_initial_state(subject: Subject) -> None:
    mixer, x = subject.build(), subject.inputs(2, 7)
    y, final = mixer(x)
    again, same = mixer(x, mixer.init_state(2))
    torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-12)
    pytree.tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12), same, final)


def gradients_agree_with_finite_differences(subject: Subject) -> None:
    mixer, x = subject.build(), subject.inputs(2, 9)
    state = some_state(mixer, 2)
    sources = [x.requires_grad_(), *float_leaves(state), *mixer.parameters()]

    def loss() -> torch.Tensor:
        y, final = mixer(x, state)
        return weighted(y.tanh()) + sum(weighted(leaf) for leaf in float_leaves(final))

    grads = torch.autograd.grad(loss(), sources, allow_unused=True, materialize_grads=True)
    generator, step = torch.Generator().manual_seed(4), 1e-6
    for source, grad in zip(sources, grads, strict=True):
        direction = torch.randn(source.shape, generator=generator, dtype=source.dtype)
        with torch.no_grad():
            original = source.clone()
            source.copy_(original + step * direction)
            high = loss()
            source.copy_(original - step * direction)
            low = loss()
            source.copy_(original)
        found, expected = (grad * direction.conj()).sum().real, (high - low) / (2 * step)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def strides(subject: Subject) -> None:
    mixer = subject.build()
    state = some_state(mixer, 2)
    wide = subject.inputs(2, 26).transpose(0, 1).contiguous().transpose(0, 1)[:, ::2]
    expected = measure(mixer, wide.contiguous(), state, whole)
    assert_same(measure(mixer, wide, state, whole), expected, TOLERANCE[torch.float64], "strided x")

    x, gradients = subject.inputs(2, 7).requires_grad_(), []
    for expand in (True, False):
        y, final = mixer(x, state)
        outputs = [y, *float_leaves(final)]
        ones = [torch.ones((), dtype=t.dtype).expand(t.shape) for t in outputs]
        upstream = ones if expand else [t.contiguous() for t in ones]
        gradients.append(torch.autograd.grad(outputs, [x, *float_leaves(state)], upstream))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def fresh_memory_is_not_read(subject: Subject) -> None:
    mixer, lengths = subject.build(), [5, 0, 1, 7]
    x, state = subject.inputs(1, 13), some_state(mixer, 4)
    expected = measure(mixer, x, state, packed(lengths))
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, True
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        found = measure(mixer, x, state, packed(lengths))
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
    assert_same(found, expected, 1e-12, "poisoned memory")


CHECKS = (
    *checks(
        whole_equals_chunks_equals_steps,
        {f"T={length}-{dtype}": {"length": length, "dtype": dtype} for length in (13, 70) for dtype in TOLERANCE},
    ),
    *checks(steps_in_place_equal_steps),
    *checks(
        packed_equals_separate,
        {
            f"{lengths}-{dtype}": {"lengths": lengths, "dtype": dtype}
            for lengths in ([5, 0, 1, 7], [0, 33, 37], [13], [2, 0, 0])
            for dtype in TOLERANCE
        },
    ),
    *checks(padding_may_hold_anything),
    *checks(padded_equals_separate, {f"{dtype}": {"lengths": [5, 1, 7], "dtype": dtype} for dtype in TOLERANCE}),
    *checks(packed_states_continue),
    *checks(no_state_is_the_initial_state),
    *checks(gradients_agree_with_finite_differences),
    *checks(strides),
    *checks(fresh_memory_is_not_read),
)
