"""`states_in_place`: the numbers of a step as they are, in the memory of the state before it, and only where asked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seqmix import SequenceModel
from seqmix.kernels import delta_rule, dplr_delta_rule, gated_linear_attention, selective_scan, states_in_place
from seqmix.kernels.m2rnn.api import m2rnn
from seqmix.mixers import create_mixer

H, K, V = 2, 5, 3


def _inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _matrix(op: Callable[..., Any], *gates: tuple[int, ...]) -> Callable[..., Any]:
    def run(length: int, state: Tensor) -> Any:
        q, k, v, *more = _inputs(*((2, length, H, width) for width in (K, K, V)), *((2, length, *g) for g in gates))
        return op(q, k, v, *(-gate.abs() if gate.ndim < 4 or op is gated_linear_attention else gate for gate in more),
                  initial_state=state)  # fmt: skip

    return run


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
    "gated_linear_attention": (_matrix(gated_linear_attention, (H, K)), (2, H, K, V)),
    "delta_rule": (_matrix(delta_rule, (H,)), (2, H, K, V)),
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
