"""Horizon brackets: the shortest wrong word is that of all words, and forged ones are refused."""

import itertools

import numpy as np
import pytest
import torch

from seqmix import SequenceModel
from seqmix.atlas import MIXERS, Bracket, brackets, brackets_check, check, construct, horizon, verify_bracket
from seqmix.atlas.counts import affine_of, by_counts
from seqmix.atlas.drift import drift_length
from seqmix.atlas.plain import is_plain
from seqmix.tasks.automata import named_automaton
from seqmix.tasks.automata.core import core_of
from seqmix.tasks.automata.sampling import AutomatonExamples

PLAIN = {
    "mamba": {"name": "mamba", "d_conv": 1, "d_state": 2, "eigenvalues": "signed"},
    "min-gru": {"name": "min-gru", "d_state": 6},
    "rg-lru": {"name": "rg-lru", "d_conv": 1, "d_state": 8},
}


def leads(model: SequenceModel, automaton, n: int) -> np.ndarray:
    """Least lead over all words of n letters at their end, in float64 and without the last norm's division."""
    letters = core_of(automaton).tokens.tolist()
    words = torch.tensor([[automaton.bos, *word] for word in itertools.product(letters, repeat=n)])
    logits = model.double().eval()(words)[0][:, -1]
    right = torch.tensor([automaton.answers(word)[-1] for word in words.tolist()])
    others = logits.scatter(1, right[:, None], -torch.inf).amax(1)
    return (logits.gather(1, right[:, None])[:, 0] - others).detach().numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mixer", PLAIN)
def test_counts_find_the_least_lead_of_all_words(mixer: str, seed: int) -> None:
    torch.manual_seed(seed)
    automaton = named_automaton("clip-2")
    model = SequenceModel(PLAIN[mixer], automaton.vocab_size, 8, mlp_ratio=0)
    core = core_of(automaton)
    affine = affine_of(model, automaton, core)
    smallest = [leads(model, automaton, n) for n in range(1, 8)]
    assert any(each.min() < 0 for each in smallest)
    first = next(n for n, each in enumerate(smallest, 1) if each.min() < 0)
    safe, word = by_counts(affine, core, 7)
    assert word is not None and safe == first - 1 == len(word) - 1
    tokens = torch.tensor([[automaton.bos, *core.tokens[word].tolist()]])
    says = int(model(tokens)[0][0, -1].argmax())
    assert says != automaton.answers(tokens[0].tolist())[-1]


@pytest.mark.parametrize("mixer", PLAIN)
def test_maps_are_those_of_letters_that_come_later(mixer: str) -> None:
    """RG-LRU writes the first token of all with another gain; both codes find what letters do behind the BOS."""
    torch.manual_seed(1)
    automaton = named_automaton("clip-2")
    model = SequenceModel(PLAIN[mixer], automaton.vocab_size, 8, mlp_ratio=0).double().eval()
    core = core_of(automaton)
    affine = affine_of(model, automaton, core)
    maps = brackets_check._maps(model, [*core.tokens.tolist(), automaton.bos])
    mixer_inputs = model.blocks[0].mixer_norm(model.embedding(torch.tensor([automaton.bos, *core.tokens.tolist()])))
    layer = model.mixers[0]
    state = layer.step(mixer_inputs[:1], layer.init_state(1, dtype=torch.float64))[1]
    for x, token in enumerate(core.tokens.tolist()):
        a, b, *_ = maps[token]
        np.testing.assert_allclose(affine.a[x], a.detach(), atol=1e-12)
        np.testing.assert_allclose(affine.b[x], b.detach(), atol=1e-12)
        after = layer.step(mixer_inputs[x + 1 : x + 2], state)[1]
        before, behind = (next(leaf for leaf in s if leaf.numel() and leaf.is_floating_point()) for s in (state, after))
        told = affine.a[x] * before.flatten().detach().numpy() + affine.b[x]
        np.testing.assert_allclose(behind.flatten().detach(), told, atol=1e-12)


def trained(mixer: dict, automaton, steps: int, length: int, seed: int) -> SequenceModel:
    torch.manual_seed(seed)
    model = SequenceModel(mixer, automaton.vocab_size, 32, mlp_ratio=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    examples = AutomatonExamples(automaton)
    for step in range(steps):
        batch = examples(seed=seed, split="train", start=64 * step, count=64, length=3 + min(step // 8, length - 3))
        logits = model(batch["tokens"])[0].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, batch["targets"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_trained_layer_has_a_shortest_wrong_word(seed: int) -> None:
    automaton = named_automaton("Z2")
    mixer = {"name": "mamba", "d_conv": 1, "d_state": 4, "eigenvalues": "signed"}
    model = trained(mixer, automaton, 500, 20, seed)
    bracket = horizon(model, automaton, 400)
    assert bracket.method == "counts" and bracket.safe >= 20
    # Nothing lies between, but where rounding decides.
    assert bracket.fails is None or bracket.safe >= 0.8 * bracket.fails
    assert verify_bracket(bracket, model, automaton) == 12


def test_written_weights_never_fail() -> None:
    made = construct(MIXERS["rg-lru"], "flip-flop")
    bracket = horizon(made.model, made.automaton, 16)
    assert (bracket.safe, bracket.method, bracket.word) == (16, "counts", None)
    assert verify_bracket(bracket, made.model, made.automaton) == 12


@pytest.mark.parametrize(("mixer", "name"), [("gla, selective-rope", "Z3"), ("gateloop", "Z3"), ("dense", "Z3")])
def test_turns_that_are_off_fail_after_what_is_safe(mixer: str, name: str) -> None:
    made = construct(MIXERS[mixer], name)
    exact = horizon(made.model, made.automaton, 12)
    assert exact.method == "drift" and exact.safe > 10_000 and exact.word is None
    layer = made.model.mixers[0]
    with torch.no_grad():
        if mixer == "dense":
            turn = torch.tensor([[0.0, -1.5e-2], [1.5e-2, 0.0]]).matrix_exp()
            weight = layer.proj_transition.weight
            weight.copy_(torch.einsum("ij,jkd->ikd", turn, weight.view(2, 2, -1)).flatten(0, 1))
        else:
            weight = layer.position.up_proj.weight if mixer.startswith("gla") else layer.gate_proj.weight
            # Of GateLoop every second row is an angle.
            weight[slice(None) if mixer.startswith("gla") else slice(1, None, 2)] *= 1.006
    bracket = horizon(made.model, made.automaton, 120)
    assert bracket.method == "drift" and bracket.fails is not None
    assert bracket.fails / 8 < bracket.safe < bracket.fails
    assert verify_bracket(bracket, made.model, made.automaton) == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Z6", "S3", "D4", "A4"])
def test_reflections_are_safe_for_long(name: str) -> None:
    made = construct(MIXERS["deltanet, signed, 2 steps"], name)
    bracket = horizon(made.model, made.automaton, 20)
    assert bracket.method == "drift" and bracket.safe > 1000 and bracket.word is None


def test_other_layers_are_run() -> None:
    made = construct(MIXERS["deltanet, signed"], "Z2")
    bracket = horizon(made.model, made.automaton, 40)
    assert bracket.safe > 10_000 and (bracket.method, bracket.word) == ("drift", None)
    torch.manual_seed(0)
    model = SequenceModel("lstm", 3, 8)
    bracket = horizon(model, named_automaton("Z2"), 10)
    assert bracket.fails is not None and bracket.safe == bracket.fails - 1
    assert verify_bracket(bracket, model, named_automaton("Z2")) == bracket.safe


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"glu": True}, {"final_norm": False}, {"mlp_ratio": 1}])
@pytest.mark.parametrize("mixer", ["dense", "lstm", "min-gru"])
def test_nothing_is_proved_of_what_stands_around_a_layer(mixer: str, options: dict) -> None:
    torch.manual_seed(0)
    model = SequenceModel(mixer, 3, 8, **{"mlp_ratio": 0, **options})
    assert not is_plain(model) and is_plain(SequenceModel(mixer, 3, 8, mlp_ratio=0))
    assert horizon(model, named_automaton("Z2"), 8).method == "all words"


def test_a_wrong_word_that_comes_late_in_the_order_of_letters() -> None:
    """Written weights with a GLU behind them, which letter 1 does not survive: words of zeros are right for longer."""
    made = construct("dense", "Z3")
    torch.manual_seed(0)
    sizes = made.model.config["mixer"], made.automaton.vocab_size, made.model.d_model
    model = SequenceModel(*sizes, 1, mlp_ratio=0, glu=True)
    model.load_state_dict(made.model.state_dict(), strict=False)
    assert check(model, made.automaton, longest=4, words=0).wrong == [3, 0, 0, 0, 1]
    bracket = horizon(model, made.automaton, 6)
    assert (bracket.safe, bracket.method, bracket.word) == (0, "all words", [3, 1])
    verify_bracket(bracket, model, made.automaton)


def test_nothing_is_proved_of_turns_that_do_not_commute_with_decays() -> None:
    """What such a layer does with a letter depends on the angle by then: single letters do not show it."""
    mixer = {**MIXERS["gla, selective-rope"], "tie_decay": False}
    made = construct(mixer, "flip-flop")
    with torch.no_grad():
        made.model.mixers[0].position.up_proj.weight[:, 0] = 1e-4  # the letter that holds turns a little
    with pytest.raises(NotImplementedError, match="more than the state"):
        drift_length(made.model, made.automaton, core_of(made.automaton))
    assert horizon(made.model, made.automaton, 8).method == "all words"
    tied = construct(MIXERS["gla, selective-rope"], "flip-flop")
    assert drift_length(tied.model, tied.automaton, core_of(tied.automaton)) > 10_000


def test_a_proof_that_a_word_contradicts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = SequenceModel("lstm", 3, 8)
    monkeypatch.setattr(brackets, "drift_length", lambda *_: 1000)
    with pytest.raises(ArithmeticError, match=r"1000 letters are safe by drift, but .* is answered wrongly"):
        horizon(model, named_automaton("Z2"), 20)


@pytest.mark.parametrize("method", ["drift", "all words", "counts"])
def test_forged_lengths_are_refused(method: str) -> None:
    """Of a layer whose words are right up to hundreds of letters, and wrong later."""
    made = construct(MIXERS["gla, selective-rope"], "Z3")
    with torch.no_grad():
        made.model.mixers[0].position.up_proj.weight[:] *= 1.0005
    bracket = horizon(made.model, made.automaton, 300)
    assert bracket.method == "drift" and verify_bracket(bracket, made.model, made.automaton) == 7
    with pytest.raises((ValueError, NotImplementedError), match=r"not proved safe|not all run|not affine|real tensor"):
        verify_bracket(Bracket(10**8, method, None, None), made.model, made.automaton)
    if method == "all words":
        with pytest.raises(ValueError, match="words longer than 10 letters are not all run"):
            verify_bracket(Bracket(10**400, method, None, None), made.model, made.automaton)


def test_forged_brackets_are_refused() -> None:
    torch.manual_seed(0)
    automaton = named_automaton("Z2")
    model = SequenceModel(PLAIN["mamba"], 3, 8, mlp_ratio=0)
    bracket = horizon(model, automaton, 20)
    assert bracket.word is not None and bracket.fails is not None
    with pytest.raises(ValueError, match=r"bracket: .* answered wrongly"):
        verify_bracket(bracket._replace(safe=8, word=None, fails=None), model, automaton)
    right = next(
        word
        for n in range(1, 6)
        for word in itertools.product(range(2), repeat=n)
        if int(model(torch.tensor([[2, *word]]))[0][0, -1].argmax()) == automaton.answers([2, *word])[-1]
    )
    with pytest.raises(ValueError, match="to its word, which is right"):
        verify_bracket(bracket._replace(word=[2, *right], fails=len(right)), model, automaton)
    with pytest.raises(ValueError, match="automaton must have a BOS and letters that may always come"):
        horizon(model, named_automaton("dyck-1-3"))


@pytest.mark.slow
def test_brackets_are_narrow() -> None:
    """Written weights with noise: a proved length below and a wrong word above, for five mixers on four groups."""
    ratios = []
    for mixer in ("gla, selective-rope", "gateloop", "dense", "deltanet, signed, 2 steps", "deltanet, signed, 4 steps"):
        for name in ("Z2", "Z3", "Z5", "Z6"):
            made = construct(MIXERS[mixer], name)
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in made.model.mixers[0].parameters():
                    parameter.mul_(1 + 1e-2 * torch.randn_like(parameter))
            bracket = horizon(made.model, made.automaton, 120)
            verify_bracket(bracket, made.model, made.automaton)
            # Where no word of 120 letters is wrong, the bracket is open above.
            ratios.append(float("inf") if bracket.fails is None else bracket.fails / max(bracket.safe, 1e-9))
    assert len(ratios) == 20 and np.median(ratios) < 30
