"""Heads and embeddings: by hand, padded, packed, saved; and that what makes no sense is refused by name."""

import math
from types import SimpleNamespace

import pytest
import torch

from seqmix.models import AutoencoderHead, ClassificationHead, IntensityEmbedding, SequenceModel
from seqmix.training.answers import check_answers

DOUBLE = torch.float64
CLASSES = {"name": "classification", "n_classes": 3}


def tokens(batch: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(0))


def build(head="classification", **kwargs) -> SequenceModel:
    torch.manual_seed(0)
    head = CLASSES if head == "classification" else head
    return SequenceModel("gla", 11, 8, 2, **{"head": head, "dtype": DOUBLE} | kwargs)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_by_hand(pooling: str) -> None:
    head = ClassificationHead(4, 3, pooling, dtype=DOUBLE)
    x = torch.randn(2, 5, 4, dtype=DOUBLE)
    lengths = torch.tensor([2, 5])
    rows = [x[0, :2].mean(0), x[1].mean(0)] if pooling == "mean" else [x[0, 1], x[1, 4]]
    expected = head.proj(torch.stack(rows))
    same(head(x, None, lengths)[:, 0], expected)
    same(head(x[1:])[0], expected[1:])
    packed = torch.cat((x[0, :2], x[1]))[None]
    same(head(packed, torch.tensor([0, 2, 7], dtype=torch.int32))[0], expected)


@pytest.mark.parametrize("head", ["classification", "autoencoder"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_and_packing_change_no_answer(head: str, bidirectional: bool) -> None:
    model, t, lengths = build(head, bidirectional=bidirectional), tokens(), torch.tensor([4, 6])
    padded, _ = model(t, lengths=lengths)
    other = t.clone()
    other[0, 4:] = (t[0, 4:] + 1) % 11
    alone = [model(t[:1, :4])[0], model(t[1:])[0]]
    packed, _ = model(torch.cat((t[0, :4], t[1]))[None], cu_seqlens=torch.tensor([0, 4, 10], dtype=torch.int32))
    same(packed, torch.cat(alone, dim=1))
    if head == "classification":
        same(padded, torch.cat(alone))
        same(model(other, lengths=lengths)[0], padded)
        assert padded.shape == (2, 1, 3)
    else:
        same(padded[:1, :4], alone[0])
        same(padded[1:], alone[1])


def test_the_autoencoder_knows_the_last_vector_only() -> None:
    head = AutoencoderHead(8, 11, dtype=DOUBLE)
    x = torch.randn(2, 5, 8, dtype=DOUBLE, requires_grad=True)
    logits = head(x)
    assert logits.shape == (2, 5, 11) and not torch.equal(logits[:, 0], logits[:, 1])
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert not gradient[:, :4].any() and gradient[:, 4].all()
    code = torch.tensor([math.sin(2 * 10_000 ** (-i / 3)) for i in range(4)])
    code = torch.cat((code, torch.tensor([math.cos(2 * 10_000 ** (-i / 3)) for i in range(4)])))
    u = x[:, 4] + code
    for norm, layer in zip(head.norms[:2], head.layers, strict=True):
        u = torch.nn.functional.gelu(layer(norm(u)))
    torch.testing.assert_close(logits[:, 2], head.proj(head.norms[2](u)), rtol=1e-6, atol=1e-6)


def test_intensities_enter_on_a_line() -> None:
    embedding = IntensityEmbedding(7, 4, 5)
    torch.nn.init.normal_(embedding.weight)
    black, middle, white = embedding(torch.tensor([0, 2, 4]))
    torch.testing.assert_close(middle, (black + white) / 2)
    assert torch.equal(embedding(torch.tensor([[5, 6]]))[0], embedding.weight[2:])
    assert IntensityEmbedding(5, 4, 5).weight.shape == (2, 4)
    model = build(embedding={"name": "intensity", "n_levels": 10})
    assert model.num_parameters(non_embedding=True) == model.num_parameters() - 3 * 8
    assert model(tokens())[0].isfinite().all()


@pytest.mark.sample(1)
@pytest.mark.parametrize("head", ["classification", "autoencoder"])
def test_compiles(head: str) -> None:
    model, lengths = (
        build(head, bidirectional=True, embedding={"name": "intensity", "n_levels": 9}),
        torch.tensor([4, 6]),
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    same(compiled(tokens(), lengths=lengths)[0], model(tokens(), lengths=lengths)[0])
    torch._dynamo.reset()


@pytest.mark.parametrize("head", ["classification", "autoencoder"])
def test_a_head_is_saved_with_its_model(head: str, tmp_path) -> None:
    model = build(head, bidirectional=True, embedding={"name": "intensity", "n_levels": 11})
    model.save_pretrained(tmp_path)
    loaded = SequenceModel.from_pretrained(tmp_path)
    assert loaded.config == model.config and torch.equal(loaded(tokens())[0], model(tokens())[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "classifier"}, "unknown head 'classifier'; did you mean 'classification'"),
        ({"head": "classification"}, "head 'classification' needs n_classes"),
        ({"head": {"n_classes": 3}}, "head must be a name or"),
        ({"head": CLASSES | {"poling": "mean"}}, "argument of head 'classification': 'poling'; did you mean 'pooling'"),
        ({"head": CLASSES | {"pooling": "max"}}, "pooling must be one of 'mean', 'last', got 'max'"),
        ({"head": CLASSES | {"n_classes": 0}}, "n_classes must be a positive integer, got 0"),
        ({"head": CLASSES | {"d_model": 3}}, "unknown argument of head"),
        ({"head": CLASSES, "tie_embeddings": True}, "tie_embeddings needs a language head"),
        ({"head": "autoencoder", "d_model": 2}, "d_model must be at least 4"),
        ({"embedding": "intensity"}, "embedding 'intensity' needs n_levels"),
        ({"embedding": {"name": "intensity", "n_levels": 12}}, r"n_levels must be in \[2, vocab_size = 11\], got 12"),
        ({"embedding": {"name": "intensity", "n_levels": 4}, "tie_embeddings": True}, "tie_embeddings needs"),
    ],
)
def test_bad_arguments(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SequenceModel(**{"mixer": "lstm", "vocab_size": 11, "d_model": 8} | arguments)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([0, 6]), r"lengths must be in \[1, T = 6\], got 0"),
        (torch.tensor([7, 6]), r"lengths must be in \[1, T = 6\], got 7"),
        (torch.tensor([6]), r"lengths must be int64 of shape \(2,\)"),
        (torch.tensor([6.0, 6.0]), "lengths must be int64"),
    ],
)
def test_bad_lengths(lengths: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()(tokens(), lengths=lengths)
    with pytest.raises(ValueError, match="lengths must be None where cu_seqlens packs"):
        build()(tokens(1), cu_seqlens=torch.tensor([0, 6], dtype=torch.int32), lengths=torch.tensor([6]))


def test_only_a_language_head_goes_on() -> None:
    model = build()
    with pytest.raises(ValueError, match="head 'classification' needs the whole sequence: state must be None"):
        model(tokens(), model(tokens())[1])
    with pytest.raises(ValueError, match="generate: needs causal layers and a language head, got head 'autoencoder'"):
        build("autoencoder").generate(tokens(), 2)


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ({}, {"n_classes": 4}, "n_classes must be at least the 4 classes of SimpleNamespace, got 3"),
        ({"head": "language"}, {"n_classes": 4}, "asks for one of 4 classes, expected .*n_classes: 4}, got 'language'"),
        ({}, {}, "asks for an answer at each position, got 'classification'"),
        ({"head": "language"}, {"vocab_size": 12}, "at least the 12 tokens of SimpleNamespace, got 11"),
        ({"head": "language", "bidirectional": True}, {"predicts_next": True}, "model.bidirectional: must be false"),
    ],
)
def test_a_task_that_asks_for_other_answers(model, task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_answers(build(**model), SimpleNamespace(**{"vocab_size": 11} | task))
    check_answers(build(), SimpleNamespace(vocab_size=11, n_classes=3))
    check_answers(build("autoencoder"), SimpleNamespace(vocab_size=11))
