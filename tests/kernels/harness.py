"""The contract that every recurrent op keeps, written once: a test file names its op's cases and inherits it.

The rule for errors: against the float64 reference, at most 3 times the error of the same reference run in the
kernel's own type, plus 2 eps max|reference|. It holds for outputs, final states and every gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import seqmix.kernels
from tests.kernels.poison import LENGTHS as POISONED_LENGTHS
from tests.kernels.poison import InterpretedPoisonContract, PoisonContract

LENGTHS = (1, 2, 63, 300)
ALL_OPCHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@dataclass(frozen=True)
class OpCase:
    """One op in one configuration.

    `make(batch, length)` returns its inputs by name in float64 or complex128, time on axis 1 where `timed`;
    `reference(**inputs, initial_state)` is the plain loop; `state_shape` is the shape of one sequence's state.
    """

    name: str
    op: Callable[..., tuple[Any, Tensor]]
    reference: Callable[..., tuple[Any, Tensor]]
    make: Callable[[int, int], dict[str, Tensor]]
    state_shape: tuple[int, ...]
    untimed: tuple[str, ...] = ()
    complex_state: bool = False
    custom_op: str = ""
    low_precision: bool = True
    exact_state: bool = True  # a state is all that its sequence knows, to the bit
    poisoned: tuple[int, ...] = POISONED_LENGTHS  # more than what the kernel takes from one border to the next
    slack: float = 1.0  # more than the error rule allows, where a kernel's file says why
    options: dict[str, Any] = field(default_factory=dict)

    def state(self, sequences: int) -> Tensor:
        dtype = torch.complex128 if self.complex_state else torch.float64
        return torch.randn(sequences, *self.state_shape, dtype=dtype)

    def packed(self, bounds: list[int]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Inputs, states and offsets of sequences packed along time."""
        cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
        return self.make(1, bounds[-1]), self.state(len(bounds) - 1), cu_seqlens


def differentiable(tensor: Tensor) -> bool:
    """Whether it holds numbers that have a gradient, and not places."""
    return tensor.is_floating_point() or tensor.is_complex()


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, or its complex sibling; whole numbers as they are."""
    if not differentiable(tensor):
        return tensor
    if tensor.is_complex():
        return tensor.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return tensor.to(dtype)


def cast_all(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: cast(x, dtype).detach().requires_grad_(differentiable(x)) for name, x in inputs.items()}


def flatten(result: tuple[Any, ...]) -> list[Tensor]:
    flat: list[Tensor] = []
    for item in result:
        flat.extend(flatten(item) if isinstance(item, tuple) else [item])
    return flat


def run(call: Callable[..., Any], inputs: dict[str, Tensor], state: Tensor, **kwargs: Any) -> dict[str, Tensor]:
    """Outputs, final state and the gradient of every input under one fixed random upstream gradient."""
    outputs = flatten(call(**inputs, initial_state=state, **kwargs))
    generator = torch.Generator().manual_seed(1)
    loss = 0.0
    for output in outputs:
        upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64, device="cpu").to(output.device)
        loss = loss + (output.to(torch.complex128 if output.is_complex() else torch.float64) * upstream).real.sum()
    sources = {name: x for name, x in (inputs | {"initial_state": state}).items() if x.requires_grad}
    gradients = torch.autograd.grad(loss, list(sources.values()))
    named = {f"output {i}": output for i, output in enumerate(outputs)}
    return named | {f"gradient of {name}": gradient for name, gradient in zip(sources, gradients, strict=True)}


def largest(tensor: Tensor) -> float:
    """The largest magnitude, zero for an empty tensor."""
    return tensor.abs().max().item() if tensor.numel() else 0.0


def assert_triton(
    call: Callable[..., Any], inputs: dict[str, Tensor], state: Tensor, cu_seqlens: Tensor | None
) -> None:
    """Triton's kernels for a loop keep the error rule in float32, and are the reference to rounding in float64."""
    device, found = "cuda" if torch.cuda.is_available() else "cpu", []
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.to(device)
    for dtype, name in ((torch.float32, "triton"), (torch.float32, "reference"), (torch.float64, "reference"),
                        (torch.float64, "triton")):  # fmt: skip
        *given, start = (t.detach().float().to(device, dtype).requires_grad_() for t in (*inputs.values(), state))
        with seqmix.kernels.backend(name):
            found.append(run(call, dict(zip(inputs, given, strict=True)), start, cu_seqlens=cu_seqlens))
    assert_rule(*found[:3], torch.float32)
    torch.testing.assert_close(found[3], found[2], rtol=1e-9, atol=1e-11)


def assert_rule(
    got: dict[str, Tensor],
    plain: dict[str, Tensor],
    truth: dict[str, Tensor],
    dtype: torch.dtype,
    slack: float = 1.0,
) -> None:
    """The error rule, entry by entry."""
    eps = torch.finfo(dtype).eps
    for name, reference in truth.items():
        if reference.numel() == 0:
            continue
        wide = reference.dtype
        assert got[name].shape == reference.shape, name
        assert torch.isfinite(got[name]).all(), f"{name} is not finite"
        error = (got[name].to(wide) - reference).abs().max().item()
        allowed = 3 * (plain[name].to(wide) - reference).abs().max().item() + 2 * eps * reference.abs().max().item()
        allowed *= slack
        assert error <= allowed, f"{name}: error {error:.3e} exceeds {allowed:.3e}"


def compare(case: OpCase, inputs: dict[str, Tensor], state: Tensor, dtype: torch.dtype, **kwargs: Any) -> None:
    """Hold the op in `dtype` to its float64 reference on the same (rounded) numbers."""
    options = case.options | kwargs
    rounded = {name: cast(tensor, dtype) for name, tensor in inputs.items()}
    state_type = torch.float32 if dtype != torch.float64 else dtype
    rounded_state = cast(state, state_type)
    by_reference = options | {"backend": "reference"}
    wide_state = _leaf(cast(rounded_state, torch.float64))
    truth = run(case.op, cast_all(rounded, torch.float64), wide_state, **by_reference)
    got = run(case.op, cast_all(rounded, dtype), _leaf(rounded_state), **options)
    if "cu_seqlens" in kwargs:
        plain = run(case.op, cast_all(rounded, dtype), _leaf(rounded_state), **by_reference)
    else:
        plain = run(case.reference, cast_all(rounded, dtype), _leaf(cast(rounded_state, dtype)), **case.options)
    assert_rule(got, plain, truth, dtype, case.slack)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


class KernelContract(PoisonContract):
    """Inherit, and set `cases` to a list of `OpCase`; bad input is the op's own file's business."""

    cases: list[OpCase]
    backend: str | None = None
    opchecks: tuple[str, ...] = ALL_OPCHECKS

    @pytest.mark.parametrize("length", LENGTHS)
    def test_error_rule_float32(self, case: OpCase, length: int) -> None:
        compare(case, case.make(3, length), case.state(3), torch.float32, backend=self.backend)

    def test_float64_to_rounding(self, case: OpCase) -> None:
        # The reference itself rounds in float64, so there is no truth to measure it by: a fixed bound instead.
        results = [
            run(case.op, cast_all(inputs, torch.float64), _leaf(state), **(case.options | {"backend": backend}))
            for inputs, state in [(case.make(2, 63), case.state(2))]
            for backend in (self.backend, "reference")
        ]
        for name, expected in results[1].items():
            bound = 1e-12 * largest(expected)
            torch.testing.assert_close(results[0][name], expected, rtol=0, atol=bound, msg=name)

    @pytest.mark.sample
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_error_rule_low_precision(self, case: OpCase, dtype: torch.dtype) -> None:
        if not case.low_precision:
            pytest.skip("complex numbers have no low-precision type")
        compare(case, case.make(2, 40), case.state(2), dtype, backend=self.backend)

    def test_two_threads_agree_with_one(self, case: OpCase) -> None:
        # Large enough to be shared between threads, with fewer sequences than threads so that channels are cut.
        inputs, state = cast_all(case.make(1, 2000), torch.float32), _leaf(cast(case.state(1), torch.float32))
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(run(case.op, inputs, state, **case.options, backend=self.backend))
        finally:
            torch.set_num_threads(before)
        for name, one in results[0].items():
            torch.testing.assert_close(results[1][name], one, rtol=1e-4, atol=1e-4 * largest(one), msg=name)

    def test_packed_equals_reference(self, case: OpCase) -> None:
        inputs, state, cu_seqlens = case.packed([0, 1, 1, 30, 33, 70])
        compare(case, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend=self.backend)

    def test_packed_equals_one_by_one(self, case: OpCase) -> None:
        bounds = [0, 5, 5, 7, 40]
        inputs, state, cu_seqlens = case.packed(bounds)
        outputs = flatten(
            case.op(**inputs, initial_state=state, cu_seqlens=cu_seqlens, backend=self.backend, **case.options)
        )
        for s, (first, last) in enumerate(pairwise(bounds)):
            if first == last:
                assert torch.equal(outputs[-1][s], state[s]), "an empty sequence returns its initial state"
                continue
            part = {n: x if n in case.untimed else x[:, first:last] for n, x in inputs.items()}
            alone = flatten(case.op(**part, initial_state=state[s : s + 1], backend=self.backend, **case.options))
            for output, single in zip(outputs[:-1], alone[:-1], strict=True):
                torch.testing.assert_close(output[:, first:last], single, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(outputs[-1][s], alone[-1][0], rtol=1e-12, atol=1e-12)

    def test_chunks_equal_whole(self, case: OpCase) -> None:
        inputs, state = case.make(2, 70), case.state(2)
        whole = flatten(case.op(**inputs, initial_state=state, backend=self.backend, **case.options))
        carry, parts = state, []
        for first, last in ((0, 1), (1, 3), (3, 64), (64, 70)):
            part = {n: x if n in case.untimed else x[:, first:last] for n, x in inputs.items()}
            *outputs, carry = flatten(case.op(**part, initial_state=carry, backend=self.backend, **case.options))
            parts.append(outputs)
        for index, output in enumerate(whole[:-1]):
            torch.testing.assert_close(torch.cat([p[index] for p in parts], 1), output, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(carry, whole[-1], rtol=1e-11, atol=1e-11)

    def test_the_same_bits_however_cut(self, case: OpCase) -> None:
        """Whole, in chunks, by a step, packed, alone and on two threads: one op has one order."""
        inputs, state = case.make(3, 130), case.state(3)
        inputs = {name: cast(x, torch.float32) for name, x in inputs.items()}
        state, threads = cast(state, torch.float32), torch.get_num_threads()

        def call(change: Callable[[Tensor], Tensor], start: Tensor, **options: Any) -> list[Tensor]:
            changed = {n: x if n in case.untimed else change(x) for n, x in inputs.items()}
            return flatten(case.op(**changed, initial_state=start, backend=self.backend, **case.options, **options))

        whole = call(lambda x: x, state)
        carry, parts = state, []
        for first, last in ((0, 1), (1, 64), (64, 66), (66, 130)):
            *outputs, carry = call(lambda x, first=first, last=last: x[:, first:last], carry)  # type: ignore[misc]
            parts.append(outputs)
        chunks = [*(torch.cat(list(group), 1) for group in zip(*parts, strict=True)), carry]
        bounds = torch.tensor([0, 130, 260, 390], dtype=torch.int32)
        packed = call(lambda x: x.flatten(0, 1)[None], state, cu_seqlens=bounds)
        try:
            torch.set_num_threads(3 - min(threads, 2))
            threaded = call(lambda x: x, state)
        finally:
            torch.set_num_threads(threads)
        runs = {"packed": [p.view_as(w) for p, w in zip(packed, whole, strict=True)], "threads": threaded}
        runs |= {"chunks": chunks} if case.exact_state else {}
        for what, run in runs.items():
            assert all(torch.equal(a, b) for a, b in zip(run, whole, strict=True)), what
        alone = call(lambda x: x[1:2], state[1:2])
        assert all(torch.equal(a, b[1:2]) for a, b in zip(alone, whole, strict=True)), "alone"

    def test_the_same_bits_of_gradients_however_batched(self, case: OpCase) -> None:
        """Of inputs that belong to a sequence: packed, alone and on two threads."""
        drawn = {name: cast(x, torch.float32) for name, x in case.make(3, 130).items()}
        start, threads = cast(case.state(3), torch.float32), torch.get_num_threads()
        names = [n for n, x in drawn.items() if n not in case.untimed and (x.is_floating_point() or x.is_complex())]

        def gradients(change: Callable[[Tensor], Tensor], state: Tensor, **options: Any) -> list[Tensor]:
            inputs = {n: x if n in case.untimed else change(x.detach()) for n, x in drawn.items()}
            inputs = {n: x.clone().requires_grad_(n in names) for n, x in inputs.items()}
            state = state.clone().requires_grad_()
            outputs = flatten(case.op(**inputs, initial_state=state, backend=self.backend, **case.options, **options))
            upstream = []
            for output in outputs:  # the same numbers for each sequence, packed or not
                sequences = 3 if output.shape[1:2] == (390,) else output.shape[0]
                numbers = torch.cos(torch.arange(output.numel() // sequences, dtype=torch.float32))
                upstream.append(numbers.repeat(sequences).view(output.shape).to(output.dtype))
            return list(torch.autograd.grad(outputs, [state, *(inputs[n] for n in names)], upstream))

        whole = gradients(lambda x: x, start)
        bounds = torch.tensor([0, 130, 260, 390], dtype=torch.int32)
        packed = gradients(lambda x: x.flatten(0, 1)[None], start, cu_seqlens=bounds)
        try:
            torch.set_num_threads(3 - min(threads, 2))
            threaded = gradients(lambda x: x, start)
        finally:
            torch.set_num_threads(threads)
        alone = gradients(lambda x: x[1:2], start[1:2])
        for name, *found, one, expected in zip(["state", *names], packed, threaded, alone, whole, strict=True):
            for what, each in zip(("packed", "threads"), found, strict=True):
                assert torch.equal(each.view_as(expected), expected), (name, what)
            assert torch.equal(one, expected[1:2]), (name, "alone")

    def test_no_state_is_a_zero_state(self, case: OpCase) -> None:
        inputs = case.make(2, 9)
        zero = torch.zeros_like(case.state(2))
        absent = flatten(case.op(**inputs, backend=self.backend, **case.options))
        given = flatten(case.op(**inputs, initial_state=zero, backend=self.backend, **case.options))
        for a, b in zip(absent, given, strict=True):
            assert torch.equal(a, b)

    def test_strided_inputs_and_expanded_gradients(self, case: OpCase) -> None:
        inputs, state = cast_all(case.make(4, 20), torch.float64), _leaf(case.state(4))
        names = [n for n in inputs if n not in case.untimed]
        strided = {
            n: x.detach().repeat_interleave(2, dim=1)[:, ::2].requires_grad_(x.requires_grad) if n in names else x
            for n, x in inputs.items()
        }
        results = []
        for arguments in (inputs, strided):
            outputs = flatten(case.op(**arguments, initial_state=state, backend=self.backend, **case.options))
            # sum() sends back a gradient with stride 0 everywhere.
            loss = sum(o.real.sum() if o.is_complex() else o.sum() for o in outputs)
            sources = [x for x in (*arguments.values(), state) if x.requires_grad]
            results.append([*outputs, *torch.autograd.grad(loss, sources)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    def test_outputs_are_fresh(self, case: OpCase) -> None:
        inputs, state = case.make(2, 5), case.state(2)
        before = {n: x.clone() for n, x in inputs.items()} | {"initial_state": state.clone()}
        outputs = flatten(case.op(**inputs, initial_state=state, backend=self.backend, **case.options))
        everything = [*inputs.values(), state, *outputs]
        pointers = {t.untyped_storage().data_ptr() for t in everything if t.numel()}
        assert len(pointers) == sum(t.numel() > 0 for t in everything), "an output aliases an input or another output"
        for name, x in (inputs | {"initial_state": state}).items():
            assert torch.equal(x, before[name]), f"{name} was changed in place"

    def test_gradcheck_of_reference(self, case: OpCase) -> None:
        inputs, state = cast_all(case.make(1, 4), torch.float64), _leaf(case.state(1))
        names = list(inputs)

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            arguments = dict(zip(names, tensors[:-1], strict=True))
            return tuple(flatten(case.op(**arguments, initial_state=tensors[-1], backend="reference", **case.options)))

        # One random direction (fast mode) instead of a column per number.
        assert torch.autograd.gradcheck(call, [*inputs.values(), state], fast_mode=True)
        assert torch.autograd.gradgradcheck(call, [*inputs.values(), state], fast_mode=True, atol=1e-4)

    def test_second_derivatives_and_forward_mode_raise_by_name(self, case: OpCase) -> None:
        inputs, state = cast_all(case.make(1, 4), torch.float64), _leaf(case.state(1))
        output = flatten(case.op(**inputs, initial_state=state, backend=self.backend, **case.options))[0]
        first = next(iter(inputs.values()))
        loss = (output * output).sum()
        (gradient,) = torch.autograd.grad(loss.real, first, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives need backend='reference'"):
            torch.autograd.grad(gradient.abs().sum(), first)
        name = next(iter(inputs))
        plain = {n: x.detach() for n, x in inputs.items()}

        def call(x: Tensor) -> Any:
            return case.op(**(plain | {name: x}), initial_state=state.detach(), backend=self.backend, **case.options)

        with pytest.raises(NotImplementedError, match="forward-mode AD needs backend='reference'"):
            torch.func.jvp(call, (plain[name],), (torch.ones_like(plain[name]),))

    def test_nan_is_not_swallowed(self, case: OpCase) -> None:
        for name in case.make(1, 2):
            inputs = cast_all(case.make(1, 6), torch.float32)
            if not differentiable(inputs[name]):
                continue
            with torch.no_grad():
                inputs[name].view(-1)[0] = float("nan")
            outputs = flatten(case.op(**inputs, backend=self.backend, **case.options))
            assert any(torch.isnan(o).any() for o in outputs), f"NaN in {name} left no trace"

    def test_opcheck(self, case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
        # Records the arguments that the public function hands to the registered op, and checks that op with them.
        operator = getattr(torch.ops.seqmix, case.custom_op).default
        inputs, state, cu_seqlens = case.packed([0, 3, 9])
        calls: list[tuple[Any, ...]] = []

        class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if func is operator:
                    calls.append(args)
                return func(*args, **(kwargs or {}))

        with Recorder(), torch.no_grad():
            case.op(**cast_all(case.make(2, 5), torch.float32), backend=self.backend, **case.options)
            case.op(**inputs, initial_state=state, cu_seqlens=cu_seqlens, backend=self.backend, **case.options)
        assert len(calls) == 2
        for arguments in calls:
            leaves = [
                a.detach().clone().requires_grad_()
                if isinstance(a, Tensor) and (a.is_floating_point() or a.is_complex())
                else a
                for a in arguments
            ]
            torch.library.opcheck(operator, tuple(leaves), test_utils=self.opchecks)

    def test_common_bad_input(self, case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
        inputs, state = case.make(2, 6), case.state(2)
        timed = next(n for n in inputs if n not in case.untimed)

        # The tests may have chosen Triton's interpreter, which does run on the CPU.
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)

        def refuses(match: str, changed: dict[str, Any] | None = None, **kwargs: Any) -> None:
            with pytest.raises(ValueError, match=match):
                case.op(**(inputs | (changed or {})), **(dict(case.options) | kwargs))

        refuses("T = 0", {n: x[:, :0] for n, x in inputs.items() if n not in case.untimed})
        refuses(timed, {timed: inputs[timed][0]})
        refuses(timed, {timed: inputs[timed].to(torch.int64 if not inputs[timed].is_complex() else torch.bool)})
        refuses("initial_state", initial_state=case.state(3))
        refuses("initial_state", initial_state=state[..., :-1] if state.shape[-1] > 1 else state[..., None])
        refuses("cannot be mixed", initial_state=state.to(torch.complex64 if state.is_complex() else torch.float32))
        refuses("must be on meta|must be on cpu", initial_state=state.to("meta"))
        refuses("backend", backend="cuda")
        refuses("cannot run tensors on cpu: set TRITON_INTERPRET=1", backend="triton")
        refuses("B = 1, got B = 2", cu_seqlens=torch.tensor([0, 6], dtype=torch.int32))
        single = {n: x if n in case.untimed else x[:1] for n, x in inputs.items()}
        for bounds, match in (
            ([1, 6], "start at 0"),
            ([0, 5], "end at T = 6"),
            ([0, 4, 3, 6], "not decrease"),
            ([0], "S \\+ 1 >= 2"),
        ):
            refuses(match, single, cu_seqlens=torch.tensor(bounds, dtype=torch.int32))
        refuses("int32", single, cu_seqlens=torch.tensor([0, 6]))


class TritonContract(InterpretedPoisonContract, KernelContract):
    """The same contract for Triton kernels: compiled on a GPU (`-m gpu`), else under Triton's interpreter on the CPU.

    `conftest.py` chooses the interpreter or the GPU, makes scans run in a tree, and puts the GPU marks.
    """

    backend = "triton"
    # How the op is registered is the same for every backend; what it returns is not.
    opchecks = ("test_schema", "test_faketensor")
    # What these check does not depend on the backend.
    test_two_threads_agree_with_one = None  # type: ignore[assignment]
    test_the_same_bits_however_cut = None  # type: ignore[assignment]
    test_the_same_bits_of_gradients_however_batched = None  # type: ignore[assignment]
    test_gradcheck_of_reference = None  # type: ignore[assignment]
    test_common_bad_input = None  # type: ignore[assignment]

    @pytest.mark.sample
    @pytest.mark.parametrize("length", [1, 2, 63])
    def test_error_rule_float32(self, case: OpCase, length: int) -> None:
        compare(case, case.make(2, length), case.state(2), torch.float32, backend="triton")

    def test_walked_whole(self, case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("seqmix.kernels._triton.FILL", 0)
        compare(case, case.make(1, 150), case.state(1), torch.float32, backend="triton")

    def test_cut_into_chunks(self, case: OpCase, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("seqmix.kernels._triton.FILL", 10**6)
        monkeypatch.setattr("seqmix.kernels._triton.SHORTEST_CHUNK", 16)
        compare(case, case.make(1, 34), case.state(1), torch.float32, backend="triton")
        inputs, state, cu_seqlens = case.packed([0, 1, 1, 33, 40, 40])
        compare(case, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


class MatrixTritonContract(TritonContract):
    """For kernels that always cut sequences into chunks, of a fixed length."""

    test_walked_whole = None  # type: ignore[assignment]
    test_cut_into_chunks = None  # type: ignore[assignment]
    # The interpreter takes seconds for what these find in the public function; packed sequences meet the reference.
    test_no_state_is_a_zero_state = None  # type: ignore[assignment]
    test_packed_equals_one_by_one = None  # type: ignore[assignment]
    test_second_derivatives_and_forward_mode_raise_by_name = None  # type: ignore[assignment]

    @pytest.mark.sample
    @pytest.mark.parametrize("batch, length", [(2, 1), (2, 63), (1, 150)])
    def test_error_rule_float32(self, case: OpCase, batch: int, length: int) -> None:  # type: ignore[override]
        compare(case, case.make(batch, length), case.state(batch), torch.float32, backend=self.backend)
