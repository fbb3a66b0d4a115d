"""Attempts at a wrong certificate: random networks on the tasks that they solve by definition, then on others."""

import json
from collections import deque

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from seqmix import SequenceModel
from seqmix.inspect import Certificate, certify, verify
from seqmix.tasks import Automaton
from tests.inspect.hard import all_words, hard_logits, random_words, wrong_at

MIXERS = (
    {"name": "bd-lru", "block_size": 1, "d_state": 2},
    {"name": "bd-lru", "block_size": 2, "d_state": 4},
    {"name": "bd-lru", "block_size": 3, "d_state": 3},
    {"name": "bd-lru", "block_size": 2, "d_state": 2, "normalization": "l1"},
    {"name": "h-lru", "order": 2, "d_state": 2},
)
VOCAB, LETTERS = 4, 2
RELAXED = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


@st.composite
def networks(draw: st.DrawFn) -> SequenceModel:
    """One or two small layers with random weights; gates from undecided to saturated."""
    layers = draw(st.integers(1, 2))
    mixers = [dict(draw(st.sampled_from(MIXERS))) for _ in range(layers)]
    torch.manual_seed(draw(st.integers(0, 10**6)))
    model = SequenceModel(mixers, VOCAB, 6, layers, mlp_ratio=draw(st.sampled_from([0, 1])))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        sharpness = draw(st.sampled_from([1.0, 5.0, 60.0]))
        for mixer in model.mixers:
            mixer.proj_gates.weight.mul_(sharpness)
    return model


def own_task(model: SequenceModel, most: int) -> Automaton | None:
    """What the hard network says, as a task: states are told apart by what comes of all words of 4 more tokens.

    None for more than `most` states. Longer experiments could tell more of them apart: `certify` sees to that.
    """
    futures = list(np.ndindex(*[LETTERS] * 4))

    def told(word: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """What it says in all of them, and after the word itself."""
        said = hard_logits(model, [[*word, *future] for future in futures]).argmax(-1)
        return tuple(said[:, len(word) :].flatten().tolist()), int(said[0, len(word) - 1])

    numbers, step, output, queue = {told(())[0]: 0}, [], [], deque([()])
    words = [()]
    while queue:
        word = queue.popleft()
        row, answers = [], []
        for letter in range(LETTERS):
            key, answer = told((*word, letter))
            if key not in numbers:
                if len(numbers) == most:
                    return None
                numbers[key] = len(numbers)
                words.append((*word, letter))
                queue.append((*word, letter))
            row.append(numbers[key])
            answers.append(answer)
        step.append(row + [-1] * (VOCAB - LETTERS))
        output.append(answers + [-100] * (VOCAB - LETTERS))
    return Automaton("what it says", 0, np.array(step), np.array(output))


def check(model: SequenceModel, task: Automaton, max_states: int = 500) -> bool:
    """Whatever `certify` says of the two is so, by brute force over short words and many long ones."""
    found = certify(model, task, max_states=max_states)
    wrong = _wrong(model, task, all_words(task, 6))  # and all shorter ones, with which they begin
    if found.certified:
        verify(found, model, task)
        assert not any(wrong)
        words = random_words(task, 30, 60)
        assert not any(_wrong(model, task, words))
        answers = torch.tensor([task.answers(word) for word in words])
        if found.safe_length:
            length = int(min(found.safe_length, 60))
            with torch.no_grad():
                said = model(torch.tensor(words)[:, :length])[0].argmax(-1)
            assert torch.equal(said, answers[:, :length])
    elif found.counterexample is not None:
        word = found.counterexample.word
        assert wrong_at(hard_logits(model, [word]), task, [word]) == [True]
        assert not any(wrong[: len(word) - 1])
        verify(found, model, task)
    else:
        assert found.reason is not None and ("rounding error" in found.reason or "more than" in found.reason)
    return found.certified


def _wrong(model: SequenceModel, task: Automaton, words: list[list[int]]) -> list[bool]:
    """For each length up to that of the words, whether the hard network is wrong after it in some word."""
    answers = torch.tensor([task.answers(word) for word in words])
    return ((hard_logits(model, words).argmax(-1) != answers) & (answers >= 0)).any(0).tolist()


@RELAXED
@given(networks(), st.data())
def test_tasks_that_a_network_solves_and_ones_that_it_does_not(model: SequenceModel, data: st.DataObject) -> None:
    task = own_task(model, 40)
    assume(task is not None)
    check(model, task)
    state, letter = data.draw(st.integers(0, task.n_states - 1)), data.draw(st.integers(0, LETTERS - 1))
    output = task.output.copy()
    output[state, letter] = (output[state, letter] + 1) % VOCAB
    assert not check(model, Automaton("one answer changed", 0, task.step, output)), "every state can be reached"


@RELAXED
@given(networks(), st.integers(0, 10**6))
def test_random_tasks(model: SequenceModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    step, output = np.full((3, VOCAB), -1), np.full((3, VOCAB), -100)
    step[:, :LETTERS] = rng.integers(0, 3, (3, LETTERS))
    output[:, :LETTERS] = rng.integers(0, VOCAB, (3, LETTERS))
    check(model, Automaton("random", 0, step, output))


def test_some_of_them_are_certified() -> None:
    """The attempts above are at networks that can be certified, of every kind."""
    for mixer in MIXERS:
        certified = 0
        for seed in range(12):
            torch.manual_seed(seed)
            model = SequenceModel(mixer, VOCAB, 6, mlp_ratio=seed % 2)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.normal_()
                model.mixers[0].proj_gates.weight.mul_(60.0)
            task = own_task(model, 40)
            certified += task is not None and check(model, task)
            if certified:
                break
        assert certified, mixer


@pytest.mark.slow
def test_what_is_certified_is_verified() -> None:
    """200 certificates of random networks in float32 and float64, through JSON; `--verify` accepts each."""
    from tests.inspect.random_networks import network

    accepted = seed = 0
    while accepted < 200:
        model = network(np.random.default_rng(seed))
        task = own_task(model, 12)
        held = None if task is None else certify(model, task, max_states=500)
        if held is not None and held.certified:
            verify(Certificate.from_dict(json.loads(json.dumps(held.to_dict()))), model, task)
            accepted += 1
        seed += 1


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_many_random_networks(first: int) -> None:
    """More of them: `python -m tests.inspect.random_networks 10000`."""
    from tests.inspect.random_networks import attempt

    assert sum(attempt(seed) for seed in range(first, first + 100)) >= 10
