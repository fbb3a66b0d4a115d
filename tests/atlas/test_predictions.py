"""Verdicts of the atlas: those that are known, and tries to make one that is wrong.

A "cannot" is refuted by a machine of the layer's own kind whose states are finitely many: its states are told apart by
some continuous read-out with a margin, so that a layer follows the automaton whose answers are its states.
"""

import itertools
from collections.abc import Callable, Hashable
from fractions import Fraction

import numpy as np
import pytest

from seqmix.atlas import AUTOMATA, MIXERS, cell, predict
from seqmix.atlas.conditions import same_length_periods
from seqmix.atlas.constructions import plan
from seqmix.atlas.prediction import automaton_of
from seqmix.atlas.theorems import THEOREMS, Subject
from seqmix.atlas.traits import mixer_of, traits_of
from seqmix.tasks.automata import Automaton, describe, from_table, named_automaton
from seqmix.tasks.automata.describe import core_monoid

SYMBOLS = {"can": "Y", "cannot": "-", "open": "?"}
# Registers, delay, first, subsequence, newest before; (ab)*, factor, clip 2, clip 3, dyck; Z2, Z2 reset, Z3, Z3 reset,
# Z6; D4, Q8, S3, A4, S4; A5, S5, T3, random: what papers and constructions say, "." where they say nothing.
KNOWN = {
    "lru": "-.--- ----- ----- ----- ----",
    "mamba": "Y.--- ----- ----- ----- ----",
    "mamba, conv": "YYY-. YYY.. ----- ----- ----",
    "mamba, signed": "Y.--- ----- YY--- ----- ----",
    "gla, selective-rope": "Y.--- ----- YYYYY ----- ----",
    "deltanet": "Y.-.. ----- ----- ----- ----",
    "deltanet, signed": "Y.-.. .-... YY--- ----- ----",
    "deltanet, signed, 2 steps": "Y.-.. .-... YYYYY Y.YYY Y.--",
    "deltanet, signed, 4 steps": "Y.-.. .-... YYYYY YYYYY YY--",
    "bd-lru, any m": "YYYYY YYYYY YYYYY YYYYY YYYY",
    "bd-lru, l1, m = 1": "Y.--- ----- YY--- ----- ----",
    "h-lru": "YY... ..... ----- ----- --..",
    "attention": "----- ----- ----- ----- ----",
    "attention, forget gate": "Y.-.. ----- ----- ----- ----",
    "lstm": "YYYYY YYYYY YYYYY YYYYY YYYY",
    "pd-ssm": "YYYYY YYYYY YYYYY YYYYY YYYY",
    "rwkv-7": "..... ..... ----- ----- ----",
}


CLOCK = {"step": [[(q + 1) % 8] * 2 for q in range(8)], "output": [int(q == 0) for q in range(8)]}


@pytest.mark.parametrize("mixer", KNOWN)
def test_known_cells(mixer: str) -> None:
    columns = [name for name in AUTOMATA if name != "flip-flop"]
    said = [SYMBOLS[cell(mixer, name).verdict] for name in columns]
    told = zip(columns, KNOWN[mixer].replace(" ", ""), said, strict=True)
    assert not [(name, expected, got) for name, expected, got in told if expected not in (".", got)]
    assert cell(mixer, "flip-flop").verdict == cell(mixer, "registers").verdict


@pytest.mark.parametrize(
    ("mixer", "automaton"),
    [
        # Angles that are differences add up to the last one: nothing turns.
        ({"position": "selective-rope", "rope_options": {"d_conv": "difference", "bias": False}}, "Z2"),
        ({"position": "selective-rope", "rope_options": {"d_conv": "difference"}}, "Z3"),
        # One angle for all letters.
        ({"position": "selective-rope", "rope_options": {"d_conv": 1, "rank": 1}}, "Z6"),
        # A clock that turns by an eighth at each letter has a period of eight.
        ({"position": "rope", "rope_options": {"base": 16 / np.pi**2}}, from_table(CLOCK)),
        ({"d_conv": 4}, "flip-flop"),
    ],
)
def test_in_doubt_it_is_open(mixer: dict, automaton: Automaton | str) -> None:
    for layers in (1, 2):
        assert predict({"name": "gla", **mixer}, automaton, layers).verdict == "open"


def test_values_of_options_are_those_of_the_layer() -> None:
    with pytest.raises(ValueError, match="eigenvalues must be one of"):
        predict({"name": "mamba", "eigenvalues": "Signed"}, "Z2")
    with pytest.raises(ValueError, match="mixing must be one of"):
        predict({"name": "fp-rnn", "mixing": "diagonal-low-rank"}, "Z2")


@pytest.mark.slow
def test_most_cells_are_decided() -> None:
    verdicts = [cell(mixer, automaton).verdict for mixer in MIXERS for automaton in AUTOMATA]
    assert len(MIXERS) >= 20 and len(AUTOMATA) >= 16
    assert sum(verdict != "open" for verdict in verdicts) >= 0.85 * len(verdicts)


def test_depth() -> None:
    assert predict("mamba", "Z2", 5).verdict == "cannot" and predict("mamba", "first", 2).verdict != "cannot"
    turning = MIXERS["gla, selective-rope"]
    verdicts = {name: [predict(turning, name, n).verdict for n in (1, 2, 3)] for name in ("Z6", "S3", "Q8", "S4", "A5")}
    assert verdicts["Z6"] == ["can"] * 3 and verdicts["A5"] == ["cannot"] * 3
    assert verdicts["S3"] == verdicts["Q8"] == ["cannot", "can", "can"]
    assert verdicts["S4"] == ["cannot", "cannot", "can"]
    assert predict(turning, "maps-3", 2).verdict == "open"
    assert predict({"name": "gla", "position": "selective-rope"}, "S4", 2).verdict == "open"
    assert predict({"name": "gla", "position": "selective-rope"}, "A5", 9).verdict == "cannot"
    assert predict("lstm", "S5", 3).verdict == "can"
    assert predict("lru", "Z2", 3).theorem == "parity"


def test_what_is_said_and_from_where() -> None:
    found = predict({"name": "mamba", "d_conv": 1}, "first")
    assert found.theorem == "P" and "fixed margin" in found.precision and found.source == "derived"
    assert found.hypotheses[0] == "mamba(d_conv=1): positive"
    with pytest.raises(ValueError, match="mixer 'mamba' has no argument 'd_cnv'"):
        predict({"name": "mamba", "d_cnv": 1}, "first")
    with pytest.raises(ValueError, match="unknown automaton 'frist'; did you mean 'first'"):
        predict("mamba", "frist")


def breaking(mixer: str | dict, automaton: Automaton, n_layers: int = 1) -> list[str]:
    """Names of all theorems that say "cannot"."""
    found = core_monoid(automaton_of(automaton), 400)
    if found is None:
        return []
    subject, traits = Subject(describe(automaton), found[1]), traits_of(mixer_of(mixer))
    return [
        t.name
        for t in THEOREMS
        if t.layers in (0, n_layers) and t.applies(traits) and t.breaks(traits, subject, n_layers)
    ]


def machine(
    letters: int, start: Hashable, step: Callable[[Hashable, int], Hashable], most: int = 40
) -> Automaton | None:
    """The automaton of a machine, its answers the states; None for more than `most` states."""
    states = {start: 0}
    rows = []
    for state in (queue := [start]):
        row = []
        for letter in range(letters):
            after = step(state, letter)
            if after not in states:
                if len(states) == most:
                    return None
                states[after] = len(states)
                queue.append(after)
            row.append(states[after])
        rows.append(row)
    return from_table({"step": rows, "output": list(range(len(rows)))})


def rounded(values: np.ndarray) -> tuple[float, ...]:
    """What is added up of numbers with a few digits; turns of thirds make nothing else that is so near."""
    return tuple((np.round(values, 6) + 0.0).tolist())


def diagonal(seed: int, decays: list[complex], window: int) -> Automaton | None:
    """Channels with decays of zero, or of modulus one and nothing written, that are turned about one centre each."""
    draw = np.random.default_rng(seed)
    letters, channels = 2 + seed % 2, 1 + seed % 3
    shape = ((letters + 1) ** (window - 1), letters, channels)
    a, centre = draw.choice(np.array(decays), shape), draw.integers(-1, 2, channels)
    b = np.where(a == 0, draw.integers(-1, 2, shape), centre * (1 - a))

    def step(state: tuple, letter: int) -> tuple:
        h, last = np.array(state[0]), state[1]
        context = sum((x + 1) * (letters + 1) ** i for i, x in enumerate(last)) if window > 1 else 0
        h = a[context, letter] * h + b[context, letter]
        return tuple(map(complex, rounded(h.real), rounded(h.imag))), (*last, letter)[1:]

    return machine(letters, ((0j,) * channels, (-1,) * (window - 1)), step)


def lags(seed: int) -> Automaton | None:
    """Rows of lags whose newest copies a lag or takes one of two values."""
    draw = np.random.default_rng(seed)
    letters, order, channels = 2 + seed % 2, 1 + seed % 4, 1 + seed % 2
    slot = draw.integers(order + 1, size=(letters, channels))
    value = draw.integers(2, size=(letters, channels))
    start = tuple(tuple(draw.integers(2, size=order).tolist()) for _ in range(channels))

    def step(state: tuple, letter: int) -> tuple:
        newest = [
            int(value[letter, c]) if slot[letter, c] == order else row[slot[letter, c]] for c, row in enumerate(state)
        ]
        return tuple((new, *row[:-1]) for new, row in zip(newest, state, strict=True))

    return machine(letters, start, step)


def rows(seed: int, signed: bool) -> tuple[int, Automaton | None]:
    """Blocks of m entries that copy one another, up to signs, or take a value."""
    draw = np.random.default_rng(seed)
    m, letters = 1 + seed % 4, 2
    slot = draw.integers(m + (seed % 3 == 0), size=(letters, 2, m))
    sign = draw.choice([-1, 1], (letters, 2, m)) if signed else np.ones((letters, 2, m), dtype=int)
    start = tuple(tuple(draw.integers(-1, 2, size=m).tolist()) for _ in range(2))

    def step(state: tuple, letter: int) -> tuple:
        return tuple(
            tuple(int(sign[letter, b, i]) * (*row, 1)[slot[letter, b, i]] for i in range(m))
            for b, row in enumerate(state)
        )

    return m, machine(letters, start, step)


def householder(seed: int, betas: list[int], steps: int) -> Automaton | None:
    """S <- (I - beta k k^T) S + beta k v on a vector of two or three fractions, with keys K / |K| between axes."""
    draw = np.random.default_rng(seed)
    letters, d = 2 + seed % 2, 2 + seed % 2
    keys = draw.integers(-1, 2, (letters, steps, d)).tolist()
    beta = draw.choice(betas, (letters, steps)).tolist()
    values = (draw.integers(-1, 2, (letters, steps)) * (seed % 4 > 1)).tolist()

    def step(state: tuple, letter: int) -> tuple:
        for k, b, value in zip(keys[letter], beta[letter], values[letter], strict=True):
            # v is value / |K|.
            moved = b * Fraction(
                value - sum(x * h for x, h in zip(k, state, strict=True)), max(1, sum(x * x for x in k))
            )
            state = tuple(h + x * moved for x, h in zip(k, state, strict=True))
        return state

    return machine(letters, tuple(map(Fraction, draw.integers(-1, 2, d).tolist())), step)


def refuted(seed: int) -> list[tuple[str, list[str]]]:
    """What the theorems say wrongly of machines with this seed."""
    signs, turns = [0, 1, -1], [0, 1, -1, 1j, np.exp(2j * np.pi / 3)]
    tries: list[tuple[str | dict, Automaton | None]] = []
    for window in (1, 2, 3):
        for eigenvalues, decays in (("positive", [0, 1]), ("signed", signs)):
            mamba = {"name": "mamba", "eigenvalues": eigenvalues, "d_conv": window}
            tries.append((mamba, diagonal(seed, decays, window)))
        rope = {"name": "gla", "position": "selective-rope", "rope_options": {"d_conv": window}}
        tries.append((rope, diagonal(seed, turns, window)))
    tries.append(({"name": "mamba-3"}, diagonal(seed, turns, 2)))
    tries.append(({"name": "h-lru"}, lags(seed)))
    for normalization in ("softmax", "l1"):
        m, automaton = rows(seed, normalization == "l1")
        tries.append(({"name": "bd-lru", "normalization": normalization, "block_size": m}, automaton))
    for steps in (1, 2):
        delta = {"name": "deltanet", "d_conv": 1, "n_householder": steps}
        tries.append((delta, householder(seed, [0, 1], steps)))
        tries.append((delta | {"eigenvalues": "signed"}, householder(seed, [0, 1, 2], steps)))
    return [(str(mixer), wrong) for mixer, a in tries if a is not None and (wrong := breaking(mixer, a))]


@pytest.mark.parametrize("seed", range(12))
def test_no_machine_does_what_its_layer_cannot(seed: int) -> None:
    assert refuted(seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 400))
def test_no_machine_does_what_its_layer_cannot_at_length(seed: int) -> None:
    assert refuted(seed) == []


def contradicted(seed: int) -> list[tuple[str, list[str]]]:
    draw = np.random.default_rng(seed)
    states, letters = int(draw.integers(2, 5)), int(draw.integers(2, 4))
    step = draw.integers(states, size=(states, letters))
    if seed % 2:  # letters of a kind that registers have
        step = np.where(draw.random(letters) < 0.5, step[0], np.arange(states)[:, None] if seed % 4 == 1 else step)
    automaton = from_table({"step": step.tolist(), "output": draw.integers(states, size=states).tolist()})
    return [
        (name, wrong)
        for name, spec in MIXERS.items()
        if plan(mixer_of(spec), automaton) is not None and (wrong := breaking(spec, automaton))
    ]


@pytest.mark.parametrize("seed", range(12))
def test_no_theorem_speaks_against_a_construction(seed: int) -> None:
    assert contradicted(seed) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 300))
def test_no_theorem_speaks_against_a_construction_at_length(seed: int) -> None:
    assert contradicted(seed) == []


BROKEN = {
    "monotone floats": ("mamba", "Z2"),
    "monotone floats with signs": ({"name": "mamba", "eigenvalues": "signed"}, "Z3"),
    "parity": ("lru", "Z2"),
    "abelian factors": ("gateloop", "A5"),
    "means forget single letters": ("attention", "Z3"),
    "P": ({"name": "mamba", "d_conv": 1}, "first"),
    "S": ({"name": "mamba", "eigenvalues": "signed", "d_conv": 1}, "clip-2"),
    "C": ("gateloop", "S3"),
    "P, S, C with windows": ({"name": "mamba", "d_conv": 2}, "subsequence-3"),
    "alike": ("lru", "flip-flop"),
    "clocks": ({"name": "gla", "position": "rope"}, "clip-2"),
    "P0": ({"name": "deltanet", "d_conv": 1}, "first"),
    "powers converge": ("deltanet", "Z2"),
    "EL": ({"name": "deltanet", "eigenvalues": "signed", "d_conv": 1}, "first"),
    "one letter's powers": ({"name": "deltanet", "eigenvalues": "signed"}, "Z3"),
    "block sizes": ({"name": "bd-lru", "block_size": 2}, "Z3"),
    "lags": ("h-lru", "Z2"),
    "counts": ("attention", "flip-flop"),
    "means": ({"name": "attention", "forget_gate": True}, "first"),
}


def test_every_theorem_says_something() -> None:
    assert list(BROKEN) == [theorem.name for theorem in THEOREMS]
    for name, (mixer, automaton) in BROKEN.items():
        assert name in breaking(mixer, named_automaton(automaton))
        # A flip-flop with hold, or what a layer remembers at least, is not forbidden by it.
        assert name in ("alike", "counts") or name not in breaking(mixer, named_automaton("flip-flop"))


def test_words_of_one_length() -> None:
    for name, step in (("length mod 2", [[1, 1], [0, 0]]), ("parity", [[0, 1], [1, 0]])):
        found = core_monoid(automaton_of(from_table({"step": step, "output": [0, 1]})))
        assert found is not None
        lengths = {n: set(itertools.product(range(2), repeat=n)) for n in (2, 4)}
        assert len(lengths[4]) == 16 and max(same_length_periods(found[1])) == (1 if name == "length mod 2" else 2)
