"""Checks of low precision, autocast and `torch.compile`."""

import copy
from typing import Any

import torch

from seqmix.testing.comparison import chunked, ensure, float_leaves, weighted
from seqmix.testing.subject import Subject, checks

__all__ = ["CHECKS"]


def half_precision(subject: Subject, dtype: torch.dtype) -> None:
    mixer = subject.build(torch.float32).to(dtype)
    reference = copy.deepcopy(mixer).double()
    x = subject.inputs(2, 70, dtype)
    expected, _ = reference(x.double())
    bound = 8 * torch.finfo(dtype).eps * expected.abs().max()
    y, state = mixer(x)
    ensure(y.dtype == dtype, f"the output of {dtype} is {y.dtype}")
    kept, _ = chunked(3, 64)(mixer, x, None)
    for what, found in (("the sequence at once", y), ("chunks of 3, 64", kept)):
        error = (found.double() - expected).abs().max()
        ensure(error <= bound, f"{what}: off by {error:.2e} from the layer in float64, at most {bound:.2e} allowed")
    for leaf in float_leaves(state):
        ensure(leaf.dtype in (torch.float32, torch.complex64, dtype), f"the state of {dtype} holds {leaf.dtype}")
    y.float().square().mean().backward()
    bad = [name for name, p in mixer.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    ensure(not bad, f"gradients of {bad} are not finite")


def autocast(subject: Subject, dtype: torch.dtype) -> None:
    mixer, x = subject.build(torch.float32), subject.inputs(2, 13, torch.float32).requires_grad_()
    expected, _ = mixer(x)
    with torch.autocast("cpu", dtype=dtype):
        y, state = mixer(x)
        again, _ = mixer(x[:, 5:], mixer(x[:, :5])[1])
    bound = 6 * torch.finfo(dtype).eps * expected.abs().max()
    for what, found, truth in (("the sequence", y, expected), ("its second chunk", again, expected[:, 5:])):
        error = (found - truth).abs().max()
        ensure(error <= bound, f"{what} under autocast is off by {error:.2e}, at most {bound:.2e} allowed")
    (y.float().sum() + sum(weighted(leaf) for leaf in float_leaves(state))).backward()
    ensure(x.grad is not None and x.grad.isfinite().all(), "the gradient under autocast is not finite")


def compiles_to_four_graphs(subject: Subject) -> None:
    """Over T in {1, 64, 65, 300}, state absent or given; other lengths compile nothing more.

    Graphs run as they are captured: tracing their backward passes as well costs three times as much, and what that asks
    beyond this is asked of each op (`opcheck`) and, in slow tests, of whole models.
    """
    graphs = []

    def counting(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    mixer = subject.build()
    compiled = torch.compile(mixer, backend=counting, fullgraph=True)
    states = {}
    for length in (1, 64, 65, 300):
        x = subject.inputs(2, length).requires_grad_()
        y, states[length] = compiled(x)
        z, _ = compiled(x, states[length].detach())
        expected, state = mixer(x)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(z, mixer(x, state)[0], rtol=1e-9, atol=1e-12)
        if length in (1, 65):
            grads = [torch.autograd.grad(weighted(out), x)[0] for out in (z, mixer(x, state.detach())[0])]
            torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    ensure(len(graphs) <= 4, f"{len(graphs)} graphs for four lengths, with and without a state, at most 4 expected")
    count = len(graphs)
    for length in (17, 300, 1, 128):
        x = subject.inputs(2, length).requires_grad_()
        _, state = compiled(x)
        compiled(x, state.detach())
    ensure(len(graphs) == count, f"{len(graphs) - count} more graphs for other lengths, none expected")
    torch._dynamo.reset()


_HALF: dict[str, dict[str, Any]] = {str(dtype): {"dtype": dtype} for dtype in (torch.bfloat16, torch.float16)}

CHECKS = (*checks(half_precision, _HALF), *checks(autocast, _HALF), *checks(compiles_to_four_graphs))
