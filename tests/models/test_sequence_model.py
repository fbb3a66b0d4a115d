"""The model: hybrids, states, initialisation, checkpointing, generation, saving."""

import copy
import functools
import json
import sys

import pytest
import torch
from torch.nn import functional as F

from seqmix.mixers import LSTM, Attention, TokenMixer, create_mixer, list_mixers
from seqmix.models import SequenceModel, SequenceModelState

HYBRID = ["lstm", {"name": "attention", "n_heads": 2, "position": "rope"}]


def build(mixer=HYBRID, n_layers=2, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    return SequenceModel(mixer, 11, 8, n_layers, dtype=dtype, **kwargs)


def tokens(batch=2, length=9, seed=1):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def grads(model, *inputs, **kwargs):
    model.zero_grad()
    logits, _ = model(*inputs, **kwargs)
    logits.square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_whole_equals_chunks_steps_and_packed():
    model, t = build(), tokens()
    logits, final = model(t)
    first, state = model(t[:, :4])
    second, chunked = model(t[:, 4:], state)
    same(torch.cat((first, second), dim=1), logits)
    state, steps = model.init_state(2), []
    for column in t.unbind(1):
        step, state = model.step(column, state)
        steps.append(step)
    same(torch.stack(steps, dim=1), logits)
    for other in (chunked, state):
        for a, b in zip(other.layers, final.layers, strict=True):
            torch.testing.assert_close(tuple(a), tuple(b), rtol=1e-10, atol=1e-12)

    cu_seqlens = torch.tensor([0, 3, 3, 9], dtype=torch.int32)
    packed, final = model(t[:1], cu_seqlens=cu_seqlens)
    same(packed, torch.cat((model(t[:1, :3])[0], model(t[:1, 3:])[0]), dim=1))
    more = tokens(3, 2)
    same(model(more, final)[0][2:], model(torch.cat((t[:1, 3:], more[2:]), dim=1))[0][:, 6:])
    assert type(final.select([0, 2])) is SequenceModelState
    assert not any(leaf.requires_grad for layer in final.detach().layers for leaf in layer)


@pytest.mark.parametrize(
    "mixer",
    ["lstm", {"name": "lstm", "d_state": 4}, LSTM, functools.partial(LSTM, d_state=4), ["lstm"], ("lstm", Attention)],
    ids=str,
)
def test_ways_to_name_a_mixer(mixer):
    model = build(mixer)
    assert len(model.mixers) == 2 and isinstance(model.mixers[0], LSTM)
    assert model.mixers[0] is not model.mixers[1]
    assert isinstance(model.mixers[1], Attention if isinstance(mixer, tuple) else LSTM)
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert model(tokens())[0].shape == (2, 9, 11)


def test_sizes():
    model = build()
    assert model.state_size(5) == 2 * 8 + 2 * 8 * 5
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.num_parameters(non_embedding=True) == model.num_parameters() - 11 * 8
    assert build(mlp_ratio=0).blocks[0].mlp is None
    assert build(mlp_ratio=4).blocks[0].mlp.down_proj.in_features == 32
    assert build().blocks[0].mlp.down_proj.in_features == 24


def test_initialisation_leaves_the_mixers_alone():
    alone, made = [], []

    def factory(d_model):
        mixer = create_mixer("lstm", d_model)
        alone.append(copy.deepcopy(mixer.state_dict()))
        made.append(mixer)
        return mixer

    torch.manual_seed(0)
    model = SequenceModel(factory, 500, 64, 2)
    for state, mixer in zip(alone, made, strict=True):
        assert all(torch.equal(state[key], value) for key, value in mixer.state_dict().items())
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.blocks[0].mlp.down_proj.weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_tied_embeddings():
    model = build(tie_embeddings=True)
    assert model.num_parameters() == build().num_parameters() - 11 * 8
    assert "head.weight" not in model.state_dict()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embedding.weight.zero_()
    assert not other(tokens())[0].any() and model(tokens())[0].any()
    assert all(grad.isfinite().all() for grad in grads(model, tokens()))


@pytest.mark.parametrize("packed", [False, True])
def test_activation_checkpointing_gives_equal_gradients(packed):
    kwargs = {"cu_seqlens": torch.tensor([0, 3, 9], dtype=torch.int32)} if packed else {}
    t = tokens(1 if packed else 2)
    model = build()
    state = model(tokens(2, 4, seed=2))[1].detach()
    expected = grads(model, t, state, **kwargs)
    model.activation_checkpointing = True
    same(grads(model, t, state, **kwargs), expected)
    model.eval()
    same(grads(model, t, state, **kwargs), expected)


def test_activation_checkpointing_repeats_dropout():
    model = build(activation_checkpointing=True, dropout=0.5)
    torch.manual_seed(3)
    found = grads(model, tokens())
    model.activation_checkpointing = False
    torch.manual_seed(3)
    same(found, grads(model, tokens()))
    assert not torch.equal(model(tokens())[0], model(tokens())[0])
    model.eval()
    same(model(tokens())[0], model(tokens())[0])


def test_compiles():
    model = build()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    t = tokens()
    logits, state = compiled(t)
    same(logits, model(t)[0])
    # Detached: for inputs inside a graph Dynamo reads .grad, and torch warns.
    same(compiled(t, state.detach())[0], model(t, state)[0])
    torch._dynamo.reset()


def test_greedy_generation_follows_the_whole_pass():
    model, prompt = build(dropout=0.5), tokens(3, 4)
    found = model.generate(prompt, 6, temperature=0)
    assert model.training and model.blocks[0].dropout.training
    model.eval()
    expected = prompt
    for _ in range(6):
        expected = torch.cat((expected, model(expected)[0][:, -1:].argmax(-1)), dim=1)
    assert torch.equal(found, expected)
    assert torch.equal(model.generate(prompt, 0), prompt)


def test_sampling():
    model, prompt = build(), tokens(64, 2)
    with torch.no_grad():
        model.head.weight.mul_(200)
    generator = torch.Generator().manual_seed(0)
    draws = model.generate(prompt, 1, top_k=3, generator=generator)[:, -1]
    logits = model(prompt)[0][:, -1]
    best = logits.topk(3, dim=-1).indices
    assert (draws[:, None] == best).any(dim=1).all() and len(set(draws.tolist())) > 1
    assert torch.equal(model.generate(prompt, 4, top_k=1), model.generate(prompt, 4, temperature=0))
    for cold in (1e-9, 1e-37, 1e-40, 5e-324):
        assert torch.equal(model.generate(prompt, 1, temperature=cold), model.generate(prompt, 1, temperature=0))
    every = [model.generate(prompt, 3, top_k=k, generator=generator.manual_seed(2)) for k in (None, 11, 50)]
    assert torch.equal(every[0], every[1]) and torch.equal(every[0], every[2])
    again = model.generate(prompt, 1, top_k=3, generator=generator.manual_seed(0))[:, -1]
    assert torch.equal(again, draws)

    row = prompt[:1].expand(4_000, 2)
    drawn = model.generate(row, 1, temperature=2.0, generator=generator)[:, -1].bincount(minlength=11) / 4_000
    torch.testing.assert_close(drawn.double(), (logits[0] / 2).softmax(-1), rtol=0, atol=0.04)


@pytest.mark.parametrize("stop", [None, 3])
def test_padded_prompts_are_continued_where_they_end(stop):
    model, prompt, lengths = build(), tokens(4, 6), torch.tensor([2, 6, 1, 5])
    found = model.generate(prompt, 5, temperature=0, lengths=lengths, stop_token=stop)
    new = found.shape[1] - 6
    for row, given, length in zip(found, prompt, lengths.tolist(), strict=True):
        alone = model.generate(given[None, :length], new, temperature=0, stop_token=stop)[0]
        alone = F.pad(alone, (0, length + new - len(alone)), value=-1 if stop is None else stop)
        assert torch.equal(row, torch.cat((alone, given[length:])))


def test_stop_token():
    model, prompt = build(), tokens(8, 3)
    free = model.generate(prompt, 12, generator=torch.Generator().manual_seed(1))
    stop = free[0, 5].item()
    found = model.generate(prompt, 12, stop_token=stop, generator=torch.Generator().manual_seed(1))
    for row in found[:, 3:].tolist():
        if stop in row:
            assert set(row[row.index(stop) :]) == {stop}
    certain = model.generate(prompt[:1], 12, temperature=0, stop_token=int(model(prompt[:1])[0][0, -1].argmax()))
    assert certain.shape == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer"),
        ({"temperature": -0.1}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": 0}, "top_k must be a positive integer, got 0"),
        ({"top_k": 2.5}, "top_k must be a positive integer, got 2.5"),
        ({"lengths": torch.tensor([3, 10])}, r"lengths must be in \[1, T = 9\], got 10"),
        ({"stop_token": 11}, r"stop_token must be an integer in \[0, 11\)"),
        ({"tokens": tokens()[0]}, "tokens must be an int64 tensor"),
    ],
)
def test_bad_generation_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build().generate(**{"tokens": tokens(), "max_new_tokens": 3, **arguments})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tie", [False, True])
def test_saving(tmp_path, tie, dtype):
    model = build(tie_embeddings=tie, dtype=dtype, mlp_ratio=2)
    folder = tmp_path / "a" / "model"
    model.save_pretrained(folder)
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loaded = SequenceModel.from_pretrained(str(folder))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(loaded(tokens())[0], model(tokens())[0])
    assert all(p.dtype == dtype and p.requires_grad for p in loaded.parameters())
    assert loaded.config == model.config


def test_saving_refuses_what_it_could_not_load(tmp_path):
    with pytest.raises(ValueError, match="mixer must be given by name"):
        build(LSTM).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="JSON cannot hold"):
        build({"name": "lstm", "dtype": torch.float32}).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_loading_explains_what_does_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        SequenceModel.from_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"d_model": 16}))
    with pytest.raises(ValueError, match=r"disagree: .*embedding\.weight is \(11, 8\), expected \(11, 16\)"):
        SequenceModel.from_pretrained(tmp_path)
    path.write_text(json.dumps(config | {"tie_embeddings": True}))
    with pytest.raises(ValueError, match=r"disagree: unexpected head\.weight"):
        SequenceModel.from_pretrained(tmp_path)
    path.write_text(json.dumps(config | {"depth": 3}))
    with pytest.raises(ValueError, match=r"does not describe a model: .*depth"):
        SequenceModel.from_pretrained(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="does not describe a model"):
        SequenceModel.from_pretrained(tmp_path)


def test_missing_safetensors_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"pip install 'seqmix\[train\]'"):
        build().save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixer": "lstn"}, "unknown mixer 'lstn'; did you mean 'lstm'"),
        ({"mixer": {"name": "lstm", "d_stat": 3}}, "'d_stat'; did you mean 'd_state'"),
        ({"mixer": {"d_state": 3}}, "mixer must have a 'name'"),
        ({"mixer": 3}, "mixer must be a name"),
        ({"mixer": LSTM(8)}, "give its class"),
        ({"mixer": lambda d_model: torch.nn.Linear(8, 8)}, "mixer must build a TokenMixer of width 8"),
        ({"mixer": lambda d_model: LSTM(4)}, "mixer must build a TokenMixer of width 8"),
        ({"mixer": ["lstm", "lstm"]}, "list of n_layers = 3 of them, got 2"),
        ({"mixer": []}, "list of n_layers = 3 of them, got 0"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer"),
        ({"d_model": -1}, "d_model must be a positive integer"),
        ({"n_layers": 0}, "n_layers must be a positive integer"),
        ({"mlp_ratio": -1}, "mlp_ratio must be"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequenceModel(**{"mixer": "lstm", "vocab_size": 11, "d_model": 8, "n_layers": 3, **arguments})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: m(t + 10), r"tokens must be in \[0, vocab_size = 11\), got"),
        (lambda m, t: m(t - 11), r"tokens must be in \[0, vocab_size = 11\), got -"),
        (lambda m, t: m(t[0]), r"tokens must be an int64 tensor \(B, T\)"),
        (lambda m, t: m(t.int()), "tokens must be an int64 tensor"),
        (lambda m, t: m(t.tolist()), "tokens must be an int64 tensor"),
        (lambda m, t: m(t[:, :0]), "tokens must hold at least one time step"),
        (lambda m, t: m(t.to("meta")), "tokens must be on cpu"),
        (lambda m, t: m.step(t, m.init_state(2)), r"tokens must be an int64 tensor \(B,\)"),
        (lambda m, t: m(t, m.mixers[0].init_state(2)), "state must be a SequenceModelState of 2 layers, got LSTMState"),
        (lambda m, t: m(t, SequenceModelState(())), "of 2 layers, got 0 layers"),
        (lambda m, t: m(t, build(HYBRID[::-1]).init_state(2)), "LSTM: state must be a LSTMState"),
        (lambda m, t: m(t, m.init_state(3)), "must hold 2 sequences, got 3"),
        (lambda m, t: m(t, cu_seqlens=torch.tensor([0, 9], dtype=torch.int32)), "cu_seqlens.*B = 2"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(build(), tokens())


def test_a_hybrid_of_everything():
    names = list_mixers()
    torch.manual_seed(0)
    model = SequenceModel(names, 11, 16, len(names), dtype=torch.float64)
    assert all(isinstance(mixer, TokenMixer) for mixer in model.mixers)
    logits, _ = model(tokens())
    state, steps = model.init_state(2), []
    for column in tokens().unbind(1):
        step, state = model.step(column, state)
        steps.append(step)
    same(torch.stack(steps, dim=1), logits)
    assert all(grad.isfinite().all() for grad in grads(model, tokens()))
