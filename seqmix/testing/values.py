"""Checks of what depends on what: causality, batches, and states that are values of a known size."""

import copy
import math
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from seqmix.optim import parameter_groups
from seqmix.testing.comparison import ensure, float_leaves, offsets, some_state, weighted
from seqmix.testing.subject import Subject, checks

__all__ = ["CHECKS"]


def causality(subject: Subject) -> None:
    mixer, x = subject.build(), subject.inputs(2, 13)
    changed = x.clone()
    changed[:, 8:] = subject.inputs(2, 5, seed=7)
    y, other = mixer(x)[0], mixer(changed)[0]
    torch.testing.assert_close(other[:, :8], y[:, :8], rtol=1e-9, atol=1e-12)
    seen = (other[:, 8:] - y[:, 8:]).abs().amax(dim=(0, 2)).min()
    ensure(seen > 1e-9, "an output does not depend on the token at its own place")


def sequences_of_a_batch_are_independent(subject: Subject) -> None:
    mixer, x = subject.build(), subject.inputs(3, 11)
    state = some_state(mixer, 3)
    y, final = mixer(x, state)
    order = torch.tensor([2, 0, 1])
    permuted, permuted_final = mixer(x[order], state.select(order))
    torch.testing.assert_close(permuted, y[order], rtol=1e-9, atol=1e-12)
    for a, b in zip(pytree.tree_leaves(permuted_final), pytree.tree_leaves(final.select(order)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    alone, _ = mixer(x[1:2], state.select(1))
    torch.testing.assert_close(alone, y[1:2], rtol=1e-9, atol=1e-12)
    changed = x.clone()
    changed[1] = subject.inputs(1, 11, seed=8)[0]
    torch.testing.assert_close(mixer(changed, state)[0][[0, 2]], y[[0, 2]], rtol=1e-9, atol=1e-12)


def select_and_detach(subject: Subject) -> None:
    mixer = subject.build()
    _, state = mixer(subject.inputs(3, 6).requires_grad_())
    leaves = pytree.tree_leaves(state)
    for index in (1, [2, 0], torch.tensor([2, 0]), slice(1, 3), torch.tensor([True, False, True])):
        expected = [leaf[[index] if isinstance(index, int) else index] for leaf in leaves]
        chosen = state.select(index)
        ensure(type(chosen) is type(state), f"state.select gives a {type(chosen).__name__}")
        for a, b in zip(pytree.tree_leaves(chosen), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    ensure(any(leaf.requires_grad for leaf in leaves), "no gradient flows from the final state to x")
    kept = [leaf for leaf in pytree.tree_leaves(state.detach()) if leaf.requires_grad]
    ensure(not kept, "state.detach leaves tensors in the autograd graph")
    copied = pickle.loads(pickle.dumps(state.detach()))
    ensure(type(copied) is type(state), "a state does not survive pickling")


def states_are_values(subject: Subject) -> None:
    mixer = subject.build()
    state = some_state(mixer, 2)
    leaves = pytree.tree_leaves(state)
    before = [(leaf.detach().clone(), leaf._version) for leaf in leaves]
    x = subject.inputs(2, 7).requires_grad_()
    y, final = mixer(x, state)
    z, _ = mixer.step(x[:, 0], state)
    kept = [leaf.detach().clone() for leaf in pytree.tree_leaves(final)]
    _, later = mixer(x, final)
    loss = y.sum() + z.sum() + sum(weighted(leaf) for leaf in float_leaves(later))
    for run in (lambda: None, loss.backward):
        run()
        for leaf, (value, version) in zip(leaves, before, strict=True):
            ensure(torch.equal(leaf, value) and leaf._version == version, "a state was changed in place")
    for leaf, value in zip(pytree.tree_leaves(final), kept, strict=True):
        ensure(torch.equal(leaf, value), "a final state was changed by the next call")
    owned = {leaf.untyped_storage().data_ptr() for leaf in leaves if leaf.numel()}
    for leaf in (y, *pytree.tree_leaves(final)):
        fresh = not leaf.numel() or leaf.untyped_storage().data_ptr() not in owned
        ensure(fresh, "the output aliases the state")


def init_state(subject: Subject, dtype: torch.dtype) -> None:
    mixer = subject.build(torch.float32)
    wide = (torch.float64, torch.complex128) if dtype == torch.float64 else (torch.float32, torch.complex64, dtype)
    for leaf in pytree.tree_leaves(mixer.init_state(3, dtype=dtype)):
        ensure(leaf.shape[0] == 3, f"init_state(3) has a tensor of shape {tuple(leaf.shape)}")
        ensure(leaf.dtype in wide or leaf.dtype == torch.int64, f"init_state beside {dtype} holds {leaf.dtype}")
        ensure(leaf.device.type == "cpu", f"init_state is on {leaf.device}")
    for leaf in pytree.tree_leaves(mixer.init_state(3, device="meta", dtype=dtype)):
        ensure(leaf.device.type == "meta", f"init_state(device='meta') is on {leaf.device}")
    for leaf in float_leaves(mixer.to(dtype).init_state(3)):
        ensure(leaf.dtype in wide, f"init_state of a layer of {dtype} holds {leaf.dtype}")


def state_size(subject: Subject, length: int) -> None:
    mixer = subject.build()
    _, state = mixer(subject.inputs(2, length))
    numbers = sum(leaf[0].numel() * (2 if leaf.is_complex() else 1) for leaf in float_leaves(state))
    said = mixer.state_size(length)
    ensure(said == numbers, f"state_size({length}) is {said}, the state holds {numbers}")
    if length == 1:
        ensure(mixer.state_size() == numbers, f"state_size() is {mixer.state_size()}, the state holds {numbers}")


def copies(subject: Subject) -> None:
    mixer, x = subject.build(), subject.inputs(2, 7)
    expected, _ = mixer(x)
    others = [copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer)), subject.build(seed=9)]
    ensure(not torch.equal(others[-1](x)[0], expected), "the output does not depend on the weights")
    others[-1].load_state_dict(mixer.state_dict())
    for other in others:
        torch.testing.assert_close(other(x)[0], expected, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=0)


def without_gradients(subject: Subject, mode: Callable[[], AbstractContextManager[Any]]) -> None:
    mixer, x = subject.build(), subject.inputs(2, 7)
    expected, _ = mixer(x)
    with mode():
        y, state = mixer(x[:, :4])
        z, state = mixer(x[:, 4:], state)
        mixer.step(x[:, 0], state)
    torch.testing.assert_close(torch.cat((y, z), dim=1), expected.detach(), rtol=1e-9, atol=1e-12)
    ensure(not z.requires_grad, "an output wants gradients where none are recorded")


def declarations_give_a_partition(subject: Subject) -> None:
    mixer = subject.build()
    groups = parameter_groups(mixer, lr=1.0, weight_decay=0.1)
    held, there = sum(len(group["params"]) for group in groups), len(list(mixer.parameters()))
    ensure(held == there, f"parameter_groups has {held} of {there} parameters")
    ensure(all(math.isfinite(group["lr"]) for group in groups), "_lr_scale is not finite")


def every_linear_map_is_called(subject: Subject, dtype: torch.dtype) -> None:
    """What stands in front of a weight, as hooks and LoRA do, is passed by where a layer reads the weight."""
    mixer, x, called = subject.build(torch.float32), subject.inputs(1, 7, torch.float32), set()
    maps = {name: module for name, module in mixer.named_modules() if isinstance(module, torch.nn.Linear)}
    for name, module in maps.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    runs = {
        "the whole sequence": lambda: mixer(x),
        "a step": lambda: mixer.step(x[:, 0], mixer.init_state(1)),
        "packed sequences": lambda: mixer(x, cu_seqlens=offsets([3, 4])),
        "a padded sequence": lambda: mixer(x, lengths=torch.tensor([4])),
    }
    for what, run in runs.items():
        called.clear()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            run()
        ensure(called == maps.keys(), f"{what} does not call {sorted(maps.keys() - called)}")


CHECKS = (
    *checks(causality),
    *checks(sequences_of_a_batch_are_independent),
    *checks(select_and_detach),
    *checks(states_are_values),
    *checks(init_state, {str(dtype): {"dtype": dtype} for dtype in (torch.float32, torch.float64, torch.bfloat16)}),
    *checks(state_size, {f"T={length}": {"length": length} for length in (1, 6, 70)}),
    *checks(copies),
    *checks(every_linear_map_is_called, {"float32": {"dtype": torch.float32}, "autocast": {"dtype": torch.bfloat16}}),
    *checks(without_gradients, {mode.__name__: {"mode": mode} for mode in (torch.no_grad, torch.inference_mode)}),
    *checks(declarations_give_a_partition),
)
