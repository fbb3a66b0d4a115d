"""Models of transformers give what ours give: every sequence alone, whatever it is padded with."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from seqmix.hf import SeqmixCache, SeqmixConfig, SeqmixForCausalLM, SeqmixForSequenceClassification
from seqmix.inspect.certificates.as_built import check_as_built
from seqmix.mixers import list_mixers
from seqmix.models import SequenceModel

# The warning that padding belongs on the left is for models whose states it would meet.
pytestmark = pytest.mark.filterwarnings("ignore:.*right-padding")
FAST = ("attention", "bd-lru", "mamba")
MIXERS = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in list_mixers()]
PROMPTS = [[5, 6], [1, 2, 3, 4, 7], [9]]


def language_model(mixer: Any = "bd-lru", **arguments: Any) -> SeqmixForCausalLM:
    torch.manual_seed(0)
    config = SeqmixConfig(mixer=mixer, vocab_size=17, d_model=16, n_layers=2, pad_token_id=0, **arguments)
    model = SeqmixForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.model.parameters():  # so that likeliest tokens differ clearly
            parameter.mul_(1.5)
    return model


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Prompts and mask (3, 5)."""
    width = max(map(len, PROMPTS))
    rows, mask = [], []
    for prompt in PROMPTS:
        pad = width - len(prompt)
        rows.append([0] * pad + prompt if side == "left" else prompt + [0] * pad)
        mask.append([0] * pad + [1] * len(prompt) if side == "left" else [1] * len(prompt) + [0] * pad)
    return torch.tensor(rows), torch.tensor(mask)


def answers(model: SeqmixForCausalLM, ids: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    """The new tokens (B, 6)."""
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False, **options)
    return whole[:, ids.shape[1] :]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_padded_batch_is_each_prompt_alone(mixer: str, side: str) -> None:
    model = language_model(mixer)
    ids, mask = padded(side)
    own = [model.model.generate(torch.tensor([prompt]), 6, temperature=0)[0, len(prompt) :] for prompt in PROMPTS]
    assert torch.equal(answers(model, ids, mask), torch.stack(own))
    if side == "left":
        assert torch.equal(answers(model, ids, mask, prefill_chunk_size=2), torch.stack(own)), "chunks of padding alone"
    else:
        with pytest.raises(ValueError, match="pad on the left where a prompt is read in chunks"):
            answers(model, ids, mask, prefill_chunk_size=2)
    assert torch.equal(answers(model, ids, mask, use_cache=False), torch.stack(own))


@pytest.mark.parametrize("mixer", MIXERS)
def test_beams_follow_their_states(mixer: str) -> None:
    model = language_model(mixer)
    ids, mask = padded("left")
    beams = {"num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(answers(model, ids, mask, **beams), answers(model, ids, mask, **beams, use_cache=False))


def test_logits_of_padding_are_those_of_the_token_before() -> None:
    model = language_model()
    ids, mask = padded("right")
    logits = model(ids, attention_mask=mask).logits
    expected, _ = model.model(ids[:1, :2])
    torch.testing.assert_close(logits[:1, :2], expected)
    torch.testing.assert_close(logits[0, 2:], expected[0, -1:].expand(3, -1))


def test_it_goes_on_from_all_ids_or_from_the_new_ones_with_the_whole_mask() -> None:
    model = language_model()
    ids, new = torch.randint(1, 17, (2, 5)), torch.randint(1, 17, (2, 3))
    whole = torch.cat([ids, new], 1)
    with torch.no_grad():
        first = model(ids, use_cache=True)
    expected = answers(model, whole, torch.ones_like(whole))
    for given in (whole, new):
        cache = copy.deepcopy(first.cache)
        mask = torch.ones_like(whole)
        assert torch.equal(answers(model, given, mask, cache=cache)[:, -6:], expected)
    with pytest.raises(ValueError, match="the new ones with an attention_mask of the full length"):
        model.generate(new, cache=copy.deepcopy(first.cache), max_new_tokens=1)


def test_a_state_cannot_take_tokens_back() -> None:
    model = language_model()
    with pytest.raises(NotImplementedError, match="no crop"):
        SeqmixCache().crop(1)
    with pytest.raises(ValueError, match="assisted"):
        model.generate(torch.tensor([[1, 2]]), prompt_lookup_num_tokens=2, max_new_tokens=4)


def test_the_loss_is_that_of_shifted_labels_and_documents_may_be_packed() -> None:
    model = language_model()
    ids = torch.randint(17, (1, 9))
    logits = model(ids).logits
    expected = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:])
    torch.testing.assert_close(model(ids, labels=ids).loss, expected)
    packed = model(ids, cu_seq_lens_q=torch.tensor([0, 4, 9], dtype=torch.int32)).logits
    torch.testing.assert_close(packed[:, 4:], model(ids[:, 4:]).logits)


@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_of_either_is_read_by_both(tmp_path: Any, tied: bool) -> None:
    ids = torch.randint(17, (2, 6))
    theirs = language_model({"name": "bd-lru", "block_size": 2}, tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path / "theirs")
    theirs.model.save_pretrained(tmp_path / "ours")
    expected = theirs(ids).logits
    for folder in ("theirs", "ours"):
        found = AutoModelForCausalLM.from_pretrained(tmp_path / folder, dtype=torch.float64)
        torch.testing.assert_close(found(ids).logits, expected, rtol=0, atol=0)
        assert torch.equal(SequenceModel.from_pretrained(tmp_path / folder)(ids)[0], expected)
    assert AutoConfig.from_pretrained(tmp_path / "ours").hidden_size == 16


def test_a_model_that_there_is_shares_its_weights() -> None:
    model = SequenceModel("lru", vocab_size=17, d_model=8)
    wrapped = SeqmixForCausalLM.from_model(model, eos_token_id=3)
    assert wrapped.model is model and wrapped.config.eos_token_id == 3
    ids = torch.randint(17, (2, 5))
    assert torch.equal(wrapped(ids).logits, model(ids)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_classifier_does_not_see_padding(tmp_path: Any, bidirectional: bool) -> None:
    torch.manual_seed(0)
    head = {"name": "classification", "pooling": "last"}
    config = SeqmixConfig(mixer="gla", vocab_size=17, d_model=16, num_labels=3, head=head, bidirectional=bidirectional)
    model = SeqmixForSequenceClassification(config).double().eval()
    alone = torch.cat([model(torch.tensor([prompt])).logits for prompt in PROMPTS])
    assert alone.shape == (3, 3)
    for side in ("left", "right"):
        ids, mask = padded(side)
        torch.testing.assert_close(model(ids, attention_mask=mask).logits, alone)
    loss = model(ids, attention_mask=mask, labels=torch.tensor([0, 2, 1])).loss
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(alone, torch.tensor([0, 2, 1])))
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(again(ids, attention_mask=mask).logits, alone)
    assert SequenceModel.from_pretrained(tmp_path).head_name == "classification"


def wrong() -> Iterator[Any]:
    causal = SeqmixForCausalLM
    yield causal, {"bidirectional": True}, "causal layers"
    yield causal, {"head": {"name": "autoencoder"}}, "language head"
    yield causal, {"mixer": "os:system"}, "code that is not seqmix's"
    yield SeqmixForSequenceClassification, {"head": {"name": "language"}}, "classification head"


@pytest.mark.parametrize(("kind", "arguments", "message"), list(wrong()))
def test_what_does_not_fit_is_named(kind: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(SeqmixConfig(vocab_size=17, d_model=16, **arguments))


def test_models_can_be_certified_where_transformers_has_made_one() -> None:
    language_model()  # puts a method on torch's Module
    check_as_built(SequenceModel("bd-lru", vocab_size=3, d_model=8, mlp_ratio=0))


def test_a_mask_of_another_shape_is_named() -> None:
    with pytest.raises(ValueError, match=r"attention_mask must have shape \(B, T\) = \(2, 3\)"):
        language_model()(torch.ones(2, 3, dtype=torch.int64), attention_mask=torch.ones(2, 2))


def test_checkpointing_and_another_vocabulary() -> None:
    model = language_model().train()
    ids = torch.randint(17, (2, 6))
    before = torch.autograd.grad(model(ids, labels=ids).loss, model.model.embedding.weight)[0]
    model.activation_checkpointing_enable()
    assert model.model.activation_checkpointing
    after = torch.autograd.grad(model(ids, labels=ids).loss, model.model.embedding.weight)[0]
    torch.testing.assert_close(after, before)
    model.resize_token_embeddings(20, mean_resizing=False)
    assert model(torch.full((1, 2), 19)).logits.shape == (1, 2, 20)
