"""Examples of the word problem: right targets, purity, prefixes, generators, chance."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from seqmix.tasks import WordProblemExamples, group
from seqmix.tasks.streams import symbols, uniform_integer
from tests.pace import pace


def make(examples: WordProblemExamples, start: int = 0, count: int = 8, length: int = 10, **kwargs):
    arguments = {"seed": 0, "split": "train", "max_length": 16} | kwargs
    return examples(start=start, count=count, length=length, **arguments)


@pytest.mark.parametrize("bos", [True, False])
def test_targets_are_running_products(bos: bool) -> None:
    examples = WordProblemExamples("S4", bos=bos)
    batch = make(examples, count=5, length=12)
    table = group("S4").table
    assert batch["tokens"].shape == batch["targets"].shape == (5, 12 + bos)
    assert batch["tokens"].dtype == batch["targets"].dtype == torch.int64
    if bos:
        assert (batch["tokens"][:, 0] == 24).all() and (batch["targets"][:, 0] == -100).all()
    for row in range(5):
        y = 0
        for x, target in zip(batch["tokens"][row, bos:], batch["targets"][row, bos:], strict=True):
            y = table[y, x]
            assert target == y
    assert examples.vocab_size == 24 + bos and examples.chance == 1 / 24


def test_parity_is_the_word_problem_of_z2() -> None:
    batch = make(WordProblemExamples("Z2", bos=False))
    assert (batch["targets"] == batch["tokens"].cumsum(1) % 2).all()


def test_an_example_depends_on_seed_split_and_number_only() -> None:
    examples = WordProblemExamples("A5")
    whole = make(examples, 0, 12)["tokens"]
    assert (make(examples, 5, 3)["tokens"] == whole[5:8]).all()
    assert (make(examples, 0, 12, length=4)["tokens"] == whole[:, :5]).all(), "a shorter example is a prefix"
    far = make(examples, 10**12, 2)["tokens"]
    assert (far == make(examples, 10**12 + 1, 1)["tokens"]).all(1).tolist() == [False, True]
    for change in ({"seed": 1}, {"split": "validation 16"}, {"split": "test 16"}):
        assert (make(examples, 0, 12, **change)["tokens"] != whole).any(1).all()


def test_symbols_are_uniform_and_independent() -> None:
    drawn = symbols(3, "train", 0, 20_000, length=12, max_length=12, n_symbols=6)
    expected = drawn.size / 36
    pairs = np.bincount((drawn[:, :-1] * 6 + drawn[:, 1:]).ravel(), minlength=36) * (12 / 11)
    across = np.bincount((drawn[:-1] * 6 + drawn[1:]).ravel(), minlength=36)
    for counts in (pairs, across):
        assert abs(counts - expected).max() < 6 * expected**0.5
    lengths = [uniform_integer(0, "train length", i, 3, 7) for i in range(2000)]
    assert set(lengths) == {3, 4, 5, 6, 7} and abs(np.mean(lengths) - 5) < 0.2


def test_pinned_symbols() -> None:
    # Any change here changes every data set; then results before and after cannot be compared.
    drawn = symbols(0, "train", 3, 1, length=10, max_length=16, n_symbols=60)
    assert drawn.tolist() == [[23, 15, 57, 21, 0, 10, 3, 1, 53, 7]]


def test_generators() -> None:
    examples = WordProblemExamples("A5", generators=2)
    batch = make(examples, count=64, length=16)
    assert len(set(batch["tokens"][:, 1:].unique().tolist())) == 2
    assert batch["targets"].unique().numel() > 50 and examples.vocab_size == 61
    few, many = (set(WordProblemExamples("A5", generators=k).inputs.tolist()) for k in (4, 8))
    assert few < many
    assert make(WordProblemExamples("Z6", [1]))["tokens"][:, 1:].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        (1, "between 2 and 60"),
        (61, "between 2 and 60"),
        ([0, 60], r"in \[0, 60\)"),
        ([], "element numbers"),
        ([0], "generate 1 of them"),
        ("all", "element numbers"),
        (True, "element numbers"),
    ],
)
def test_bad_generators(generators, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordProblemExamples("A5", generators)


def test_needs_neither_lightning_nor_numba_nor_a_mixer() -> None:
    code = (
        "import sys; from seqmix.tasks import WordProblemExamples as W, list_tasks; W('A5'); list_tasks(); "
        "print([m for m in sys.modules if m.startswith(('lightning', 'numba', 'seqmix.mixers', 'seqmix.kernels'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_generation_is_vectorised() -> None:
    # A loop over examples or symbols makes a few hundred a second; the goal, 20,000, is checked by the benchmark.
    examples = WordProblemExamples("A5")
    make(examples, length=128, max_length=128)
    begin = time.process_time()
    make(examples, count=4096, length=128, max_length=128)
    assert 4096 / (time.process_time() - begin) > 5_000 / pace()
