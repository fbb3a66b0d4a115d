"""Copying: texts and answers by hand, published layouts, uniform places, errors before training."""

import numpy as np
import pytest
import torch

from seqmix.tasks import create_task
from seqmix.tasks.selective_copy import CompressionExamples, InductionHeadsExamples, SelectiveCopyExamples
from seqmix.tasks.string_copy import DuplicateNgramExamples, NgramLookupExamples, StringCopyExamples

ALPHABET = "abcdefghijklmnopqrstuvwxyz$|."


def make(examples, length: int, count: int = 200, start: int = 0, split: str = "train"):
    batch = examples(seed=0, split=split, start=start, count=count, length=length)
    assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
    assert batch["tokens"].max() < examples.vocab_size > batch["targets"].max()
    return batch["tokens"], batch["targets"]


def texts(examples, length: int, count: int = 200) -> list[tuple[str, str]]:
    """The whole text and its answer, from inputs and targets."""
    result = []
    for row, targets in zip(*make(examples, length, count), strict=True):
        scored = targets != -100
        first = int(scored.long().argmax())
        assert scored[first:].all() and torch.equal(targets[first:-1], row[first + 1 :])
        text = "".join(ALPHABET[t] for t in [*row.tolist(), int(targets[-1])])
        result.append((text, text[first + 1 :]))
    return result


def test_string_copy() -> None:
    for text, answer in texts(StringCopyExamples(), 7):
        _, s, copied = text.replace("$", "|").split("|")
        assert len(s) == 7 and text == f"${s}|{s}." and answer == copied == s + "."


def test_repeated_ngrams() -> None:
    starts = np.zeros(9)
    for text, answer in texts(DuplicateNgramExamples(26, n=3, repeats=2), 11, 4000):
        s = answer[:-1]
        assert text == f"${s}|{s}."
        places = [(i, j) for i in range(9) for j in range(i + 3, 9) if s[i : i + 3] == s[j : j + 3]]
        assert places, "two that do not overlap"
        starts[places[0][0]] += 1
    # Of 11 letters two blocks of three leave seven cells: the first of two among them is at 0 in 6 of 21 cases.
    assert abs(starts[:6] / 4000 - np.array([6, 5, 4, 3, 2, 1]) / 21).max() < 0.04


@pytest.mark.parametrize("suffix", [False, True])
def test_ngrams_are_found_at_their_first_place(suffix: bool) -> None:
    ambiguous = 0
    for text, answer in texts(NgramLookupExamples(3, n=2, n_answer=3, suffix=suffix), 14):
        text, answer = (t.translate(str.maketrans("def", "$|.")) for t in (text, answer))
        if suffix:
            s, rest = text[1:-1].split("|")
            ngram, continuation = rest[:2], rest[2:]
        else:
            ngram, s, continuation = text[1:-1].split("|")
        assert len(s) == 14 and len(ngram) == 2 and answer == continuation + "."
        found = s.index(ngram)
        assert s[found + 2 : found + 5] == continuation
        ambiguous += s.count(ngram) > 1
    assert ambiguous > 50


@pytest.mark.parametrize("positions", ["random", "fixed"])
def test_selective_copy(positions: str) -> None:
    tokens, targets = make(SelectiveCopyExamples(10, 4, positions), 20, 4000)
    body = tokens[:, :15]
    assert (tokens[:, 15] == 9).all() and (tokens[:, 16:] == 8).all() and (targets[:, :16] == -100).all()
    counts = np.zeros(15)
    for row, wanted in zip(body[:500], targets[:500, 16:], strict=True):
        assert row[row != 8].tolist() == wanted.tolist()
    counts = (body != 8).sum(0).numpy()
    if positions == "fixed":
        assert counts.tolist() == [4000] * 4 + [0] * 11
    else:
        expected = 4000 * 4 / 15
        assert abs(counts - expected).max() < 6 * expected**0.5, "the last place as likely as any"
    assert torch.bincount(targets[:, 16:].flatten(), minlength=8).min() > 1700


def test_induction_heads() -> None:
    tokens, targets = make(InductionHeadsExamples(6), 12, 4000)
    places = (tokens[:, :-1] == 5).long()
    assert (places.sum(1) == 1).all() and (tokens[:, -1] == 5).all() and (targets[:, :-1] == -100).all()
    place = places.argmax(1)
    assert torch.equal(targets[:, -1], tokens.gather(1, place[:, None] + 1)[:, 0])
    counts = torch.bincount(place, minlength=12)
    assert counts[10:].sum() == 0 and abs(counts[:10] - 400).max() < 6 * 400**0.5


def test_compression() -> None:
    tokens, targets = make(CompressionExamples(5), 8)
    assert (tokens[:, -1] == 4).all() and (targets[:, -1] == -100).all()
    assert torch.equal(tokens[:, :-1], targets[:, :-1]) and tokens[:, :-1].unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("examples", "length"),
    [
        (StringCopyExamples(), 9),
        (DuplicateNgramExamples(), 9),
        (NgramLookupExamples(), 9),
        (SelectiveCopyExamples(10, 3), 12),
        (InductionHeadsExamples(), 9),
        (CompressionExamples(), 9),
    ],
    ids=lambda value: type(value).__name__,
)
def test_examples_are_pure(examples, length: int) -> None:
    whole, _ = make(examples, length, 20)
    assert torch.equal(make(examples, length, 4, start=9)[0], whole[9:13])
    assert (make(examples, length, 20, split="test")[0] != whole).any(1).all()
    assert len({tuple(row) for row in whole.tolist()}) == 20


CASES = [
    ("string-copy", {}),
    ("string-copy", {"ngram": 3, "min_length": 6}),
    ("ngram-lookup", {}),
    ("ngram-lookup", {"suffix": True}),
    ("selective-copy", {}),
    ("selective-copy", {"positions": "fixed"}),
    ("induction-heads", {}),
    ("compression", {}),
]
VERSIONS = [
    "877b84f73c9a667e",
    "177437e2b25302d1",
    "271d224d95838741",
    "ce41ed3c29e24148",
    "51fb7cbd56afdc12",
    "1cbe90988f4eff94",
    "f62ab1a4d5df6977",
    "b820fc29c1b6aaaa",
]


def test_pinned_versions() -> None:
    assert [create_task(name, **arguments).version() for name, arguments in CASES] == VERSIONS


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("string-copy", {"n_letters": 1}, "n_letters must be an integer of at least 2, got 1"),
        ("string-copy", {"ngram": 3, "min_length": 5}, "at least 6 letters, got length 5"),
        ("string-copy", {"ngram": 3, "repeats": 1}, "repeats must be an integer of at least 2, got 1"),
        ("ngram-lookup", {"n_answer": 30}, "at least 32 letters, got length 8"),
        ("ngram-lookup", {"n": 14}, "n must be small enough"),
        ("selective-copy", {"train_length": 32}, r"at least 2 n_tokens \+ 1 = 33, .* got 32"),
        ("selective-copy", {"eval_lengths": (256, 20)}, r"= 33, .* got 20"),
        ("selective-copy", {"vocab_size": 3}, "vocab_size must be an integer of at least 4, got 3"),
        ("selective-copy", {"positions": "first"}, "positions must be 'random' or 'fixed', got 'first'"),
        ("induction-heads", {"eval_lengths": (2,)}, "at least 3, trigger, answer and trigger, got 2"),
        ("induction-heads", {"vocab_size": 2}, "vocab_size"),
        ("compression", {"train_length": 1}, "at least 2, a token and the compression token, got 1"),
    ],
)
def test_bad_arguments(name: str, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_task(name, **arguments)
