"""Values that are taken for one: certificates of more networks, and of none that errs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqmix import SequenceModel
from seqmix.inspect import Certificate, certify, verify
from seqmix.inspect.certificates.machine import Machine
from seqmix.inspect.certificates.merge import Blocks
from seqmix.inspect.certificates.network import Network
from seqmix.tasks import Automaton
from tests.inspect.random_networks import network
from tests.inspect.test_no_wrong_certificate import LETTERS, VOCAB, check, own_task


def attempt(seed: int) -> int:
    """Certificates with fewer states than the network has, by brute force not wrong; of tasks that it fails none."""
    rng = np.random.default_rng(seed)
    model = network(rng)
    task = own_task(model, 12)
    if task is None:
        return 0
    few = task.n_states + int(rng.integers(1, 12))
    certified = int(check(model, task, few))
    output, state, letter = task.output.copy(), int(rng.integers(task.n_states)), int(rng.integers(LETTERS))
    output[state, letter] = (output[state, letter] + 1) % VOCAB
    assert not check(model, Automaton("one answer changed", 0, task.step, output), few)
    return certified


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_none_is_wrong(first: int) -> None:
    assert sum(attempt(seed) for seed in range(first, first + 20)) > 0


@pytest.mark.slow
def test_none_of_many_is_wrong() -> None:
    assert sum(attempt(seed) for seed in range(40, 1000)) > 50


@pytest.fixture(scope="module")
def held() -> tuple[Certificate, SequenceModel, Automaton]:
    """Two letters that copy or write nearly the same: more states than are allowed, few of classes."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        model = network(rng)
        if model.n_layers > 1 or (task := own_task(model, 12)) is None:
            continue
        found = certify(model, task, max_states=task.n_states + 2)
        if found.certified and found.proof is not None and found.proof.classes is not None:
            return found, model, task
    raise AssertionError("no network needs classes")


def test_proofs_of_classes_hold(held: tuple[Certificate, SequenceModel, Automaton]) -> None:
    found, model, task = held
    verify(Certificate.from_dict(found.to_dict()), model, task)
    assert found.states <= task.n_states + 2 < certify(model, task).states


def test_forged_classes_are_refused(held: tuple[Certificate, SequenceModel, Automaton]) -> None:
    found, model, task = held
    proof = found.proof
    assert proof is not None and proof.classes is not None and proof.ends is not None
    low, high = proof.ends
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    for forged in (
        replace(proof, ends=[middle, middle]),
        replace(proof, ends=[[x + 1 for x in low], [x + 1 for x in high]]),
        replace(proof, ends=[high, low]),
        replace(proof, classes=[[0] * len(row) for row in proof.classes]),
        replace(proof, classes=[[10**6] * len(row) for row in proof.classes]),
        replace(proof, classes=proof.classes[:-1]),
        replace(proof, classes=None),
        replace(proof, ends=None),
    ):
        with pytest.raises(ValueError, match="certificate: "):
            verify(replace(found, proof=forged), model, task)


def test_classes_hold_what_is_written() -> None:
    torch.manual_seed(0)
    model = SequenceModel({"name": "bd-lru", "block_size": 2, "d_state": 4}, VOCAB, 6, mlp_ratio=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    machine = Machine(Network.of(model), np.arange(VOCAB))
    blocks = Blocks(machine, np.zeros(2, dtype=bool))
    followed, classes = blocks.merged()
    assert not followed.any()
    for _ in range(60):
        if not blocks.refine():
            break
    followed, classes = blocks.merged()
    choices = machine.known[0].choices
    written = choices.source < 0
    number = classes.number[written]
    assert (number > 0).all() and len(np.unique(number)) == len(classes.low) - 1
    assert (classes.low[number] <= choices.value[written]).all() and (
        choices.value[written] <= classes.high[number]
    ).all()
    assert len(np.unique(choices.value[written])) == len(classes.low) - 1
