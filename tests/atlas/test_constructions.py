"""Written weights answer all short words and long random ones, exactly where their plan says so, with gradients."""

import numpy as np
import pytest
import torch

from seqmix.atlas import MIXERS, check, closed, construct
from seqmix.atlas.frame import inverse_silu
from seqmix.atlas.representations import faithful, irreducible, reflections
from seqmix.inspect import certify, verify
from seqmix.tasks.automata import from_table
from seqmix.tasks.groups import group

MAMBA = {"name": "mamba", "eigenvalues": "signed"}
DELTANET = {"name": "deltanet", "eigenvalues": "signed"}
# What mixers follow in one layer; the first of each is in the default sample.
CAN = {
    "bd-lru, any m": ["maps-3", "flip-flop", "clip-3", "dyck-1-3-sink", "Q8", "S4", "random-5-2-0", "S5"],
    "bd-lru, l1, any m": ["maps-3", "counter-2-reset", "S3", "random-5-2-0"],
    "bd-lru, l1, m = 1": ["counter-2-reset", "Z2"],
    "h-lru": ["delay", "flip-flop", "registers-2"],
    "pd-ssm": ["maps-3", "clip-3", "S4", "A5"],
    "lstm": ["maps-3", "first", "D4", "S4"],
    "fp-rnn, b sees h": ["maps-3", "newest-before", "A4"],
    "mamba": ["registers-2", "flip-flop"],
    "mamba, conv": ["clip-2", "first", "alternating", "factor-2", "delay"],
    "mamba, signed": ["counter-2-reset", "Z2"],
    "mamba-2": ["registers-2"],
    "rg-lru": ["registers-2"],
    "min-gru": ["registers-2"],
    "hgrn-2": ["registers-2"],
    "kda": ["registers-2"],
    "gla": ["registers-2"],
    "gla, selective-rope": ["counter-3-reset", "Z5", "Z6", "Z2", "registers-2"],
    "gateloop": ["counter-3-reset", "Z6"],
    "deltanet": ["registers-2"],
    "deltanet, signed": ["counter-2-reset", "Z2"],
    "deltanet, signed, 2 steps": ["S3", "counter-3-reset", "Z6", "D4", "A4", "S4", "A5"],
    "deltanet, signed, 4 steps": ["Q8", "S5"],
    "dense": ["S3", "counter-3-reset", "Q8", "S5", "registers-2"],
    "attention, forget gate": ["registers-2"],
}
FIRST = [(mixer, names[0]) for mixer, names in CAN.items()]
OTHERS = [(mixer, name) for mixer, names in CAN.items() for name in names[1:]]


@pytest.mark.parametrize(("mixer", "automaton"), FIRST)
def test_short_words(mixer: str, automaton: str) -> None:
    made = construct(MIXERS[mixer], automaton)
    letters = len(made.automaton.step[0])
    found = check(made.model, made.automaton, longest=3 if letters > 6 else 5, words=8, length=200)
    assert found.wrong is None and found.margin > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("mixer", "automaton"), FIRST + OTHERS)
def test_long_words(mixer: str, automaton: str) -> None:
    made = construct(MIXERS[mixer], automaton)
    large = len(made.automaton.step) > 40
    # Attention looks at all pairs of letters.
    words, length = (2, 2000) if large or mixer.startswith("attention") else (6, 10_000)
    found = check(made.model, made.automaton, longest=2 if large else 6, words=words, length=length)
    assert found.wrong is None and found.margin > 0.05


@pytest.mark.parametrize("mixer", ["bd-lru, any m", "bd-lru, l1, any m", "h-lru"])
def test_rows_are_certified(mixer: str) -> None:
    for automaton in ("registers-2", "delay") if mixer == "h-lru" else ("maps-3", "S3"):
        made = construct(MIXERS[mixer], automaton)
        certificate = certify(made.model, made.automaton)
        assert certificate.certified
        # Softmax gates are hard in float32; of L1 gates the others are zero, and one is its own sum.
        assert certificate.safe_length == float("inf") or "l1" in mixer
        verify(certificate, made.model, made.automaton)


def bits(model: torch.nn.Module, words: list[list[int]]) -> torch.Tensor:
    """Logits of words, one letter after the other."""
    state, logits = model.init_state(len(words)), []
    for tokens in torch.tensor(words).T:
        out, state = model.step(tokens, state)
        logits.append(out)
    return torch.stack(logits, 1)


@pytest.mark.parametrize("mixer", [name for name in CAN if not name.startswith("attention")])  # whose state grows
def test_exact_states_come_back(mixer: str) -> None:
    made = construct(MIXERS[mixer], CAN[mixer][0])
    assert not made.plan.exact or closed(made.model, made.automaton) is not None


def test_states_that_drift_do_not_come_back() -> None:
    made = construct(MIXERS["gla, selective-rope"], "Z5")
    assert closed(made.model, made.automaton, 60) is None
    made = construct("pd-ssm", "Z5")
    with torch.no_grad():
        made.model.head.weight[:2] = made.model.head.weight[:2].flip(0)
    assert closed(made.model, made.automaton) is None


@pytest.mark.parametrize(
    "mixer", ["bd-lru, any m", "mamba, conv", "gla, selective-rope", "deltanet, signed, 2 steps", "lstm"]
)
def test_steps_packed_and_gradients_are_those_of_the_layer(mixer: str) -> None:
    made = construct(MIXERS[mixer], "clip-2" if mixer == "mamba, conv" else "registers-2")
    model, bos = made.model, made.automaton.bos
    words = [[bos, 0, 1, 1, 0, 1, 0], [bos, 1, 1, 0, 0, 0, 1]]
    whole = model(torch.tensor(words))[0]
    near = {"rtol": 1e-4, "atol": 1e-4 * float(whole.detach().abs().max())}
    torch.testing.assert_close(bits(model, words), whole, **near)
    packed = model(torch.tensor(words).view(1, -1), cu_seqlens=torch.tensor([0, 7, 14], dtype=torch.int32))[0]
    torch.testing.assert_close(packed.view_as(whole), whole, **near)
    whole.logsumexp(-1).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.embedding.weight.grad is not None


@pytest.mark.parametrize("name", ["Z5", "D4", "Q8", "A4", "S4"])
def test_representations_multiply(name: str) -> None:
    table = group(name).table
    sizes = 0
    for each in irreducible(table):
        m = each.matrices
        products = np.einsum("bij,ajk->abik", m, m)  # a, then b
        assert np.abs(products - m[table]).max() < 1e-9
        sizes += 1
        for matrix, moved in zip(m, each.moved, strict=True):
            built = np.eye(m.shape[1])
            mirrors = reflections(matrix)
            for v in mirrors:
                built = built - 2 * np.outer(v, v @ built)
            assert len(mirrors) <= moved and np.abs(built - matrix).max() < 1e-9
    assert sizes == {"Z5": 2, "D4": 4, "Q8": 4, "A4": 2, "S4": 4}[name]
    least = {"Z5": 2, "D4": 2, "Q8": 4, "A4": 2, "S4": 2}[name]
    every = list(range(len(table)))
    assert faithful(table, every, least) is not None and faithful(table, every, least - 1) is None


def test_inverse_silu() -> None:
    values = np.array([-0.27, -1e-4, 0.0, 1e-4, 1.0, 30.0])
    p = inverse_silu(values)
    assert np.abs(p / (1 + np.exp(-p)) - values).max() < 1e-9


@pytest.mark.parametrize("mixer", ["mamba", "mamba-2", "hgrn-2", "kda", "gla", "deltanet", "min-gru", "pd-ssm", "lstm"])
@pytest.mark.parametrize(
    "table",
    [
        {"step": [[0]], "output": [2]},
        {"step": [[0, 0]], "output": [[0, 1]]},
        {"step": [[1, 1], [0, 0]], "output": 2 * [0]},
    ],
    ids=["one letter", "the last letter", "always the same"],
)
def test_nothing_need_be_remembered(mixer: str, table: dict) -> None:
    made = construct(MIXERS[mixer], from_table(table))
    assert check(made.model, made.automaton, longest=4, words=4, length=60).wrong is None


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no construction of Z2 for mamba"):
        construct("mamba", "Z2")
    with pytest.raises(ValueError, match="lstm would need 14,401 units here, more than 4,096"):
        construct("lstm", "S5")
    promise = from_table({"step": [[1, -1], [0, 1]], "output": [0, 1]})
    with pytest.raises(ValueError, match="there is no construction"):
        construct("pd-ssm", promise)
    without = from_table({"step": [[0, 1], [1, 0]], "output": [0, 1], "bos": False})
    made = construct(MAMBA, without)
    assert made.automaton.bos == 2 and check(made.model, made.automaton, longest=4, words=0).wrong is None


def test_a_wrong_answer_is_found() -> None:
    made = construct("pd-ssm", "clip-3")
    with torch.no_grad():
        made.model.head.weight[:2] = made.model.head.weight[:2].flip(0)
    assert check(made.model, made.automaton).wrong is not None
    assert construct({**DELTANET, "n_householder": 2}, "S3").plan.exact is False
