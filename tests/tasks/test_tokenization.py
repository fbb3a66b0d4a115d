"""Tokenizers: the bytes behind each token add up, text comes back whole, what would lose some is refused."""

import json
from pathlib import Path

import pytest

from seqmix.tasks.documents import corpus_documents
from seqmix.tasks.tokenization import ByteTokenizer, JsonTokenizer, load_tokenizer, restore_tokenizer, train_bpe

library = pytest.importorskip("tokenizers")
TEXTS = ["plain text, twice: plain text", "ä中😀 \u200d\n\n  e\u0301 ", " leading", "", "\ufffd?", "a" * 50]


@pytest.fixture(scope="module")
def bpe() -> str:
    return train_bpe((document.text for document in corpus_documents("pydoc")), 400)


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
@pytest.mark.parametrize("text", TEXTS)
def test_bytes_add_up_and_text_comes_back(kind: str, text: str, bpe: str) -> None:
    tokenizer = restore_tokenizer("bytes" if kind == "bytes" else bpe)
    ids, n_bytes = tokenizer.encode(text)
    assert len(n_bytes) == len(ids) + 1 and n_bytes.sum() == len(text.encode()) and (n_bytes >= 0).all()
    assert tokenizer.eos == tokenizer.vocab_size - 1 and (ids < tokenizer.eos).all()
    decode = tokenizer.decoder()
    pieces = [decode(int(token)) for token in ids]
    assert "".join([*pieces, decode(None)]) == text
    assert all(part in text for part in pieces), "never half a character"


def test_a_byte_level_token_stands_for_its_own_bytes(bpe: str) -> None:
    # Where no character is split, the count is the length of the token; known from its name in the vocabulary.
    names = {number: name for name, number in json.loads(bpe)["model"]["vocab"].items()}
    text = next(corpus_documents("pydoc")).text
    assert text.isascii()
    ids, n_bytes = JsonTokenizer(bpe).encode(text)
    assert [len(names[i]) for i in ids.tolist()] == n_bytes[:-1].tolist() and n_bytes[-1] == 0
    assert n_bytes.max() > 4 and len(ids) < len(text) / 1.7


def test_a_split_character_counts_for_its_first_token() -> None:
    bare = JsonTokenizer(train_bpe(["xy" * 9], 257))
    assert bare.encode("aäb")[1].tolist() == [1, 2, 0, 1, 0]


def test_invalid_bytes_of_a_model_become_replacement_characters(bpe: str) -> None:
    for tokenizer in (ByteTokenizer(), restore_tokenizer(bpe)):
        ids = tokenizer.encode("ä")[0][:1]
        decode = tokenizer.decoder()
        text = decode(int(ids[0])) + decode(int(tokenizer.encode("b")[0][0])) + decode(tokenizer.eos)
        assert text == "\ufffdb"


def test_training_is_reproducible_and_the_fingerprint_tells(bpe: str) -> None:
    texts = [document.text for document in corpus_documents("pydoc")]
    again = train_bpe(texts, 400)
    assert JsonTokenizer(again).fingerprint == JsonTokenizer(json.dumps(json.loads(bpe), indent=2)).fingerprint
    other = JsonTokenizer(train_bpe(texts, 401))
    assert JsonTokenizer(bpe).vocab_size == 401 and other.vocab_size == 402
    assert len({"bytes", ByteTokenizer.fingerprint, other.fingerprint, JsonTokenizer(bpe).fingerprint}) == 3
    with pytest.raises(ValueError, match="vocab_size: expected an integer above 256, the bytes, got 256"):
        train_bpe(texts, 256)


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    tokenizer = library.Tokenizer(library.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    wrapped = JsonTokenizer(tokenizer.to_str())
    assert wrapped.encode("a a")[0].tolist() == [0, 0]
    with pytest.raises(ValueError, match="expected a tokenizer that keeps the text"):
        wrapped.encode("a b")


def test_load(tmp_path: Path, bpe: str) -> None:
    (tmp_path / "good.json").write_text(bpe)
    (tmp_path / "bad.json").write_text("{}")
    assert load_tokenizer("bytes").fingerprint == "bytes"
    assert load_tokenizer(str(tmp_path / "good.json")).fingerprint == JsonTokenizer(bpe).fingerprint
    with pytest.raises(ValueError, match=r"bad.json: expected the JSON of a tokenizers.Tokenizer"):
        load_tokenizer(str(tmp_path / "bad.json"))
    with pytest.raises(ValueError, match="expected 'bytes' or a JSON file of the tokenizers library, got 'byte'"):
        load_tokenizer("byte")
