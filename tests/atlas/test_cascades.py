"""Two layers with written weights: cascades answer as the automaton does, and no theorem speaks against one."""

import numpy as np
import pytest
import torch

from seqmix.atlas import MIXERS, check, closed, construct, predict
from seqmix.atlas.cascades import letter_automaton, lowers, uppers
from seqmix.atlas.constructions import plan
from seqmix.atlas.prediction import automaton_of
from seqmix.atlas.theorems import THEOREMS, Subject
from seqmix.atlas.traits import mixer_of, traits_of
from seqmix.tasks.automata import Automaton, describe, from_table, named_automaton
from seqmix.tasks.automata.core import core_of
from seqmix.tasks.automata.describe import core_monoid

STAR_FREE = ["first", "newest-before", "alternating", "clip-2", "factor-2"]
# What mixers follow in two layers and not in one; the first of each is in the default sample.
CAN = {
    "mamba": ["clip-2", *STAR_FREE],
    "mamba-2": ["alternating", *STAR_FREE],
    "rg-lru": ["factor-2", *STAR_FREE],
    "min-gru": ["first", *STAR_FREE],
    "hgrn-2": ["clip-2", *STAR_FREE],
    "gla": ["alternating", *STAR_FREE],
    "kda": ["newest-before", *STAR_FREE],
    "attention, forget gate": ["clip-2", *STAR_FREE],
    "deltanet": ["factor-2", *STAR_FREE],
    "mamba, signed": ["D4", "Q8", *STAR_FREE],
    "gla, selective-rope": ["S3", "A4", "D4", "Q8", *STAR_FREE],
    "gateloop": ["S3", "A4", "D4", "Q8", *STAR_FREE],
    "deltanet, signed": ["D4", *STAR_FREE],
}
FIRST = [(mixer, names[0]) for mixer, names in CAN.items()]
EVERY = list(dict.fromkeys((mixer, name) for mixer, names in CAN.items() for name in names))


@pytest.mark.parametrize(("mixer", "automaton"), FIRST)
def test_short_words(mixer: str, automaton: str) -> None:
    made = construct(MIXERS[mixer], automaton, 2)
    assert made.plan.layers == made.model.n_layers == 2
    longest = 3 if len(made.automaton.step[0]) > 6 else 5
    assert check(made.model, made.automaton, longest=longest, words=8, length=200).wrong is None


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "automaton"), EVERY)
def test_long_words(mixer: str, automaton: str) -> None:
    made = construct(MIXERS[mixer], automaton, 2)
    words, length = (2, 2000) if mixer.startswith("attention") else (4, 10_000)
    assert check(made.model, made.automaton, words=words, length=length).wrong is None


@pytest.mark.parametrize(("mixer", "automaton"), [("mamba", "newest-before"), ("deltanet, signed", "alternating")])
def test_exact_states_come_back(mixer: str, automaton: str) -> None:
    made = construct(MIXERS[mixer], automaton, 2)
    assert made.plan.exact and closed(made.model, made.automaton) is not None


def test_steps_and_gradients_are_those_of_the_layers() -> None:
    made = construct(MIXERS["mamba"], "clip-2", 2)
    words = torch.tensor([[made.automaton.bos, 0, 1, 1, 0, 1, 0], [made.automaton.bos, 1, 1, 0, 0, 0, 1]])
    whole = made.model(words)[0]
    state, steps = made.model.init_state(2), []
    for tokens in words.T:
        logits, state = made.model.step(tokens, state)
        steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-4, atol=1e-4 * float(whole.detach().abs().max()))
    whole.logsumexp(-1).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.model.parameters())


def run(step: np.ndarray, word: list[int]) -> int:
    state = 0
    for letter in word:
        state = int(step[state, letter])
    return state


@pytest.mark.parametrize("name", ["D4", "Q8", "A4", "S3"])
def test_cosets_and_subgroup_are_the_group(name: str) -> None:
    core = core_of(named_automaton(name))
    draw, found = np.random.default_rng(0), 0
    for upper in uppers(core, 100, flips=False):
        if upper.group is None:
            continue
        found += 1
        automaton, rest, goes = upper.group
        inner = core_of(automaton)
        for _ in range(20):
            word = draw.integers(len(core.tokens), size=12).tolist()
            low, high = 0, 0
            for letter in word:
                wide = int(upper.lower.label[low, letter])
                low, high = int(upper.lower.step[low, letter]), int(inner.step[high, wide])
            state = run(core.step, word)
            assert rest[state] == inner.answers[high] and goes[state, wide]
    assert found == {"D4": 4, "Q8": 4, "A4": 1, "S3": 1}[name]


def test_machines_of_letters() -> None:
    core = core_of(named_automaton("clip-2"))
    found = list(lowers(core, 3, flips=True))
    assert [lower.says for lower in found].count("the letter before") == 1 and len(found) == 4**2 - 4 + 1
    window = found[-1]
    letters = core.tokens.tolist()
    answers = window.automaton.answers([3, letters[0], letters[1], letters[1]])
    pairs = [window.label[0, 0], window.label[1, 1], window.label[2, 1]]
    assert answers[1:] == pairs and window.letters[pairs].tolist() == [0, 1, 1]
    one = letter_automaton("one", np.zeros((1, 2), int), np.zeros((1, 2), int), np.arange(2), 2)
    assert one.answers([2, 0, 1]) == [-100, 0, 0]


def drawn(seed: int) -> Automaton:
    """Automata of letters that hold, set, or do anything."""
    draw = np.random.default_rng(seed)
    states, letters = int(draw.integers(2, 5)), int(draw.integers(2, 4))
    step = draw.integers(states, size=(states, letters))
    if seed % 3:
        kind = draw.integers(3, size=letters)
        step = np.where(kind == 0, step[0], np.where(kind == 1, np.arange(states)[:, None], step))
    return from_table({"step": step.tolist(), "output": draw.integers(states, size=states).tolist()})


def wrong(seed: int) -> list[tuple[str, list[str], list[int] | None]]:
    """Constructions of two layers that a theorem forbids, or that err on a short or a long word."""
    automaton = automaton_of(drawn(seed))
    monoid = core_monoid(automaton, 400)
    found = []
    for mixer in ("mamba", "mamba, signed", "gla, selective-rope", "deltanet", "deltanet, signed"):
        chosen = mixer_of(MIXERS[mixer])
        if (made := plan(chosen, automaton, 2)) is None:
            continue
        traits = traits_of(chosen)
        theorems = () if monoid is None else [t for t in THEOREMS if t.layers in (0, 2) and t.applies(traits)]
        subject = None if monoid is None else Subject(describe(automaton), monoid[1])
        against = [t.name for t in theorems if t.breaks(traits, subject, 2)]
        told = check(made.build(), automaton, longest=5, words=4, length=300) if made.layers == 2 else None
        if against or (told is not None and told.wrong is not None):
            found.append((mixer, against, told.wrong if told is not None else None))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_random_automata(seed: int) -> None:
    assert wrong(seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 120))
def test_more_random_automata(seed: int) -> None:
    assert wrong(seed) == []


def test_predictions() -> None:
    for mixer, names in CAN.items():
        for name in names:
            assert predict(MIXERS[mixer], name).verdict != "can"
    found = predict(MIXERS["mamba, signed"], "Q8", 3)
    assert found.verdict == "can" and "two layers do it, the others add nothing" in found.hypotheses
    with pytest.raises(ValueError, match="no construction of S3 for mamba\\(d_conv=1\\) in two layers"):
        construct(MIXERS["mamba"], "S3", 2)
    with pytest.raises(ValueError, match="n_layers must be 1 or 2, got 3"):
        construct(MIXERS["mamba"], "S3", 3)
