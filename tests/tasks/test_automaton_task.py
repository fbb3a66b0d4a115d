"""Automata by name and from tables: their algebra, their words, what is refused."""

import itertools

import numpy as np
import pytest
import torch

from seqmix.tasks import create_task
from seqmix.tasks.automata import IGNORE, Automaton, describe, from_table, list_automata, named_automaton
from seqmix.tasks.automata.core import core_of
from seqmix.tasks.automata.sampling import AutomatonExamples, RepeatedExamples, baseline

# The first draw of numpy's generator with seed 0, integers (5, 2), from its state 1.
RANDOM = {"step": [[4, 3], [2, 1], [1, 0], [0, 0], [0, 4]], "start": 1, "output": [0, 1, 2, 3, 4]}
# name: order of the monoid, groups, P0 P S C EL Rt, majority and 3-gram at 64 uniform letters
ALGEBRA = {
    "flip-flop": (3, (), "111110", 0.5, 0.98),
    "registers-2": (9, (), "111110", 0.25, 0.79),
    "delay": (7, (), "111110", 0.5, 1.0),
    "first": (3, (), "000001", 0.5, 0.5),
    "subsequence-3": (14, (), "100011", 1.0, 1.0),
    "newest-before": (10, (), "100010", None, None),
    "alternating": (6, (), "000010", 1.0, 1.0),
    "clip-2": (8, (), "000010", 0.33, 0.92),
    "clip-3": (18, (), "000010", 0.25, 0.69),
    "dyck-1-3-sink": (31, (), "000010", None, None),
    "Z2": (2, ("Z2",), "001110", 0.5, 0.5),
    "counter-2-reset": (4, ("Z2",), "001110", 0.67, 0.9),
    "Z5": (5, ("Z5",), "000110", 0.2, 0.2),
    "counter-3-reset": (6, ("Z3",), "000110", 0.5, 0.79),
    "D4": (8, ("D4",), "000010", 0.125, 0.125),
    "Q8": (8, ("Q8",), "000010", 0.125, 0.125),
    "S3": (6, ("S3",), "000010", 1 / 6, 1 / 6),
    "A4": (12, ("A4",), "000010", 1 / 12, 1 / 12),
    "S4": (24, ("S4",), "000010", 1 / 24, None),
    "A5": (60, ("A5",), "000010", 1 / 60, None),
    "S5": (120, ("S5",), "000010", 1 / 120, None),
    "maps-3": (27, ("S3", "Z2"), "000000", 0.43, 0.63),
    "last": (3, (), "111110", 0.5, 1.0),
    "Z2:Z2": (8, ("D4",), "000010", 0.5, 0.5),
    "random": (65, ("Z2",), "000010", 0.4, 0.68),
}


def automaton(name: str) -> Automaton:
    return from_table(RANDOM) if name == "random" else named_automaton(name)


@pytest.mark.parametrize("name", ALGEBRA)
def test_algebra(name: str) -> None:
    monoid, groups, flags, majority, by_three = ALGEBRA[name]
    about = describe(automaton(name))
    assert (about.monoid, about.groups) == (monoid, groups) and about.aperiodic == (not groups)
    assert "".join(str(int(flag)) for flag in (about.P0, about.P, about.S, about.C, about.EL, about.Rt)) == flags
    for k, expected in ((0, majority), (3, by_three)):
        if expected is not None:
            assert abs(baseline(automaton(name), 64, k) - expected) < 0.006


@pytest.mark.parametrize("names", ["flip-flop:Z2", "Z2:Z3", "first:Z3:flip-flop-2", "last:last", "dyck-1-3:Z4"])
def test_a_cascade_is_one_machine_that_reads_the_answers_of_another(names: str) -> None:
    machines = [named_automaton(name, bos=False) for name in names.split(":")]
    whole = named_automaton(names, bos=False)
    letters = int((machines[0].step >= 0).any(0).sum())
    for word in itertools.product(range(letters), repeat=6):
        told = list(word)
        try:
            for machine in machines:
                told = machine.answers(told)
        except ValueError:
            with pytest.raises(ValueError, match="cannot stand"):
                whole.answers(word)
        else:
            assert whole.answers(word) == told


def test_what_is_no_cascade() -> None:
    with pytest.raises(ValueError, match="in S3:Z2 answers must be letters, got answers up to 5, and 2 letters of Z2"):
        named_automaton("S3:Z2")
    with pytest.raises(ValueError, match="S5:S5 must have from 1 to 2,048 states"):
        named_automaton("S5:S5")
    with pytest.raises(ValueError, match="in Z2:first:Z2 answers must be letters, got answers up to 2"):
        named_automaton("Z2:first:Z2:Z2")
    with pytest.raises(ValueError, match="unknown automaton 'Z2q'"):
        named_automaton("Z2:Z2q")


def test_solvable_and_derived_length() -> None:
    lengths = {name: describe(named_automaton(name)).derived_length for name in ("Z6", "S3", "Q8", "A4", "S4", "A5")}
    assert lengths == {"Z6": 1, "S3": 2, "Q8": 2, "A4": 2, "S4": 3, "A5": None}
    assert not describe(named_automaton("dyck-1-3")).complete


def brute_flags(step: np.ndarray) -> tuple[bool, ...]:
    """P0, P, S and C from the words themselves: all idempotents of words up to a length, all t up to one."""
    q, letters = step.shape
    maps = {(): tuple(range(q))}
    for n in range(1, 7):
        for word in itertools.product(range(letters), repeat=n):
            before = maps[word[:-1]]
            maps[word] = tuple(int(step[s, word[-1]]) for s in before)

    def then(*parts: tuple[int, ...]) -> tuple[int, ...]:
        here = tuple(range(q))
        for part in parts:
            here = tuple(part[s] for s in here)
        return here

    every, flags = set(maps.values()), [True] * 4
    for word, e in maps.items():
        if not word or then(e, e) != e:
            continue
        for x, y in itertools.product(set(word), repeat=2):
            mx, my = maps[x,], maps[y,]
            flags[0] &= then(mx, e) == e
            for t in every:
                flags[1] &= then(mx, t, e) == then(t, e)
                flags[3] &= then(mx, my, t, e) == then(my, mx, t, e)
                flags[2] &= then(mx, mx, t, e) == then(t, e)
    flags[2] &= flags[3]
    return tuple(flags)


@pytest.mark.parametrize("seed", range(6))
def test_flags_are_what_words_say(seed: int) -> None:
    step = np.random.default_rng(seed).integers(3, size=(3, 2))
    core = core_of(from_table({"step": step.tolist(), "output": [0, 1, 2]}))
    about = describe(from_table({"step": step.tolist(), "output": [0, 1, 2]}))
    assert brute_flags(core.step) == (about.P0, about.P, about.S, about.C)


def test_core_merges_what_no_word_tells_apart() -> None:
    twice = {
        "step": [[2, 1], [3, 0], [0, 3], [1, 2]],
        "output": [0, 1, 0, 1],
    }  # parity of the second letter, twice over
    assert core_of(from_table(twice)).step.tolist() == [[0, 1], [1, 0]]
    assert core_of(named_automaton("first")).n_states == 3
    assert core_of(create_task("word-problem", group="S3").automaton()).n_states == 6


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_words_have_their_answers(sampling: str) -> None:
    for name in ("flip-flop", "alternating", "dyck-2-3", "registers-2"):
        chosen = named_automaton(name, bos=name != "alternating")
        batch = AutomatonExamples(chosen, sampling)(seed=3, split="train", start=5, count=40, length=12)
        answers = [chosen.answers(word) for word in batch["tokens"].tolist()]
        assert answers == batch["targets"].tolist()
        again = AutomatonExamples(chosen, sampling)(seed=3, split="train", start=7, count=2, length=12)
        assert torch.equal(again["tokens"], batch["tokens"][2:4])


def test_balanced_words_are_alike_in_their_last_state_and_within_it() -> None:
    chosen = named_automaton("alternating", bos=False)
    batch = AutomatonExamples(chosen, "balanced")(seed=0, split="train", start=0, count=3000, length=5)
    # After five letters: a b a b a, and the sink by any of the 31 other words.
    words, counts = np.unique(batch["tokens"].numpy(), axis=0, return_counts=True)
    assert len(words) == 32
    alternating = (words == [0, 1, 0, 1, 0]).all(1)
    assert abs(counts[alternating][0] - 1500) < 6 * 750**0.5
    assert abs(counts[~alternating] - 1500 / 31).max() < 6 * (1500 / 31) ** 0.5
    assert AutomatonExamples(named_automaton("alternating"), "balanced").chance == 0.5
    far = AutomatonExamples(chosen, "balanced")(seed=0, split="train", start=0, count=64, length=1024)
    assert 10 < (far["targets"][:, -1] == 1).sum() < 54


def test_held_letters() -> None:
    batch = AutomatonExamples(named_automaton("flip-flop"), "held", 0.9)(
        seed=0, split="train", start=0, count=100, length=100
    )
    assert abs((batch["tokens"] == 0).float().mean() - 0.9 * 100 / 101) < 0.02


def test_repeated_words() -> None:
    batch = RepeatedExamples(named_automaton("Z2"))(seed=0, split="test", start=0, count=200, length=30)
    periods = set()
    for word in batch["tokens"].tolist():
        periods.add(next(p for p in (1, 2, 3) if all(word[i] == word[i - p] for i in range(1 + 3 + p, 31))))
    assert periods == {1, 2, 3}
    with pytest.raises(ValueError, match="need letters that may always come"):
        RepeatedExamples(named_automaton("dyck-1-3"))


def test_baselines_of_words_counted_one_by_one() -> None:
    chosen = named_automaton("clip-2", bos=False)
    words = [list(word) for word in itertools.product(range(2), repeat=6)]
    answers = [chosen.answers(word)[-1] for word in words]
    for k in (0, 2):
        right = 0
        for end in itertools.product(range(2), repeat=k):
            told = [a for word, a in zip(words, answers, strict=True) if tuple(word[6 - k :]) == end]
            right += max(told.count(a) for a in set(told))
        assert baseline(chosen, 6, k) == pytest.approx(right / 64)
    # Balanced, every word counts one over the words that lead to its state.
    share = {a: 1 / (3 * answers.count(a)) for a in set(answers)}
    right = 0
    for end in itertools.product(range(2), repeat=2):
        told = [a for word, a in zip(words, answers, strict=True) if tuple(word[4:]) == end]
        right += max(told.count(a) * share[a] for a in set(told))
    assert baseline(chosen, 6, 2, "balanced") == pytest.approx(right)


def test_every_name_is_a_task(tmp_path) -> None:
    versions = set()
    for name in list_automata():
        task = create_task("automaton", automaton=name, eval_lengths=(8,), eval_size=4)
        assert task.automaton().fingerprint() == named_automaton(name).fingerprint()
        versions.add(task.version())
    assert len(versions) == len(list_automata())
    file = tmp_path / "mine.yaml"
    file.write_text("letters: [hold, zero, one]\nstep: [[0, 0, 1], [1, 0, 1]]\noutput: [[0, 0, 1], [1, null, 1]]\n")
    task = create_task("automaton", automaton=str(file), eval_lengths=(8,))
    assert task.automaton().answers([3, 2, 1, 2]) == [IGNORE, 1, IGNORE, 1] and task.automaton().name == "mine"
    task = create_task("automaton", sampling="held", hold=0.8, test_holds=(0.1, 0.98), repeated=50, eval_lengths=(8,))
    assert [each.name for each in task.test_sets] == ["8", "hold=0.1", "hold=0.98", "repeated"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"automaton": "flipflop"}, "unknown automaton 'flipflop'; did you mean 'flip-flop'"),
        ({"automaton": "registers-40"}, "registers-k must have from 1 to 2,048 states"),
        ({"automaton": {"step": [[0]]}}, "table must have output, got step"),
        ({"automaton": {"step": [[0, 5]], "output": [0]}}, r"step must have states in \[0, 1\) and -1"),
        ({"automaton": {"step": [[0, 0], [1]], "output": [0]}}, "step must have rows of one length"),
        ({"automaton": {"step": [[0]], "output": [0], "bso": 1}}, "unknown entry of an automaton: 'bso'"),
        ({"automaton": {"step": [[0.5]], "output": [0]}}, "step must hold integers, got 0.5"),
        ({"sampling": "fair"}, "sampling must be one of uniform, balanced, held, got 'fair'"),
        ({"hold": 0.5}, "hold goes with sampling 'held'"),
        ({"sampling": "held", "hold": 2}, "hold must be a probability"),
    ],
)
def test_bad_arguments(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_task("automaton", **arguments)
