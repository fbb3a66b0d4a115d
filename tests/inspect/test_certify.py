"""`certify`: known answers, damaged networks, and what is refused."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from seqmix import BDLRU, SequenceModel
from seqmix.inspect import Certificate, certify
from seqmix.tasks import Automaton, create_task, group
from seqmix.tasks.word_problem import WordProblemExamples
from tests.inspect.hard import all_words, by_hand, fit_head, hard_logits, random_words, wrong_at


def permutations(name: str) -> Tensor:
    """Sources (|G| + 1, 1, m) of one block that permutes by the group's elements and is written by BOS."""
    p = group(name).permutations
    assert p is not None
    return torch.tensor(np.concatenate([p.argsort(1), np.full((1, p.shape[1]), p.shape[1])]))[:, None]


def word_problem(name: str, **options) -> tuple[SequenceModel, Automaton]:
    automaton = WordProblemExamples(name).automaton()
    return by_hand(automaton, permutations(name), **options), automaton


def check_counterexample(certificate: Certificate, model: SequenceModel, automaton: Automaton) -> None:
    """The hard network, by plain loops, is wrong on the word and right on every shorter one."""
    assert not certificate.certified and certificate.counterexample is not None
    found = certificate.counterexample
    logits = hard_logits(model, [found.word])
    assert int(logits[0, -1].argmax()) == found.says != found.right == automaton.answers(found.word)[-1]
    for length in range(1, min(len(found.word), 4)):
        words = all_words(automaton, length)
        assert not any(wrong_at(hard_logits(model, words), automaton, words))


def check_refused(certificate: Certificate, model: SequenceModel, automaton: Automaton) -> None:
    """Wrong somewhere, or right by nothing but rounding."""
    if certificate.counterexample is None:
        assert not certificate.certified and "two answers are equal within rounding error" in certificate.reason
    else:
        check_counterexample(certificate, model, automaton)


@pytest.mark.parametrize("name", ["Z2", "Z5", "S3", "A4", "D5", "A5"])
def test_saturated_permutations_are_certified(name: str) -> None:
    model, automaton = word_problem(name)
    certificate = certify(model, WordProblemExamples(name))
    assert certificate.certified and certificate.counterexample is None and certificate.reason is None
    order = group(name).order
    assert certificate.states == order + 1, "the elements, and the start"
    assert certificate.safe_length == math.inf and certificate.gap < 1e-80
    (block,) = certificate.blocks
    abelian = (group(name).table == group(name).table.T).all()
    assert block.kind == ("both" if abelian else "anti-homomorphism") and block.faithful
    assert block.degree == model.blocks[0].mixer.block_size and not block.signed
    words = random_words(automaton, 20, 500)
    logits = model(torch.tensor(words))[0]
    assert torch.equal(logits.argmax(-1)[:, 1:], torch.tensor([automaton.answers(word)[1:] for word in words]))


def test_signed_gates_flip_signs() -> None:
    """m = 1 with signed gates does parity: the one is -1."""
    automaton = WordProblemExamples("Z2").automaton()
    model = by_hand(automaton, torch.tensor([[[0]], [[~0]], [[1]]]), normalization="l1")
    certificate = certify(model, automaton)
    assert certificate.certified and certificate.states == 3
    (block,) = certificate.blocks
    assert block.signed and block.faithful and block.degree == 1 and block.kind == "both"


def test_one_by_one_blocks_do_no_parity() -> None:
    automaton = WordProblemExamples("Z2").automaton()
    for zero, one in itertools.product([0, 1], repeat=2):
        model = by_hand(automaton, torch.tensor([[[zero]], [[one]], [[1]]]))
        check_refused(certify(model, automaton), model, automaton)


def test_an_unfaithful_block_is_not_certified_but_named() -> None:
    """S3 on two entries: what is left is the sign of the permutation."""
    table = group("S3").table
    odd = [g > 0 and table[g, g] == 0 for g in range(6)]
    sources = torch.tensor([[[1, 0] if each else [0, 1]] for each in odd] + [[[2, 2]]])
    automaton = WordProblemExamples("S3").automaton()
    model = by_hand(automaton, sources)
    certificate = certify(model, automaton)
    (block,) = certificate.blocks
    assert block.kind == "both" and block.kernel == 3 and not block.faithful
    check_refused(certificate, model, automaton)


def last_two() -> Automaton:
    """Which two symbols of {0, 1} came last, told by six answers: two of them for the first position."""
    after = np.array([[1, 2], [3, 4], [5, 6], [3, 4], [5, 6], [3, 4], [5, 6]])
    step = np.full((7, 6), -1)
    step[:, :2] = after
    return Automaton("the last two symbols", 0, step, np.where(step >= 0, step - 1, -100))


def test_h_lru_remembers_lags() -> None:
    model = by_hand(last_two(), torch.tensor([[[2, 0]]] * 6), mixer="h-lru")
    certificate = certify(model, last_two())
    assert certificate.certified and certificate.states == 7 and certificate.blocks == ()
    short = by_hand(last_two(), torch.tensor([[[1]]] * 6), mixer="h-lru")
    check_refused(certify(short, last_two()), short, last_two())


def test_h_lru_does_no_parity() -> None:
    automaton = WordProblemExamples("Z2").automaton()
    for zero, one in itertools.product(range(3), repeat=2):
        sources = torch.tensor([[[zero, 0]], [[one, 0]], [[2, 0]]])
        model = by_hand(automaton, sources, mixer="h-lru")
        check_refused(certify(model, automaton), model, automaton)


def test_loose_blocks_are_bounded_and_tracked_where_they_matter() -> None:
    """Blocks that copy and write at random: harmless while they speak quietly, wrong when they shout."""
    automaton = WordProblemExamples("A5").automaton()
    p = permutations("A5")
    noise = torch.tensor(np.random.default_rng(0).integers(0, 6, (61, 3, 5)))
    model = by_hand(automaton, torch.cat([p, noise], 1))
    fit_head(model, automaton, entries=5)
    with torch.no_grad():
        model.head.weight[:, -15:] = 1e-3 * torch.randn(61, 15, generator=torch.Generator().manual_seed(0))
    certificate = certify(model, automaton)
    assert certificate.certified and certificate.tracked_blocks == 1 and certificate.states == 61
    with torch.no_grad():
        model.head.weight[:, -15:] *= 1000
    check_counterexample(certify(model, automaton), model, automaton)


def flip_a_gate(model: SequenceModel, row: int, slot: int, token: int) -> None:
    """Row `row` of the gates now chooses `slot` at `token`, and is as it was at every other token."""
    x = model.blocks[0].mixer_norm(model.embedding.weight)
    layer = model.blocks[0].mixer
    only = torch.zeros(len(x))
    only[token] = 1000.0
    layer.proj_gates.weight.data[row * (layer.block_size + 1) + slot] += (torch.linalg.pinv(x) @ only[:, None])[:, 0]


def test_damaged_networks_are_refused() -> None:
    model, automaton = word_problem("A5")
    assert certify(model, automaton).certified
    intact = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        chosen = int(permutations("A5")[17, 0, 2])
        flip_a_gate(model, 2, (chosen + 1) % 5, 17)
        check_counterexample(certify(model, automaton), model, automaton)
        model.load_state_dict(intact)
        model.head.weight[[3, 4]] = model.head.weight[[4, 3]]
        check_counterexample(certify(model, automaton), model, automaton)
        model.load_state_dict(intact)
        model.embedding.weight[[8, 9]] = model.embedding.weight[[9, 8]]
        check_counterexample(certify(model, automaton), model, automaton)


def test_a_gate_that_cannot_choose_is_refused() -> None:
    model, automaton = word_problem("S3")
    layer = model.blocks[0].mixer
    with torch.no_grad():
        layer.proj_gates.weight[:4] = layer.proj_gates.weight[0]
        layer.proj_gates.bias[:4] = 0
    certificate = certify(model, automaton)
    assert not certificate.certified and certificate.counterexample is None
    assert "block 0, row 0: two gates are equal within rounding error" in certificate.reason


def test_read_outs_that_cannot_be_told_apart_are_refused() -> None:
    model, automaton = word_problem("S3")
    with torch.no_grad():
        model.head.weight[4] = model.head.weight[5] + 1e-7
    certificate = certify(model, automaton)
    assert not certificate.certified and certificate.counterexample is None
    assert "two answers are equal within rounding error" in certificate.reason


def test_too_many_states_are_no_certificate() -> None:
    model, automaton = word_problem("A5")
    certificate = certify(model, automaton, max_states=60)
    assert not certificate.certified and certificate.reason == "more than 60 states"
    assert certify(model, automaton, max_states=61).certified


def test_short_words_may_be_left_out() -> None:
    """Parity of one symbol and more, where a single symbol is answered the other way round."""
    parity = WordProblemExamples("Z2").automaton()
    step = np.array([[2, 1, -1], [1, 2, -1], [2, 1, -1], [-1, -1, 0]])
    odd_first = Automaton("odd", 3, step, np.where(step > 0, step % 2, -100), bos=2)
    model = by_hand(parity, permutations("Z2"))
    assert certify(model, parity).certified
    output = odd_first.output.copy()
    output[0, :2] = 1 - output[0, :2]
    wrong_once = Automaton("wrong once", 3, step, output, bos=2)
    assert certify(model, odd_first).certified
    check_counterexample(certify(model, wrong_once), model, wrong_once)
    certificate = certify(model, wrong_once, shortest_length=2)
    assert certificate.certified and certificate.shortest_length == 2


@pytest.mark.parametrize("mixer", ["attention", "lstm", "mamba", "dense", "lru"])
def test_other_mixers_are_named(mixer: str) -> None:
    with pytest.raises(ValueError, match=r"layer 0 is .*; only bd-lru and h-lru become finite automata"):
        certify(SequenceModel(mixer, 3, 8), WordProblemExamples("Z2"))


def test_random_numbers_go_on_as_if_nothing_had_been_asked() -> None:
    for mixer in ("bd-lru", functools.partial(BDLRU, block_size=2)):
        model = SequenceModel(mixer, 3, 8)
        before = torch.get_rng_state()
        certify(model, WordProblemExamples("Z2"))
        assert torch.equal(torch.get_rng_state(), before)


def test_what_is_not_treated_is_named() -> None:
    task = WordProblemExamples("Z2")
    with pytest.raises(ValueError, match="model must be a SequenceModel, got Linear"):
        certify(torch.nn.Linear(2, 2), task)
    with pytest.raises(ValueError, match="bidirectional"):
        certify(SequenceModel("bd-lru", 3, 8, bidirectional=True), task)
    with pytest.raises(ValueError, match="the head must answer at every position"):
        certify(SequenceModel("bd-lru", 3, 8, head={"name": "classification", "n_classes": 2}), task)
    with pytest.raises(NotImplementedError, match="float32 or float64"):
        certify(SequenceModel("bd-lru", 3, 8, dtype=torch.bfloat16), task)
    with pytest.raises(ValueError, match=r"must know the 3 tokens .* got vocab_size = 2"):
        certify(SequenceModel("bd-lru", 2, 8), task)
    with pytest.raises(NotImplementedError, match="StringCopy is no finite automaton"):
        certify(SequenceModel("bd-lru", 30, 8), create_task("string-copy"))
    with pytest.raises(NotImplementedError, match="int does not say what finite automaton it is"):
        certify(SequenceModel("bd-lru", 30, 8), 3)
    with pytest.raises(ValueError, match="max_states must be a positive integer, got 0"):
        certify(SequenceModel("bd-lru", 3, 8), task, max_states=0)
    for name, part in (("head", torch.nn.Linear(8, 3)), ("norm", torch.nn.LayerNorm(8)), ("norm", torch.nn.RMSNorm(8))):
        changed = SequenceModel("bd-lru", 3, 8)
        setattr(changed, name, part)
        with pytest.raises(NotImplementedError, match=f"certify: {name}.* SequenceModel makes it"):
            certify(changed, task)
    changed = SequenceModel("bd-lru", 3, 8)
    changed.blocks[0].mixer_norm.eps = 1.0
    with pytest.raises(NotImplementedError, match=r"mixer_norm\.eps is not as SequenceModel makes it, got 1.0"):
        certify(changed, task)
    broken = SequenceModel("bd-lru", 3, 8)
    torch.nn.init.constant_(broken.norm.weight, math.nan)
    with pytest.raises(ValueError, match=r"weights must be finite, norm.weight is not"):
        certify(broken, task)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_at_the_ends_of_their_type_are_refused(dtype: torch.dtype) -> None:
    """In exact arithmetic these networks are right, or as wrong as their heads; as they run they are neither."""
    info, task = torch.finfo(dtype), WordProblemExamples("S3")
    for most in (info.max**0.6, info.max**0.8):
        model = word_problem("S3")[0].to(dtype)
        model.embedding.weight.data *= most
        model.blocks[0].mixer.proj_out.weight.data *= most
        assert not certify(model, task).certified, "squares overflow in the norms"
    for wrong in (False, True):
        model = word_problem("S3")[0].to(dtype)
        model.blocks[0].mixer.proj_out.weight.data *= info.max**0.8
        if wrong:
            model.head.weight.data[[3, 4]] = model.head.weight.data[[4, 3]]
        assert not certify(model, task).certified, "squares overflow in the last norm"
    model = word_problem("S3")[0].to(dtype)
    model.head.weight.data *= info.tiny * info.eps * 1e3
    assert not certify(model, task).certified, "products underflow in the read-out"
    model.head.weight.data.fill_(info.max / 2)
    with pytest.raises(NotImplementedError, match=r"head.weight is so large, above .*, that the model may overflow"):
        certify(model, task)


def test_signed_gates_that_underflow_are_refused() -> None:
    """Their sum is below what the model divides by at the least, so that they are not close to signs."""
    automaton = WordProblemExamples("Z2").automaton()
    model = by_hand(automaton, torch.tensor([[[0]], [[~0]], [[1]]]), normalization="l1")
    assert certify(model, automaton).certified
    for scale in (1e-6, 1e-41, 1e-43):
        damaged = by_hand(automaton, torch.tensor([[[0]], [[~0]], [[1]]]), normalization="l1")
        damaged.blocks[0].mixer.proj_gates.weight.data *= scale
        damaged.blocks[0].mixer.proj_gates.bias.data *= scale
        certificate = certify(damaged, automaton)
        assert not certificate.certified and "two gates are equal within rounding error" in certificate.reason
