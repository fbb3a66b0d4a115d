"""Safe lengths against words that are chosen letter by letter to do the most harm, with the model's own gates."""

from functools import partial

import numpy as np
import pytest
import torch

from seqmix import SequenceModel
from seqmix.inspect import certify, verify
from seqmix.models.sequence_model import SequenceModelState
from seqmix.tasks import Automaton
from seqmix.tasks.word_problem import WordProblemExamples
from tests.inspect.hard import by_hand, fit_head
from tests.inspect.test_certify import last_two, permutations
from tests.inspect.test_no_wrong_certificate import MIXERS, VOCAB, own_task

BEAM = 24


@torch.no_grad()
def worst_words(model: SequenceModel, automaton: Automaton, length: int) -> tuple[int, float]:
    """The smallest margin of an answer in words of up to `length` letters that a beam search for it finds.

    Also the length at which it stops, that of the first wrong answer. Words are prolonged by all letters; those stay
    after which the margin is smallest, and for each state of the task the worst, whose harm may show later.
    """
    states, task, letters, least = model.eval().init_state(1), np.array([automaton.start]), 0, np.inf
    while letters < length:
        place, tokens = np.nonzero(automaton.step[task] >= 0)
        logits, states = model.step(torch.tensor(tokens), _rows(states, place))
        letters += int(tokens[0] != automaton.bos)
        answers, task = automaton.output[task[place], tokens], automaton.step[task[place], tokens]
        asked = torch.tensor(answers).unsqueeze(1)
        right = logits.gather(1, asked.clamp_min(0))
        others = logits.scatter(1, asked.clamp_min(0), -torch.inf).amax(1, keepdim=True)
        margins = torch.where(asked >= 0, right - others, torch.inf).squeeze(1).numpy()
        least = min(least, float(margins.min()))
        if least <= 0:
            break
        order = np.argsort(margins, kind="stable")
        first_of_each = np.unique(task[order], return_index=True)[1]
        kept = order[np.union1d(np.arange(min(BEAM, len(order))), first_of_each)]
        states, task = _rows(states, kept), task[kept]
    return letters, least


def _rows(states: SequenceModelState, rows: np.ndarray) -> SequenceModelState:
    return SequenceModelState(
        tuple(type(layer)(*(each[torch.tensor(rows)] for each in layer)) for layer in states.layers)
    )


def leaky(name: str, sharpness: float, *, noise: int = 0, signed: bool = False) -> tuple[SequenceModel, Automaton]:
    """A block that permutes, with gates that leak; `noise` more that copy and write at random, and speak quietly."""
    torch.manual_seed(0)
    automaton, p = WordProblemExamples(name).automaton(), permutations(name)
    m = p.shape[-1]
    others = torch.tensor(np.random.default_rng(0).integers(0, m + 1, (len(p), noise, m)))
    normalization = "l1" if signed else "softmax"
    model = by_hand(automaton, torch.cat([p, others], 1), sharpness=sharpness, normalization=normalization)
    if signed:
        bias = model.blocks[0].mixer.proj_gates.bias
        bias.data.uniform_(-1, 1)
    fit_head(model, automaton, entries=m)
    if noise:
        model.head.weight.data[:, -noise * m :] = 1e-3 * torch.randn(len(p), noise * m)
    return model, automaton


def with_mlp() -> tuple[SequenceModel, Automaton]:
    model, automaton = leaky("Z3", 9.0)
    deeper = SequenceModel(**model.config | {"mlp_ratio": 1})
    deeper.load_state_dict(model.state_dict(), strict=False)
    deeper.blocks[0].mlp.down_proj.weight.data.normal_(std=0.02)
    fit_head(deeper, automaton)
    return deeper, automaton


def lags() -> tuple[SequenceModel, Automaton]:
    torch.manual_seed(0)
    return by_hand(last_two(), torch.tensor([[[2, 0]]] * 6), mixer="h-lru", sharpness=7.0), last_two()


CASES = {
    "S3": partial(leaky, "S3", 8.0),
    "Z5": partial(leaky, "Z5", 8.0),
    "A4": partial(leaky, "A4", 9.0),
    "S3 beside noise": partial(leaky, "S3", 9.0, noise=2),
    "S3 signed": partial(leaky, "S3", 3000.0, signed=True),
    "Z3 with an MLP": with_mlp,
    "lags": lags,
}


@pytest.mark.parametrize("case", CASES)
def test_no_word_up_to_the_safe_length_is_wrong(case: str) -> None:
    model, automaton = CASES[case]()
    certificate = certify(model, automaton)
    assert certificate.certified
    verify(certificate, model, automaton)
    safe = int(certificate.safe_length)
    assert 20 <= safe < 1000
    length, least = worst_words(model, automaton, safe)
    assert length == safe and least > 0
    # The search does harm: a word that is not very much longer is wrong, unless every word overwrites what has leaked.
    if case in ("S3", "Z5", "S3 signed"):
        length, least = worst_words(model, automaton, 20 * safe)
        assert least <= 0 and length > safe


def test_random_networks_up_to_their_safe_length() -> None:
    """Leaky gates of no pattern, on tasks that they solve with hard ones."""
    tried = 0
    for seed in range(60):
        torch.manual_seed(seed)
        model = SequenceModel(MIXERS[seed % len(MIXERS)], VOCAB, 6, mlp_ratio=0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
            model.mixers[0].proj_gates.weight.mul_(15.0)
        task = own_task(model, 12)
        certificate = None if task is None else certify(model, task, max_states=200)
        if certificate is None or not certificate.certified or not certificate.safe_length:
            continue
        length = int(min(certificate.safe_length, 60))
        assert worst_words(model, task, length)[0] == length, seed
        tried += length > 2
    print(tried)
    assert tried >= 5
