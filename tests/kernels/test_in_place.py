"""`states_in_place`: the numbers of a step as they are, in the memory of the state before it, and only where asked."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from seqmix import SequenceModel
from seqmix.kernels import (
    delta_rule,
    dplr_delta_rule,
    gated_linear_attention,
    newton_scan,
    selective_scan,
    states_in_place,
)
from seqmix.kernels.m2rnn.api import m2rnn
from seqmix.mixers import create_mixer

H, K, V = 2, 5, 3


def _inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _gated(length: int, state: Tensor) -> Any:
    q, k, g = _inputs(*[(2, length, H, K)] * 3)
    return gated_linear_attention(q, k, _inputs((2, length, H, V))[0], -g.abs(), initial_state=state)


def _delta(length: int, state: Tensor) -> Any:
    q, k, v, beta = _inputs((2, length, H, K), (2, length, H, K), (2, length, H, V), (2, length, H))
    return delta_rule(q, k, v, beta.sigmoid(), initial_state=state)


def _dplr(length: int, state: Tensor) -> Any:
    q, k, a, b, g = _inputs(*[(2, length, H, K)] * 5)
    return dplr_delta_rule(q, k, _inputs((2, length, H, V))[0], 0.1 * a, b, -g.abs(), initial_state=state)


def _selective(length: int, state: Tensor) -> Any:
    x, dt, A, B, C = _inputs((2, length, 6), (2, length, 6), (6, 4), (2, length, 4), (2, length, 4))
    return selective_scan(x, dt.abs(), torch.nn.Parameter(-A.abs()), B, C, initial_state=state)


def _m2rnn(length: int, state: Tensor) -> Any:
    q, k, v, f, W = _inputs(*((2, length, H, width) for width in (K, K, V)), (2, length, H), (H, V, V))
    return m2rnn(q, k, v, f.sigmoid(), W, state, None)


OPS = {
    "gated_linear_attention": (_gated, (2, H, K, V)),
    "delta_rule": (_delta, (2, H, K, V)),
    "dplr_delta_rule": (_dplr, (2, H, K, V)),
    "selective_scan": (_selective, (2, 6, 4)),
    "m2rnn": (_m2rnn, (2, H, K, V)),
}


@pytest.mark.parametrize("length", [1, 70])
@pytest.mark.parametrize("name", OPS)
def test_the_same_bits_in_the_memory_of_the_state_before(name, length):
    run, shape = OPS[name]
    (state,) = _inputs(shape)
    with torch.no_grad():
        expected, last = run(length, state.clone())
        with states_in_place():
            own = state.clone()
            found, final = run(length, own)
    assert torch.equal(found, expected) and torch.equal(final, last)
    assert final.data_ptr() == own.data_ptr()


@pytest.mark.parametrize("name", OPS)
def test_outside_and_with_gradients_a_state_stays_what_it_is(name):
    run, shape = OPS[name]
    (state,) = _inputs(shape)
    given = state.clone()
    with torch.no_grad():
        run(3, given)
    with states_in_place():
        run(3, given)
    assert torch.equal(given, state)


def test_what_is_no_plain_row_of_numbers_is_not_written_over():
    run, shape = OPS["gated_linear_attention"]
    one = _inputs(shape)[0][:1]
    with torch.no_grad(), states_in_place():
        state = one.expand(shape)  # one sequence's numbers for all
        _, final = run(1, state)
    assert torch.equal(state, one.expand(shape)) and final.data_ptr() != state.data_ptr()


@pytest.mark.parametrize("name", ["mamba", "gla", "deltanet", "kda", "rwkv-7", "mlstm", "mamba-2", "mamba-3", "m2rnn"])
def test_the_large_state_of_a_layer_stays_where_it_is(name):
    def largest(state: Any) -> Tensor:  # not the window of a convolution
        return max(state, key=lambda leaf: (leaf.ndim, leaf.numel()))

    torch.manual_seed(0)
    mixer, x = create_mixer(name, 16), torch.randn(3, 4, 16)
    with torch.no_grad(), states_in_place():
        _, state = mixer(x)
        place = largest(state).data_ptr()
        for x_t in x.unbind(1):
            _, state = mixer.step(x_t, state)
            assert largest(state).data_ptr() == place


def test_parameters_are_not_written_over():
    run, shape = OPS["delta_rule"]
    start = torch.nn.Parameter(_inputs(shape[1:])[0].expand(shape).contiguous())
    before = start.detach().clone()
    with torch.no_grad(), states_in_place():
        for state in (start, start[:], start.expand(shape)):
            run(1, state)
    assert torch.equal(start.detach(), before)


def test_what_saved_the_state_for_gradients_is_told():
    run, shape = OPS["delta_rule"]
    (source,) = _inputs(shape)
    state = source.requires_grad_() * 1.0
    loss = state.square().sum()
    with torch.no_grad(), states_in_place():
        run(1, state.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_runs_again_finds_its_state():
    """Checkpoints run first without gradients, then once more with them."""
    run, shape = OPS["delta_rule"]
    (state,) = _inputs(shape)
    given = state.clone()
    with states_in_place(), torch.no_grad():
        run(3, given)
    assert torch.equal(given, state)


def test_a_step_of_newton_finds_its_state():
    def step(h: Tensor, x: Tensor) -> Tensor:
        S = h.view(-1, 1, 1, 2)
        one = torch.ones(len(S), 1, 1, 1)
        o, _ = gated_linear_attention(one, one, torch.ones(len(S), 1, 1, 2), initial_state=S)
        return (0.5 * o.view(h.shape) + x).tanh()

    x, h0 = _inputs((2, 6, 2), (2, 2))
    with torch.no_grad():
        expected = newton_scan(step, x, h0, max_iterations=1)
        with states_in_place():
            found = newton_scan(step, x, h0.clone(), max_iterations=1)
    assert expected.looped
    torch.testing.assert_close(found.h, expected.h, rtol=1e-6, atol=1e-6)


def test_who_watches_sees_the_ops():
    class Seen(TorchDispatchMode):
        names: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    run, shape = OPS["gated_linear_attention"]
    (state,) = _inputs(shape)
    with torch.no_grad(), states_in_place(), Seen():
        run(1, state)
    assert any("seqmix.gated_linear_attention" in name for name in Seen.names)


def test_a_compiled_function_may_enter_it():
    q, k, v, state = _inputs((2, 1, H, K), (2, 1, H, K), (2, 1, H, V), (2, H, K, V))

    def inside(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> Tensor:
        with states_in_place():
            return gated_linear_attention(q, k, v, initial_state=state)[0]

    with torch.no_grad():
        expected, given = gated_linear_attention(q, k, v, initial_state=state)[0], state.clone()
        found = torch.compile(inside, backend="eager", fullgraph=True)(q, k, v, given)
    assert torch.equal(found, expected) and torch.equal(given, state)


@pytest.mark.parametrize("mixing_input", ["u", "x"])
def test_sweeps_that_read_their_state_again_keep_it(mixing_input):
    torch.manual_seed(0)
    mixer = create_mixer("fp-mamba", 8, mixing_input=mixing_input, solver="sweeps")
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        _, state = mixer(x)
        expected, _ = mixer(x, state)
        with states_in_place():
            found, _ = mixer(x, state)
    assert torch.equal(found, expected)


def test_sweeps_keep_their_state_where_gradients_are_enabled_inside():
    torch.manual_seed(0)
    mixer, x = create_mixer("fp-mamba", 8, solver="sweeps"), torch.randn(2, 3, 8)
    with torch.no_grad():
        _, state = mixer(x)
        expected, _ = mixer(x, state)
        with states_in_place(), torch.enable_grad():
            found, _ = mixer(x, state)
    torch.testing.assert_close(found.detach(), expected)


def test_generation_is_that_of_steps():
    torch.manual_seed(0)
    model = SequenceModel("gla", 11, 16, 2).eval()
    prompt = torch.randint(11, (3, 4))
    found = model.generate(prompt, 6, temperature=0)
    with torch.no_grad():
        logits, state = model(prompt)
        tokens = [logits[:, -1].argmax(-1)]
        for _ in range(5):
            logits, state = model.step(tokens[-1], state)
            tokens.append(logits.argmax(-1))
    assert torch.equal(found[:, 4:], torch.stack(tokens, 1))
