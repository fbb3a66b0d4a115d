"""What every mixer promises, checked for whatever is registered: a mixer added later is tested by being registered.

The heart is one comparison: a whole sequence at once, in chunks, token by token and packed must agree in outputs,
final states and gradients, the gradient to the initial state and from the final state included.
"""

import copy
import math
import pickle
from typing import NamedTuple

import pytest
import torch
from torch.utils import _pytree as pytree

from seqmix.mixers import create_mixer, list_mixers
from seqmix.optim import parameter_groups

D = 16
MIXERS = list_mixers()
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@pytest.fixture(params=MIXERS)
def name(request):
    return request.param


def build(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return create_mixer(name, D, dtype=dtype)


def inputs(batch, length, dtype=torch.float64, seed=1):
    return torch.randn(batch, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def is_float(leaf):
    return leaf.is_floating_point() or leaf.is_complex()


def some_state(mixer, sequences, dtype=torch.float64):
    """A state in mid-sequence that no mixer would reach by itself, ready for gradients."""
    with torch.no_grad():
        _, state = mixer(inputs(sequences, 5, dtype, seed=2))
    generator = torch.Generator().manual_seed(3)

    def disturb(leaf):
        if not is_float(leaf):
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)
        return (leaf.detach() + 0.3 * noise).requires_grad_()

    return pytree.tree_map(disturb, state)


def float_leaves(state):
    return [leaf for leaf in pytree.tree_leaves(state) if is_float(leaf)]


def flat(tensor):
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()


def weighted(tensor):
    # Weights count from the end, so padding at the front of a cache leaves the rest of them alone.
    values = flat(tensor)
    index = torch.arange(values.numel() - 1, -1, -1, dtype=torch.float64)
    return (values * torch.cos(1.7 * index + 0.3).to(values.dtype)).sum()


def measure(mixer, x, state, run):
    """Everything a caller can see of one run: outputs, final states, gradients to all that is differentiable.

    `run(mixer, x, state)` returns y and a list of final states, one for each sequence.
    """
    x = x.detach().requires_grad_()
    y, finals = run(mixer, x, state)
    leaves = [leaf for final in finals for leaf in float_leaves(final)]
    loss = weighted(y) + sum(weighted(leaf) for leaf in leaves)
    named = dict(mixer.named_parameters())
    sources = [x, *float_leaves(state), *named.values()]
    grads = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    names = ["x", *(f"state {i}" for i in range(len(float_leaves(state)))), *named]
    seen = {"y": y, **{f"final {i}": leaf for i, leaf in enumerate(leaves)}}
    seen |= {f"gradient of {name}": grad for name, grad in zip(names, grads, strict=True)}
    return {key: value.detach() for key, value in seen.items()}


def assert_same(found, expected, tolerance, what):
    assert found.keys() == expected.keys(), what
    floor = 1e-3 * max(flat(t).abs().max().item() for key, t in expected.items() if "gradient" in key and t.numel())
    for key, reference in expected.items():
        a, b = flat(found[key]), flat(reference)
        if "final" in key:
            # Caches of packed sequences are padded to the longest one, at the front and with zeros.
            n = min(a.numel(), b.numel())
            assert not a[: a.numel() - n].any() and not b[: b.numel() - n].any(), f"{what}: {key} has no padding"
            a, b = a[a.numel() - n :], b[b.numel() - n :]
        assert a.shape == b.shape, f"{what}: {key} has {a.shape}, expected {b.shape}"
        if not a.numel():
            continue
        scale = b.abs().max().item() + (floor if "gradient" in key else 0)
        error = (a - b).abs().max().item()
        assert error <= tolerance * scale, f"{what}: {key} differs by {error:.2e} at a scale of {scale:.2e}"


def split(state, sequences):
    return [state.select(s) for s in range(sequences)]


def whole(mixer, x, state):
    y, final = mixer(x, state)
    return y, split(final, len(x))


def chunked(*sizes):
    def run(mixer, x, state):
        ys = []
        for part in x.split([*sizes, x.shape[1] - sum(sizes)], dim=1):
            y, state = mixer(part, state)
            ys.append(y)
        return torch.cat(ys, dim=1), split(state, len(x))

    return run


def stepwise(mixer, x, state):
    ys = []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        ys.append(y)
    return torch.stack(ys, dim=1), split(state, len(x))


def offsets(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def packed(lengths):
    def run(mixer, x, state):
        y, final = mixer(x, state, cu_seqlens=offsets(lengths))
        return y, split(final, len(lengths))

    return run


def separate(lengths):
    def run(mixer, x, state):
        ys, finals = [], []
        for s, part in enumerate(x.split(lengths, dim=1)):
            final = state.select(s)
            if lengths[s]:
                y, final = mixer(part, final)
                ys.append(y)
            finals.append(final)
        return torch.cat(ys, dim=1), finals

    return run


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [13, 70])
def test_whole_equals_chunks_equals_steps(name, dtype, length):
    mixer = build(name, dtype)
    x, state = inputs(2, length, dtype), some_state(mixer, 2, dtype)
    expected = measure(mixer, x, state, whole)
    runs = {"chunks of 1, 2": chunked(1, 2), "halves": chunked(length // 2), "steps": stepwise}
    if length == 70:
        runs = {"chunks of 64, 2, 1": chunked(64, 2, 1), "steps": stepwise}
    for what, run in runs.items():
        assert_same(measure(mixer, x, state, run), expected, TOLERANCE[dtype], what)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("lengths", [[5, 0, 1, 7], [0, 33, 37], [13], [2, 0, 0]], ids=str)
def test_packed_equals_separate(name, dtype, lengths):
    mixer = build(name, dtype)
    x, state = inputs(1, sum(lengths), dtype), some_state(mixer, len(lengths), dtype)
    expected = measure(mixer, x, state, separate(lengths))
    assert_same(measure(mixer, x, state, packed(lengths)), expected, TOLERANCE[dtype], "packed")


def test_packed_states_continue(name):
    mixer, lengths = build(name), [5, 0, 8]
    x, more = inputs(1, 13), inputs(3, 4, seed=5)
    _, final = mixer(x, cu_seqlens=offsets(lengths))
    continued, _ = mixer(more, final)
    for s, part in enumerate(x.split(lengths, dim=1)):
        expected, _ = mixer(torch.cat((part, more[s : s + 1]), dim=1))
        torch.testing.assert_close(continued[s : s + 1], expected[:, lengths[s] :], rtol=1e-9, atol=1e-12)


def test_no_state_is_the_initial_state(name):
    mixer, x = build(name), inputs(2, 7)
    y, final = mixer(x)
    again, same = mixer(x, mixer.init_state(2))
    torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-12)
    pytree.tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12), same, final)


def test_gradients_agree_with_finite_differences(name):
    mixer, x = build(name), inputs(2, 9)
    state = some_state(mixer, 2)
    sources = [x.requires_grad_(), *float_leaves(state), *mixer.parameters()]

    def loss():
        y, final = mixer(x, state)
        return weighted(y.tanh()) + sum(weighted(leaf) for leaf in float_leaves(final))

    grads = torch.autograd.grad(loss(), sources, allow_unused=True, materialize_grads=True)
    generator, step = torch.Generator().manual_seed(4), 1e-6
    for source, grad in zip(sources, grads, strict=True):
        direction = torch.randn(source.shape, generator=generator, dtype=source.dtype)
        with torch.no_grad():
            original = source.clone()
            high = source.copy_(original + step * direction) is not None and loss()
            low = source.copy_(original - step * direction) is not None and loss()
            source.copy_(original)
        found, expected = (grad * direction.conj()).sum().real, (high - low) / (2 * step)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_causality(name):
    mixer, x = build(name), inputs(2, 13)
    changed = x.clone()
    changed[:, 8:] = inputs(2, 5, seed=7)
    y, other = mixer(x)[0], mixer(changed)[0]
    torch.testing.assert_close(other[:, :8], y[:, :8], rtol=1e-9, atol=1e-12)
    assert (other[:, 8:] - y[:, 8:]).abs().amax(dim=(0, 2)).min() > 1e-9


def test_sequences_of_a_batch_are_independent(name):
    mixer, x = build(name), inputs(3, 11)
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
    changed[1] = inputs(1, 11, seed=8)[0]
    torch.testing.assert_close(mixer(changed, state)[0][[0, 2]], y[[0, 2]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(name, dtype):
    mixer = build(name, torch.float32).to(dtype)
    reference = copy.deepcopy(mixer).double()
    x = inputs(2, 70, dtype)
    expected, _ = reference(x.double())
    bound = 8 * torch.finfo(dtype).eps * expected.abs().max()
    y, state = mixer(x)
    assert y.dtype == dtype
    assert (y.double() - expected).abs().max() <= bound
    kept, _ = chunked(3, 64)(mixer, x, None)
    assert (kept.double() - expected).abs().max() <= bound
    for leaf in float_leaves(state):
        assert leaf.dtype in (torch.float32, torch.complex64, dtype)
    y.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in mixer.parameters())


def test_autocast(name):
    mixer, x = build(name, torch.float32), inputs(2, 13, torch.float32).requires_grad_()
    expected, _ = mixer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = mixer(x)
        again, _ = mixer(x[:, 5:], mixer(x[:, :5])[1])
    scale = expected.abs().max()
    assert (y - expected).abs().max() <= 0.05 * scale
    assert (again - expected[:, 5:]).abs().max() <= 0.05 * scale
    (y.float().sum() + sum(weighted(leaf) for leaf in float_leaves(state))).backward()
    assert x.grad.isfinite().all()


def test_select_and_detach(name):
    mixer = build(name)
    _, state = mixer(inputs(3, 6).requires_grad_())
    leaves = pytree.tree_leaves(state)
    for index in (1, [2, 0], torch.tensor([2, 0]), slice(1, 3), torch.tensor([True, False, True])):
        expected = [leaf[[index] if isinstance(index, int) else index] for leaf in leaves]
        chosen = state.select(index)
        assert type(chosen) is type(state)
        for a, b in zip(pytree.tree_leaves(chosen), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert any(leaf.requires_grad for leaf in leaves)
    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves(state.detach()))
    copied = pickle.loads(pickle.dumps(state.detach()))
    assert type(copied) is type(state)


def test_states_are_values(name):
    mixer = build(name)
    state = some_state(mixer, 2)
    leaves = pytree.tree_leaves(state)
    before = [(leaf.detach().clone(), leaf._version) for leaf in leaves]
    x = inputs(2, 7).requires_grad_()
    y, final = mixer(x, state)
    z, _ = mixer.step(x[:, 0], state)
    kept = [leaf.detach().clone() for leaf in pytree.tree_leaves(final)]
    _, later = mixer(x, final)
    (y.sum() + z.sum() + sum(weighted(leaf) for leaf in float_leaves(later))).backward()
    for leaf, (value, version) in zip(leaves, before, strict=True):
        assert torch.equal(leaf, value) and leaf._version == version
    for leaf, value in zip(pytree.tree_leaves(final), kept, strict=True):
        assert torch.equal(leaf, value)
    owned = {leaf.untyped_storage().data_ptr() for leaf in leaves if leaf.numel()}
    for leaf in (y, *pytree.tree_leaves(final)):
        assert not leaf.numel() or leaf.untyped_storage().data_ptr() not in owned, "the output aliases the state"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_init_state(name, dtype):
    mixer = build(name, torch.float32)
    wide = (torch.float64, torch.complex128) if dtype == torch.float64 else (torch.float32, torch.complex64, dtype)
    for leaf in pytree.tree_leaves(mixer.init_state(3, dtype=dtype)):
        assert leaf.shape[0] == 3
        assert leaf.dtype in wide or leaf.dtype == torch.int64
        assert leaf.device.type == "cpu"
    for leaf in pytree.tree_leaves(mixer.init_state(3, device="meta", dtype=dtype)):
        assert leaf.device.type == "meta"
    for leaf in float_leaves(mixer.to(dtype).init_state(3)):
        assert leaf.dtype in wide


@pytest.mark.parametrize("length", [1, 6, 70])
def test_state_size(name, length):
    mixer = build(name)
    _, state = mixer(inputs(2, length))
    numbers = sum(leaf[0].numel() * (2 if leaf.is_complex() else 1) for leaf in float_leaves(state))
    assert mixer.state_size(length) == numbers
    if length == 1:
        assert mixer.state_size() == numbers


class Foreign(NamedTuple):
    h: torch.Tensor


def resized(state):
    return pytree.tree_map(lambda leaf: torch.cat((leaf, leaf[..., :1]), -1) if is_float(leaf) else leaf, state)


BAD_INPUT = {
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
    "state of another": (lambda m, x: m(x, Foreign(x[:, 0])), "state must be a"),
    "a bare tensor": (lambda m, x: m(x, x[:, 0]), "state must be a"),
    "state batch": (lambda m, x: m(x, m.init_state(3)), r"state\.\w+ must hold 2 sequences, got 3"),
    "state width": (lambda m, x: m(x, resized(m.init_state(2))), "state"),
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


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_named(name, case):
    call, message = BAD_INPUT[case]
    mixer = build(name)
    with pytest.raises(ValueError, match=message):
        call(mixer, inputs(2, 5))


@pytest.mark.parametrize("argument", ["d_model", "d_modle"])
def test_bad_arguments_are_named(name, argument):
    with pytest.raises(ValueError, match=argument):
        create_mixer(name, 0) if argument == "d_model" else create_mixer(name, D, d_modle=3)


def test_copies(name):
    mixer, x = build(name), inputs(2, 7)
    expected, _ = mixer(x)
    copies = [copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer)), build(name, seed=9)]
    assert not torch.equal(copies[-1](x)[0], expected)
    copies[-1].load_state_dict(mixer.state_dict())
    for other in copies:
        torch.testing.assert_close(other(x)[0], expected, rtol=0, atol=0)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(1)
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(name, mode):
    mixer, x = build(name), inputs(2, 7)
    expected, _ = mixer(x)
    with mode():
        y, state = mixer(x[:, :4])
        z, state = mixer(x[:, 4:], state)
        mixer.step(x[:, 0], state)
    torch.testing.assert_close(torch.cat((y, z), dim=1), expected.detach(), rtol=1e-9, atol=1e-12)
    assert not z.requires_grad


def test_strides(name):
    mixer = build(name)
    state = some_state(mixer, 2)
    wide = inputs(2, 26).transpose(0, 1).contiguous().transpose(0, 1)[:, ::2]
    expected = measure(mixer, wide.contiguous(), state, whole)
    assert_same(measure(mixer, wide, state, whole), expected, 1e-12, "strided x")

    x, gradients = inputs(2, 7).requires_grad_(), []
    for expand in (True, False):
        y, final = mixer(x, state)
        outputs = [y, *float_leaves(final)]
        ones = [torch.ones((), dtype=t.dtype).expand(t.shape) for t in outputs]
        upstream = ones if expand else [t.contiguous() for t in ones]
        gradients.append(torch.autograd.grad(outputs, [x, *float_leaves(state)], upstream))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_fresh_memory_is_not_read(name):
    mixer, lengths = build(name), [5, 0, 1, 7]
    x, state = inputs(1, 13), some_state(mixer, 4)
    expected = measure(mixer, x, state, packed(lengths))
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        found = measure(mixer, x, state, packed(lengths))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(found, expected, 1e-12, "poisoned memory")


def test_declarations_give_a_partition(name):
    mixer = build(name)
    groups = parameter_groups(mixer, lr=1.0, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(mixer.parameters()))
    assert all(math.isfinite(group["lr"]) for group in groups)


def test_compiles_to_four_graphs(name):
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return aot_eager(graph, example_inputs)

    torch._dynamo.reset()
    mixer = build(name)
    compiled = torch.compile(mixer, backend=counting, fullgraph=True)
    states = {}
    for length in (1, 64, 65, 300):
        x = inputs(2, length).requires_grad_()
        y, states[length] = compiled(x)
        z, _ = compiled(x, states[length].detach())
        expected, state = mixer(x)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(z, mixer(x, state)[0], rtol=1e-9, atol=1e-12)
        if length in (1, 65):
            grads = [torch.autograd.grad(weighted(out), x)[0] for out in (z, mixer(x, state.detach())[0])]
            torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert len(graphs) <= 4
    count = len(graphs)
    for length in (17, 300, 1, 128):
        x = inputs(2, length).requires_grad_()
        _, state = compiled(x)
        compiled(x, state.detach())
    assert len(graphs) == count
    torch._dynamo.reset()
