"""Tasks as automata: their tables give the targets of their own batches, and refuse words that cannot come."""

import numpy as np
import pytest
import torch

from seqmix.tasks import Automaton, create_task
from seqmix.tasks.formal_languages import (
    BracketArithmeticExamples,
    CycleNavigationExamples,
    EvenPairsExamples,
    ModularArithmeticExamples,
    SingleParityExamples,
)
from seqmix.tasks.word_problem import IGNORE, WordProblemExamples

ALL = {
    "A5": WordProblemExamples("A5"),
    "S3 without bos": WordProblemExamples("S3", bos=False),
    "S4 from two": WordProblemExamples("S4", generators=2),
    "parity": SingleParityExamples(),
    "pairs": EvenPairsExamples(),
    "cycle": CycleNavigationExamples(),
    "arithmetic": ModularArithmeticExamples(),
}


@pytest.mark.parametrize("name", ALL)
def test_answers_are_the_targets_of_batches(name: str) -> None:
    examples = ALL[name]
    automaton = examples.automaton()
    assert automaton.vocab_size == examples.vocab_size
    for length in (2, 3, 8, 21):
        batch = examples(seed=0, split="train", start=0, count=50, length=length)
        asked = batch["targets"] != IGNORE
        answers = torch.tensor([automaton.answers(word) for word in batch["tokens"].tolist()])
        assert torch.equal(answers[asked], batch["targets"][asked])
        assert not (asked.all(1) & (answers == IGNORE).any(1)).any()


def test_from_length_asks_later_and_nothing_else() -> None:
    automaton = WordProblemExamples("Z5").automaton()
    later = automaton.from_length(4)
    word = [5, 1, 2, 3, 4, 0, 2]
    assert later.answers(word) == [IGNORE] * 4 + automaton.answers(word)[4:]
    assert automaton.from_length(1) is automaton and later.fingerprint() != automaton.fingerprint()
    cycle = CycleNavigationExamples().automaton()
    assert cycle.from_length(3).answers([1, 1, 1, 2]) == [IGNORE, IGNORE, 3, 2]
    with pytest.raises(ValueError, match="length must be an integer from 1 to 466,033, got 0"):
        automaton.from_length(0)


def test_words_that_cannot_come() -> None:
    automaton = WordProblemExamples("Z2").automaton()
    for word, token, place in (([0, 1], 0, 0), ([2, 1, 2], 2, 2), ([2, 7], 7, 1)):
        with pytest.raises(ValueError, match=f"token {token} cannot stand at place {place}"):
            automaton.answers(word)


def test_tasks_that_are_no_automata_say_so() -> None:
    with pytest.raises(NotImplementedError, match="StringCopy is no finite automaton"):
        create_task("string-copy").automaton()
    with pytest.raises(NotImplementedError, match="BracketArithmetic is no finite automaton"):
        BracketArithmeticExamples().automaton()
    assert create_task("parity").automaton().n_states == 3


def test_tables_are_checked() -> None:
    with pytest.raises(ValueError, match="tables \\(Q, V\\) of one shape"):
        Automaton("x", 0, np.zeros((2, 2), dtype=np.int64), np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="states must be in \\[0, 2\\)"):
        Automaton("x", 0, np.full((2, 2), 2), np.zeros((2, 2), dtype=np.int64))


def test_tables_that_say_no_task_are_refused() -> None:
    """A BOS inside words would count in no length; a negative answer would be taken for one from the end."""
    z2 = WordProblemExamples("Z2").automaton()
    for state in (0, 2):
        step = z2.step.copy()
        step[0, 2] = state
        with pytest.raises(ValueError, match="bos must be the first token of every word and of no other place, got 2"):
            Automaton("bos again", z2.start, step, z2.output, bos=2)
    with pytest.raises(ValueError, match="bos must be the first token"):
        Automaton("bos at will", 0, z2.step, z2.output, bos=2)
    for answer in (-1, 3):
        output = z2.output.copy()
        output[0, 0] = answer
        with pytest.raises(ValueError, match=r"answers must be tokens in \[0, 3\), or -100"):
            Automaton("no answer", z2.start, z2.step, output, bos=2)
