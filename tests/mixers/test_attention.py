"""Attention against an explicit softmax, and what is particular to its state."""

import math

import pytest
import torch
from einops import rearrange

from seqmix.mixers import Attention
from seqmix.models import SequenceModel


def build(*args, **kwargs):
    torch.manual_seed(0)
    return Attention(*args, dtype=torch.float64, **kwargs)


def tokens(batch, length, d_model=16):
    return torch.randn(batch, length, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def turn(x, position, base):
    """Rotate by complex multiplication: x (K,) with pairs (i, i + K/2), at an absolute position."""
    half = len(x) // 2
    angles = torch.tensor([position * base ** (-2 * i / len(x)) for i in range(half)], dtype=torch.float64)
    turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag))


def explicit(layer, x):
    """The definition, one query and one key at a time."""
    q, k, v = rearrange(x @ layer.qkv_proj.weight.T, "b t (qkv h k) -> qkv b t h k", qkv=3, h=layer.n_heads)
    o = torch.zeros_like(q)
    for b in range(x.shape[0]):
        for h in range(layer.n_heads):
            for t in range(x.shape[1]):
                first = 0 if layer.window is None else max(0, t - layer.window + 1)
                scores = []
                for j in range(first, t + 1):
                    query, key = q[b, t, h], k[b, j, h]
                    if layer.position == "rope":
                        query, key = turn(query, t, layer.rope_base), turn(key, j, layer.rope_base)
                    scores.append(query @ key / math.sqrt(layer.d_head))
                o[b, t, h] = torch.stack(scores).softmax(0) @ v[b, first : t + 1, h]
    return o.flatten(2) @ layer.out_proj.weight.T


@pytest.mark.parametrize("window", [None, 1, 4, 50])
@pytest.mark.parametrize("position", [None, "rope"])
def test_equals_the_definition(position, window):
    layer, x = build(16, 2, position=position, window=window, rope_base=100.0), tokens(2, 11)
    expected = explicit(layer, x)
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-12)
    y, state = layer(x[:, :5])
    z, _ = layer(x[:, 5:], state)
    torch.testing.assert_close(torch.cat((y, z), dim=1), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [None, 1, 2, 4, 50])
def test_state_keeps_what_can_still_be_seen(window):
    layer, x = build(16, 2, position="rope", window=window), tokens(2, 11)
    _, state = layer(x)
    kept = 11 if window is None else min(11, window - 1)
    assert state.k.shape == state.v.shape == (2, kept, 2, 8)
    assert state.length.tolist() == [kept, kept] and state.position.tolist() == [11, 11]
    assert layer.state_size(11) == 2 * 16 * kept


def test_window_over_chunks_and_packing():
    layer, x = build(16, 2, position="rope", window=4), tokens(1, 12)
    cu_seqlens = torch.tensor([0, 2, 2, 12], dtype=torch.int32)
    _, state = layer(x, cu_seqlens=cu_seqlens)
    assert state.length.tolist() == [2, 0, 3] and state.position.tolist() == [2, 0, 10]
    assert state.k.shape == (3, 3, 2, 8)
    more = tokens(3, 5)
    y, after = layer(more, state)
    for s, (first, last) in enumerate(((0, 2), (2, 2), (2, 12))):
        expected = explicit(layer, torch.cat((x[:, first:last], more[s : s + 1]), dim=1))[:, last - first :]
        torch.testing.assert_close(y[s : s + 1], expected, rtol=1e-10, atol=1e-12)
    assert after.length.tolist() == [3, 3, 3]


def test_rope_depends_on_distance_only():
    layer, x = build(16, 2, position="rope"), tokens(1, 9)
    y, _ = layer(x)
    start = layer.init_state(1)
    for shift in (7, 1_000, 65_536):
        moved, state = layer(x, start._replace(position=start.position + shift))
        torch.testing.assert_close(moved, y, rtol=1e-9, atol=1e-10)
        assert state.position.item() == shift + 9
    unordered, _ = build(16, 2)(x[:, [2, 1, 0, 3]])
    ordered, _ = build(16, 2)(x[:, :4])
    torch.testing.assert_close(unordered[:, 3], ordered[:, 3])


def test_rope_angles_are_exact_far_away_in_float32():
    torch.manual_seed(0)
    layer = Attention(16, 2, position="rope")
    x, start = tokens(1, 9), layer.init_state(1)
    far, _ = layer(x.float(), start._replace(position=start.position + 65_536))
    torch.testing.assert_close(far, layer(x.float())[0], rtol=1e-4, atol=1e-5)


def test_cache_takes_the_type_of_the_activations():
    layer = Attention(16, 2, position="rope").bfloat16()
    _, state = layer(tokens(2, 5).bfloat16())
    assert state.k.dtype == state.v.dtype == torch.bfloat16
    _, state = layer(tokens(2, 5).bfloat16(), state)
    assert state.k.dtype == torch.bfloat16 and state.k.shape[1] == 10


def test_selective_rope_turns_by_chosen_angles():
    layer, x = build(16, 2, position="selective-rope"), tokens(2, 9)
    q, k, v = rearrange(x @ layer.qkv_proj.weight.T, "b t (qkv h k) -> qkv b t h k", qkv=3, h=2)
    omega, _ = layer.rotary.increments(x, layer.init_state(2).window, None)
    angle = torch.polar(torch.ones_like(omega), omega.cumsum(1))
    q, k = (torch.complex(*part.chunk(2, -1)) * angle for part in (q, k))
    scores = torch.einsum("bthk,bjhk->bhtj", q, k.conj()).real / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
    o = torch.einsum("bhtj,bjhv->bthv", scores.softmax(-1), v)
    torch.testing.assert_close(layer(x)[0], o.flatten(2) @ layer.out_proj.weight.T, rtol=1e-9, atol=1e-11)


def test_forget_gate_equals_the_definition():
    layer, x = build(16, 2, forget_gate=True), 3 * tokens(2, 9)
    q, k, v = rearrange(x @ layer.qkv_proj.weight.T, "b t (qkv h k) -> qkv b t h k", qkv=3, h=2)
    log_f = (x @ layer.forget_proj.weight.T + layer.forget_proj.bias).sigmoid().log()
    o = torch.zeros_like(q)
    for t in range(9):
        scores = [(q[:, t] * k[:, j]).sum(-1) / math.sqrt(8) + log_f[:, j + 1 : t + 1].sum(1) for j in range(t + 1)]
        o[:, t] = (torch.stack(scores, 1).softmax(1)[..., None] * v[:, : t + 1]).sum(1)
    torch.testing.assert_close(layer(x)[0], o.flatten(2) @ layer.out_proj.weight.T, rtol=1e-9, atol=1e-11)


OPTIONS = [
    {"d_conv": 3, "forget_gate": True, "position": "selective-rope", "window": 3},
    {"forget_gate": True, "window": 4, "position": "rope"},
    {"forget_gate": True},
    {"position": "selective-rope", "window": 5},
    {"d_conv": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_agree_over_chunks_steps_and_packing(options):
    layer, x = build(16, 2, **options), tokens(1, 12)
    state, ys = None, []
    whole, end = layer(x)
    for part in x.split([5, 1, 1, 5], dim=1):
        y, state = layer(part, state)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole, rtol=1e-9, atol=1e-11)
    for a, b in zip(state, end, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert layer.state_size(12) == sum(leaf[0].numel() for leaf in end if leaf.is_floating_point())
    packed, state = layer(x, cu_seqlens=torch.tensor([0, 2, 2, 12], dtype=torch.int32))
    torch.testing.assert_close(packed[:, :2], layer(x[:, :2])[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(packed[:, 2:], layer(x[:, 2:])[0], rtol=1e-9, atol=1e-11)
    more = tokens(3, 4)
    y, _ = layer(more, state)
    for s, (first, last) in enumerate(((0, 2), (2, 2), (2, 12))):
        expected, _ = layer(torch.cat((x[:, first:last], more[s : s + 1]), dim=1))
        torch.testing.assert_close(y[s : s + 1], expected[:, last - first :], rtol=1e-9, atol=1e-11)


@pytest.mark.sample(1)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_compile_to_four_graphs_and_run_in_bfloat16(options):
    graphs = []

    def counting(graph, example_inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    layer = build(16, 2, **options)
    compiled = torch.compile(layer, backend=counting, fullgraph=True)
    for length in (1, 64, 65, 130, 17):
        x = tokens(2, length)
        y, state = compiled(x)
        torch.testing.assert_close(y, layer(x)[0], rtol=1e-9, atol=1e-11)
        state = state.detach()
        torch.testing.assert_close(compiled(x, state)[0], layer(x, state)[0], rtol=1e-9, atol=1e-11)
    assert len(graphs) <= 4
    torch._dynamo.reset()
    y, _ = layer.bfloat16()(tokens(2, 70).bfloat16())
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads must divide d_model = 16, got 3"),
        ({"n_heads": 0}, "n_heads must be a positive integer"),
        ({"n_heads": 16, "position": "rope"}, "position='rope' needs an even"),
        ({"position": "alibi"}, "position must be one of"),
        ({"n_heads": 16, "position": "selective-rope"}, "position='selective-rope' needs an even"),
        ({"position": "rope", "rope_options": {"theta": 2}}, "rope_options go with position='selective-rope'"),
        ({"position": "selective-rope", "rope_options": {"thta": 2}}, "did you mean 'theta'"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"window": 0}, "window must be a positive integer"),
        ({"rope_base": 1}, "rope_base must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Attention(16, **arguments)


def test_state_of_another_shape():
    _, state = build(16, 4)(tokens(2, 5))
    with pytest.raises(ValueError, match=r"state\.k must have shape \(S, M, 2, 8\), got .* \(2, 5, 4, 4\)"):
        build(16, 2)(tokens(2, 5), state)
    with pytest.raises(ValueError, match=r"state\.v must have the shape of state\.k"):
        build(16, 4)(tokens(2, 5), state._replace(v=state.v[:, 1:]))


def recall(batch, generator, keys=32, values=32, pairs=4, length=32):
    """Key-value pairs, then queries of the keys at random places, each to be answered by its value."""
    k = torch.rand(batch, keys, generator=generator).argsort(1)[:, :pairs]
    v = keys + torch.randint(values, (batch, pairs), generator=generator)
    tokens = torch.zeros(batch, length, dtype=torch.long)
    targets = torch.full((batch, length), -100)
    tokens[:, : 2 * pairs] = torch.stack((k, v), -1).flatten(1)
    tokens[:, 2 * pairs :] = keys + torch.randint(values, (batch, length - 2 * pairs), generator=generator)
    # A filler may be a value; a key stands only where it is asked for.
    places = 2 * pairs + torch.rand(batch, length - 2 * pairs, generator=generator).argsort(1)[:, :pairs]
    tokens.scatter_(1, places, k)
    targets.scatter_(1, places, v)
    return tokens, targets


@pytest.mark.slow
@pytest.mark.parametrize("d_conv, low, high", [(None, 0.1, 0.45), (4, 0.98, 1.0)])
def test_one_layer_recalls_only_with_a_convolution(d_conv, low, high):
    """One layer sees keys or values, not which follows which, and guesses among the D = 4; a convolution joins them."""
    torch.manual_seed(0)
    model = SequenceModel(
        {"name": "attention", "n_heads": 1, "position": "rope", "d_conv": d_conv}, 64, d_model=64, n_layers=1
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    generator, accuracies = torch.Generator().manual_seed(1), []
    for _ in range(400):
        tokens, targets = recall(64, generator)
        logits, _ = model(tokens)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        asked = targets >= 0
        accuracies.append((logits.argmax(-1) == targets)[asked].float().mean().item())
    assert low <= sum(accuracies[-20:]) / 20 <= high
