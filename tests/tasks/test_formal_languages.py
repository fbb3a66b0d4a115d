"""Formal languages: answers by other means, published tokens and lengths, distributions."""

import itertools

import numpy as np
import pytest
import torch

from seqmix.tasks import create_task
from seqmix.tasks.formal_languages import (
    BracketArithmeticExamples,
    CycleNavigationExamples,
    EvenPairsExamples,
    MixedLengths,
    ModularArithmeticExamples,
    SingleParityExamples,
)

ALL = (
    SingleParityExamples,
    EvenPairsExamples,
    CycleNavigationExamples,
    ModularArithmeticExamples,
    BracketArithmeticExamples,
)


def make(examples, length: int, count: int = 200, start: int = 0, split: str = "train"):
    batch = examples(seed=0, split=split, start=start, count=count, length=length)
    tokens, targets = batch["tokens"], batch["targets"]
    assert tokens.dtype == targets.dtype == torch.int64 and tokens.shape == targets.shape == (count, length)
    assert (targets[:, :-1] == -100).all() and tokens.max() < examples.vocab_size > targets.max()
    return tokens.tolist(), targets[:, -1].tolist()


def test_parity_pairs_and_cycle_by_hand() -> None:
    for word, answer in zip(*make(SingleParityExamples(), 9), strict=True):
        assert set(word) <= {1, 2} and answer == 1 + word.count(2) % 2
    for word, answer in zip(*make(EvenPairsExamples(), 8), strict=True):
        changes = sum(a != b for a, b in itertools.pairwise(word))
        assert answer == 1 + changes % 2
    for word, answer in zip(*make(CycleNavigationExamples(), 11), strict=True):
        assert answer == (word.count(1) - word.count(2)) % 5


@pytest.mark.parametrize("length", [2, 3, 4, 11, 40])
def test_modular_arithmetic_is_what_python_says(length: int) -> None:
    for word, answer in zip(*make(ModularArithmeticExamples(), length), strict=True):
        text = "".join(" +-*=01234"[token] for token in word)
        assert text.endswith("=") and text.count(" ") == length % 2
        assert answer == 5 + eval(text[:-1]) % 5


@pytest.mark.parametrize("multiplication", [False, True])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 9, 24, 41])
def test_brackets_are_what_python_says(length: int, multiplication: bool) -> None:
    words, answers = make(BracketArithmeticExamples(multiplication), length)
    for word, answer in zip(words, answers, strict=True):
        text = "".join("01234+-*()="[token] for token in word)
        assert text.endswith("=") and "=" not in text[:-1]
        assert answer == eval(text[:-1]) % 5
    if length > 20:
        assert any(7 in word for word in words) == multiplication


def test_left_parts_of_every_size_are_equally_likely() -> None:
    # n = 10: the left part has 1 .. 6 tokens. Its size is where the operator at depth one stands.
    words, _ = make(BracketArithmeticExamples(), 11, count=6000)
    sizes = np.zeros(7)
    for word in words:
        depth = 0
        for place, token in enumerate(word):
            depth += (token == 8) - (token == 9)
            if depth == 1 and token in (5, 6) and word[place - 1] not in (8, 5, 6):
                sizes[place - 1] += 1
                break
    assert sizes[0] == 0 and abs(sizes[1:] - 1000).max() < 6 * 1000**0.5


@pytest.mark.parametrize("kind", ALL)
def test_examples_are_pure_and_answers_balanced(kind) -> None:
    examples = kind()
    words, answers = make(examples, 20, count=4000)
    assert make(examples, 20, count=3, start=7) == (words[7:10], answers[7:10])
    assert make(examples, 20, count=3, split="test 20")[0] != words[:3]
    assert len({*map(tuple, words)}) > 3900
    share = np.unique(answers, return_counts=True)[1] / 4000
    assert len(share) == 1 / examples.chance
    if kind in (SingleParityExamples, EvenPairsExamples, CycleNavigationExamples):
        assert abs(share - examples.chance).max() < 6 * (examples.chance / 4000) ** 0.5


def test_mixed_lengths_pad_behind_the_answer() -> None:
    examples = BracketArithmeticExamples()
    batch = MixedLengths(examples, 4, 9)(seed=0, split="test 4-9", start=2, count=300, length=9)
    last = (batch["targets"] != -100).long().argmax(1)
    assert ((batch["targets"] != -100).sum(1) == 1).all() and set((last + 1).tolist()) == set(range(4, 10))
    for row, place in enumerate(last.tolist()):
        assert batch["tokens"][row, place] == 10 and (batch["tokens"][row, place + 1 :] == 11).all()
    later = MixedLengths(examples, 4, 9)(seed=0, split="test 4-9", start=5, count=1, length=9)
    assert torch.equal(later["tokens"][0], batch["tokens"][3])


def test_published_lengths_and_pinned_versions() -> None:
    versions = {}
    for name in ("single-parity", "even-pairs", "cycle-navigation", "modular-arithmetic", "bracket-arithmetic"):
        task = create_task(name)
        assert (task.min_length, task.train_length) == (3, 40) and task.metric == "last_accuracy"
        assert [each.name for each in task.test_sets] == ["40", "80", "160", "256", "40-256"]
        versions[name] = task.version()
    versions["with multiplication"] = create_task("bracket-arithmetic", multiplication=True).version()
    assert versions == VERSIONS


VERSIONS = {
    "single-parity": "68236773e3874c77",
    "even-pairs": "52708d117439c7bb",
    "cycle-navigation": "5fca67c3178fdee1",
    "modular-arithmetic": "e3ee5c07a1f8742d",
    "bracket-arithmetic": "3f226b0a897cc73a",
    "with multiplication": "153a85a45a49d5a7",
}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bracket-arithmetic", {"min_length": 1}, "at least 2 tokens, got length 1"),
        ("modular-arithmetic", {"eval_lengths": (1,)}, "ModularArithmetic: a word must have at least 2 tokens, got"),
        ("bracket-arithmetic", {"multiplication": 2}, "multiplication must be true or false, got 2"),
        ("even-pairs", {"eval_range": (256, 40)}, r"eval_range must be null or \[low, high\], got \(256, 40\)"),
        ("even-pairs", {"multiplication": True}, "unknown argument of task 'even-pairs': 'multiplication'"),
    ],
)
def test_bad_arguments(name: str, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_task(name, **arguments)
