"""What all ops share: how a backend is chosen, what kernels refuse by name, and that empty batches pass."""

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

import seqmix
from seqmix import kernels
from seqmix.kernels import _backend, _threads, backend, diagonal_scan

# The shapes of a batch of B, T = 3.
SHAPES = {
    "diagonal_scan": [(3, 2), (3, 2)],
    "gather_scan": [(3, 2), (3, 2)],
    "block_scan": [(3, 2, 2, 2), (3, 2, 2)],
    "gated_block_scan": [(3, 2, 2, 3), (3, 2, 2)],
    "higher_order_scan": [(3, 2, 2), (3, 2)],
    "gated_higher_order_scan": [(3, 2, 3), (3, 2)],
    "selective_rotary": [(3, 2, 4), (3, 2, 4), (3, 2, 2)],
    "gated_linear_attention": [(3, 2, 4), (3, 2, 4), (3, 2, 5), (3, 2, 4)],
    "delta_rule": [(3, 2, 4), (3, 2, 4), (3, 2, 5), (3, 2), (3, 2)],
    "dplr_delta_rule": [(3, 2, 4), (3, 2, 4), (3, 2, 5), (3, 2, 4), (3, 2, 4), (3, 2, 4)],
    "selective_scan": [(3, 4), (3, 4), (3, 2), (3, 2)],
    "causal_conv1d": [(3, 4)],
}
# What all sequences share, by position.
SHARED = {"selective_scan": {2: (4, 2), 5: (4,)}, "causal_conv1d": {1: (4, 3), 2: (4,)}}


def test_compiled_forward_mode_is_refused() -> None:
    a, x = torch.rand(1, 4, 2), torch.randn(1, 4, 2)
    compiled = torch.compile(lambda a: diagonal_scan(a, x)[0], backend="aot_eager", fullgraph=True)
    compiled(a)
    with forward_ad.dual_level(), pytest.raises(Exception, match="forward-mode AD needs backend='reference'"):
        compiled(forward_ad.make_dual(a, torch.ones_like(a)))
    # A level without tangents is no reason to refuse an ordinary call.
    with forward_ad.dual_level():
        diagonal_scan(a, x)


@pytest.mark.parametrize("chosen", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("op", SHAPES)
def test_empty_batch(op: str, chosen: str) -> None:
    assert set(SHAPES) == set(kernels.__all__) - {"backend", "batch_invariant", "newton_scan", "states_in_place"}
    tensors = [torch.zeros(0, *shape, requires_grad=True) for shape in SHAPES[op]]
    for position, shape in SHARED.get(op, {}).items():
        tensors.insert(position, torch.ones(shape, requires_grad=True))
    places = [torch.zeros(0, 3, 2, dtype=torch.int32)] if op == "gather_scan" else []
    with torch.enable_grad():
        output, final = getattr(kernels, op)(*places, *tensors, backend=chosen)
    outputs = output if isinstance(output, tuple) else (output,)
    like = (
        tensors[2]
        if op in ("delta_rule", "dplr_delta_rule", "gated_linear_attention")
        else tensors[-1]
        if op.endswith("block_scan")
        else None
    )
    assert all(o.shape[:2] == (0, 3) and (like is None or o.shape == like.shape) for o in outputs)
    assert final.shape[0] == 0
    (sum(o.sum() for o in outputs) + final.sum()).backward()
    for tensor in tensors:
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any()


def test_a_choice_holds_for_its_thread_and_ends() -> None:
    seen: list[str | None] = []
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        seen.append(_backend.preferred())
        with backend("cpu"):
            entered.set()
            left.wait(10)
            seen.append(_backend.preferred())

    thread = threading.Thread(target=other)
    with backend("reference"):
        with backend(None):
            assert _backend.preferred() is None
        thread.start()
        entered.wait(10)
        assert _backend.preferred() == "reference"
    left.set()
    thread.join()
    assert seen == [None, "cpu"]
    assert _backend.preferred() is _backend._newest is None and not _backend._in_force
    with (
        pytest.raises(ValueError, match="name must be None or one of reference, cpu, triton, got 'numpy'"),
        backend("numpy"),
    ):
        pass


def test_a_choice_is_seen_by_compiled_functions() -> None:
    a, x = torch.rand(1, 4, 2), torch.randn(1, 4, 2)
    graphs: list[list[str]] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    compiled = torch.compile(lambda a: diagonal_scan(a, x)[0], backend=keep, fullgraph=True)
    right = compiled(a)
    with backend("reference"):
        torch.testing.assert_close(compiled(a), right)
    compiled(a)
    assert [any("diagonal_scan" in name for name in graph) for graph in graphs] == [True, False]

    def both(a: torch.Tensor) -> torch.Tensor:
        with backend("reference"):
            y, _ = diagonal_scan(a, x)
        return y + diagonal_scan(a, x)[0]

    torch.testing.assert_close(torch.compile(both, backend="eager", fullgraph=True)(a), 2 * right)
    assert _backend._newest is None


def test_all_ops_are_registered_in_one_place() -> None:
    package = Path(seqmix.__file__).parent
    files = {file.name for file in package.rglob("*.py") if "library.custom_op(" in file.read_text()}
    assert files == {"_operator.py"}


def test_tangents_of_a_cotangent_alone_are_refused() -> None:
    # The backward pass is linear in it: a custom op would return it without its tangent.
    a = torch.rand(1, 4, 2, requires_grad=True)
    y, _ = diagonal_scan(a, torch.randn(1, 4, 2))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="diagonal_scan: forward-mode AD needs"):
        torch.autograd.grad(y, a, forward_ad.make_dual(torch.ones_like(y), torch.ones_like(y)))


def test_kernels_run_where_processes_cannot_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    spec = importlib.util.spec_from_file_location("threads_on_windows", _threads.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    done: list[tuple[int, int]] = []
    module.run(lambda first, last: done.append((first, last)), 5, 1)
    assert done == [(0, 5)]


def test_an_eager_step_goes_without_the_compiler() -> None:
    code = (
        "import sys, torch, seqmix; x = torch.randn(1, 3, 8, requires_grad=True); "
        "seqmix.LRU(8)(x)[0].sum().backward(); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
