"""`verify` and `seqmix certify`: certificates that hold, forged ones, and those of other models."""

import copy
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmix import SequenceModel
from seqmix.__main__ import main
from seqmix.atlas import construct
from seqmix.commands import certify as cli
from seqmix.inspect import Certificate, certify, verify
from seqmix.tasks import create_task
from seqmix.tasks.word_problem import WordProblemExamples
from tests.inspect.hard import by_hand, hard_logits
from tests.inspect.test_certify import last_two, permutations, word_problem

SIGNED: dict[str, Any] = {"name": "mamba", "d_conv": 1, "eigenvalues": "signed"}


@pytest.fixture(scope="module")
def held() -> tuple[Certificate, SequenceModel]:
    """S3 with gates that are nearly hard, beside a block of noise that intervals bound."""
    noise = torch.tensor([[[0, 3, 1]], [[1, 1, 3]]] * 3 + [[[3, 3, 3]]])
    automaton = WordProblemExamples("S3").automaton()
    model = by_hand(automaton, torch.cat([permutations("S3"), noise], 1), sharpness=12.0)
    model.head.weight.data[:, -3:] *= 1e-3
    model.head.weight.data[:, 7] = 0
    model.head.weight.data[:6, 7] = -model.head.weight.data[:6, 9:12].square().sum(1) / 2
    model.head.weight.data[6, 7] = -1000
    model.head.weight.data[:, 8] = 0
    model.head.weight.data[:, 8] = -model.head.weight.data.sum(1)
    return certify(model, automaton), model


def again(certificate: Certificate) -> Certificate:
    """Through JSON and back."""
    return Certificate.from_dict(json.loads(json.dumps(certificate.to_dict())))


def test_what_certify_finds_holds(held: tuple[Certificate, SequenceModel]) -> None:
    certificate, model = held
    assert certificate.certified and certificate.tracked_blocks == 1 and 0 < certificate.safe_length < 10**7
    assert again(certificate) == certificate
    verify(again(certificate), model, WordProblemExamples("S3"))
    for make in (
        lambda: word_problem("A4"),
        lambda: (by_hand(last_two(), torch.tensor([[[2, 0]]] * 6), mixer="h-lru"), last_two()),
    ):
        model, task = make()
        verify(again(certify(model, task)), model, task)


def forgeries(c: Certificate) -> dict[str, Certificate]:
    proof = c.proof
    assert proof is not None and c.safe_length is not None
    wrong_start = [proof.states[0][:1] + [1] * (len(proof.states[0]) - 1), *proof.states[1:]]
    return {
        "states are not closed": replace(c, states=c.states - 1, proof=replace(proof, states=proof.states[:-1])),
        "does not begin at the start": replace(c, proof=replace(proof, states=wrong_start)),
        "miscounts its states": replace(c, states=7 + c.states),
        "miscounts its blocks": replace(c, tracked_blocks=2),
        "intervals are not closed": replace(c, proof=replace(proof, high=[h - 0.5 for h in proof.high])),
        "intervals are of other entries": replace(c, proof=replace(proof, high=proof.high[1:])),
        "soft gates are not proved up to": replace(c, safe_length=2 * c.safe_length + 2),
        "soft gates are not hard": replace(c, safe_length=float("inf")),
        "gap is too small": replace(c, gap=c.gap / 2),
        "margin is too large": replace(c, margin=2 * c.margin),
        "blocks do not carry": replace(c, blocks=(c.blocks[0]._replace(degree=2), *c.blocks[1:])),
        "of other weights": replace(c, weights_fingerprint="0" * 64),
        "of other task": replace(c, task_fingerprint="0" * 64),
        "no proof": replace(c, proof=None),
        "nothing to check": replace(c, certified=False, reason="more than 3 states", proof=None),
        "says why it is none": replace(c, reason="tired"),
    }


def test_forged_ones_are_refused(held: tuple[Certificate, SequenceModel]) -> None:
    certificate, model = held
    for message, forged in forgeries(certificate).items():
        with pytest.raises(ValueError, match=message):
            verify(again(forged), model, WordProblemExamples("S3"))


def test_forgeries_beside_the_proof_are_refused(held: tuple[Certificate, SequenceModel]) -> None:
    """Of a refusal, of a network with an MLP, of one with two layers; and what is of no use at all."""
    task = WordProblemExamples("S3")
    certificate, model = held
    proof = certificate.proof
    assert proof is not None
    for message, forged in {
        "of other task: expected the word problem": replace(certificate, task="the word problem of S5"),
        "no length can be -5": replace(certificate, safe_length=-5),
        "malformed": replace(certificate, proof=replace(proof, tracked=[7])),
        "another size": replace(certificate, proof=replace(proof, states=[])),
    }.items():
        with pytest.raises(ValueError, match=message):
            verify(again(forged), model, task)
    damaged, _ = word_problem("S3")
    damaged.head.weight.data[[3, 4]] = damaged.head.weight.data[[4, 3]]
    refused = certify(damaged, task)
    verify(again(refused), damaged, task)
    found = refused.counterexample
    assert found is not None
    for message, forged in {
        "a refusal proves nothing": replace(refused, safe_length=1000),
        "blocks do not carry": replace(refused, blocks=(refused.blocks[0]._replace(kernel=1, degree=2),)),
        "with its own gates the network says": replace(
            refused, counterexample=replace(found, soft_says=(found.soft_says + 1) % 6)
        ),
        "its word is empty": replace(refused, counterexample=replace(found, word=[])),
    }.items():
        with pytest.raises(ValueError, match=message):
            verify(again(forged), damaged, task)
    for n_layers, mlp_ratio, message in ((1, 1, "gap is too small"), (2, 0, "soft gates of several layers")):
        model = _deeper(word_problem("S3", sharpness=12.0)[0], n_layers, mlp_ratio)
        honest = certify(model, task)
        assert honest.certified
        verify(again(honest), model, task)
        with pytest.raises(ValueError, match=message):
            verify(again(replace(honest, gap=0.0)), model, task)


def _deeper(model: SequenceModel, n_layers: int, mlp_ratio: float) -> SequenceModel:
    """The same network with parts behind it that add nothing."""
    deeper = SequenceModel(
        **model.config | {"n_layers": n_layers, "mixer": model.config["mixer"] * n_layers, "mlp_ratio": mlp_ratio}
    )
    deeper.load_state_dict(model.state_dict(), strict=False)
    for block in deeper.blocks:
        if block.mlp is not None:
            block.mlp.down_proj.weight.data.zero_()
    for block in deeper.blocks[1:]:
        block.mixer.proj_out.weight.data.zero_()
        block.mixer.proj_gates.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    return deeper


def test_a_wrong_network_with_its_own_fingerprint_is_refused(held: tuple[Certificate, SequenceModel]) -> None:
    """As if the search had a hole: the certificate of the intact model, said to be of a damaged one."""
    certificate, model = held
    damaged = SequenceModel(**model.config)
    damaged.load_state_dict(model.state_dict())
    damaged.head.weight.data[[3, 4]] = damaged.head.weight.data[[4, 3]]
    refused = certify(damaged, WordProblemExamples("S3"))
    forged = replace(certificate, weights_fingerprint=refused.weights_fingerprint)
    with pytest.raises(ValueError, match=r"a read-out after .* is wrong"):
        verify(forged, damaged, WordProblemExamples("S3"))
    verify(again(refused), damaged, WordProblemExamples("S3"))
    assert refused.counterexample is not None
    lie = replace(refused, counterexample=replace(refused.counterexample, says=refused.counterexample.right))
    with pytest.raises(ValueError, match="the network says"):
        verify(lie, damaged, WordProblemExamples("S3"))


def _close_gates(gap: float, dtype: torch.dtype) -> SequenceModel:
    """A second layer whose two largest gates are 1 and 1 + gap, whatever comes."""
    model = _deeper(word_problem("S3")[0], 2, 0).to(dtype)
    gates = model.blocks[1].mixer.proj_gates
    gates.weight.data.zero_()
    gates.bias.data = torch.tensor([1.0, 1.0 + gap, 0.0, 0.0], dtype=torch.float64).to(dtype).repeat(3)
    return model


def test_gates_are_decided_in_the_models_own_type() -> None:
    """What only float64 can tell apart is no certificate of a network in float32, and one of a network in float64."""
    task = WordProblemExamples("S3")
    narrow, wide = _close_gates(3e-6, torch.float32), _close_gates(3e-6, torch.float64)
    held, refused = certify(wide, task), certify(narrow, task)
    assert held.certified
    verify(again(held), wide, task)
    assert "layer 1, block 0, row 0: two gates are equal within rounding error" in str(refused.reason)
    forged = replace(held, weights_fingerprint=refused.weights_fingerprint)
    with pytest.raises(ValueError, match="certificate: layer 1, block 0, row 0: two gates are equal"):
        verify(again(forged), narrow, task)
    # Closer than any fixed share of the logits that a checker might want.
    close = _close_gates(1e-9, torch.float64)
    held = certify(close, task)
    assert held.certified
    verify(again(held), close, task)


def _flips(seed: int) -> SequenceModel:
    """Parity, and a second layer that turns the answer around if it writes instead of keeping an empty entry.

    The logits of the two gates are sums of other terms with the same value, but for as little as 1e-9 in float64, so
    that in float32 rounding decides.
    """
    model = _deeper(word_problem("Z2")[0], 2, 0)
    inputs: list[torch.Tensor] = []
    wide = copy.deepcopy(model).double()
    wide.blocks[1].mixer.register_forward_pre_hook(lambda mixer, args: inputs.append(args[0]))
    with torch.no_grad():
        wide(torch.tensor(WORDS)[:, :4])
    seen = inputs[0].flatten(0, 1).unique(dim=0)
    generator = torch.Generator().manual_seed(seed)
    first, apart = (10 * torch.randn(model.d_model, dtype=torch.float64, generator=generator) for _ in range(2))
    apart -= torch.linalg.pinv(seen) @ (seen @ apart)
    first, second = first.float(), (first + apart).float()
    layer = model.blocks[1].mixer
    with torch.no_grad():
        gates = layer.proj_gates.weight.view(-1, layer.block_size + 1, model.d_model)
        bias = layer.proj_gates.bias.view(-1, layer.block_size + 1)
        gates.zero_(), bias.fill_(-1000)
        gates[:, 0], gates[:, -1], bias[:, -1] = first, second, 0
        bias[:, 0] = float((seen @ (second.double() - first.double())).max()) + 1e-9
        layer.proj_v.weight[:] = torch.linalg.pinv(seen).float().sum(1)
        layer.proj_out.weight[:] = 100 * (model.head.weight[1] - model.head.weight[0])[:, None]
    return model


# BOS and 11 letters.
WORDS = [[2, *letters] for letters in itertools.product(range(2), repeat=11)]


def test_what_float64_decides_otherwise_is_no_certificate() -> None:
    """Of the answers to the 2,048 words of 11 letters hundreds are wrong with gates that float32 decides."""
    task = WordProblemExamples("Z2").automaton()
    answers = torch.tensor([task.answers(word)[-1] for word in WORDS])
    for seed in range(20):
        model = _flips(seed)
        said = [hard_logits(model, WORDS, double=double)[:, -1].argmax(-1) for double in (True, False)]
        assert torch.equal(said[0], answers)
        if (said[1] != answers).sum() > 500:
            break
    else:
        raise AssertionError("float32 decides nothing otherwise")
    held, refused = certify(copy.deepcopy(model).double(), task), certify(model, task)
    assert held.certified and "two gates are equal within rounding error" in str(refused.reason)
    forged = replace(held, weights_fingerprint=refused.weights_fingerprint)
    with pytest.raises(ValueError, match="two gates are equal within rounding error"):
        verify(again(forged), model, task)


def test_a_tie_in_the_first_layer_is_told_in_one_line(held: tuple[Certificate, SequenceModel]) -> None:
    certificate, model = held
    tied = SequenceModel(**model.config)
    tied.load_state_dict(model.state_dict())
    for parameter in tied.blocks[0].mixer.proj_gates.parameters():
        parameter.data.zero_()
    task = WordProblemExamples("S3")
    refused = certify(tied, task)
    forged = replace(certificate, weights_fingerprint=refused.weights_fingerprint)
    with pytest.raises(ValueError, match="certificate: layer 0, block 0, row 0: two gates are equal"):
        verify(forged, tied, task)
    with pytest.raises(ValueError, match="there is nothing to check: layer 0"):
        verify(refused, tied, task)


def test_sizes_of_a_strangers_certificate_are_bounded(held: tuple[Certificate, SequenceModel]) -> None:
    certificate, model = held
    for length in (10**9, 10**30, 1e9, "1", None, 0, True):
        with pytest.raises(ValueError, match=r"length must be an integer from 1 to [\d,]+, got"):
            verify(replace(certificate, shortest_length=length), model, WordProblemExamples("S3"))


def test_junk_in_a_certificate_is_refused(held: tuple[Certificate, SequenceModel]) -> None:
    """Any other value in any place of the file, and no traceback."""
    certificate, model = held
    content = certificate.to_dict()
    places = [(content, key) for key in content if key not in ("blocks", "proof")]
    places += [(content["proof"], key) for key in content["proof"]] + [(content["blocks"][0], "degree")]
    for owner, key in places:
        kept = owner[key]
        for junk in (-1, 10**30, 1e308, float("nan"), "x", [], {}, [[10**30]], [["x"]], [None], [[-(2**63)] * 7]):
            owner[key] = junk
            try:
                verify(Certificate.from_dict(content), model, WordProblemExamples("S3"))
            except ValueError as error:
                assert str(error)
            else:
                # Less may be claimed than is proved.
                assert key in ("margin", "gap") or (key == "origins" and not junk), (key, junk)
        owner[key] = kept


def test_what_is_no_certificate_is_told() -> None:
    for content, message in (({}, "expected JSON with format"), ([], "expected JSON with format")):
        with pytest.raises(ValueError, match=message):
            Certificate.from_dict(content)
    with pytest.raises(ValueError, match="expected version 1, got 7"):
        Certificate.from_dict({"format": "seqmix-certificate", "version": 7})
    with pytest.raises(ValueError, match="not one that seqmix certify writes"):
        Certificate.from_dict({"format": "seqmix-certificate", "version": 1})


def checkpoint(path: Path, model: SequenceModel, group: str) -> Path:
    """As `seqmix fit` writes it, as far as certificates look."""
    task = create_task("word-problem", group=group)
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "hyper_parameters": dict(model.config),
        "task": f"{type(task).__module__}.{type(task).__qualname__}",
        "datamodule_hyper_parameters": dict(task.hparams),
    }
    torch.save(content, path)
    return path


def test_command_line(
    held: tuple[Certificate, SequenceModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = held
    good, out = str(checkpoint(tmp_path / "good.ckpt", model, "S3")), str(tmp_path / "good.json")
    assert main(["certify", good, "--out", out]) == 0
    printed = capsys.readouterr().out
    # What was trained comes first: the proof for every length is of another network.
    assert re.match(
        r"your network: proved (up to length [\d,]+|for every length); with its gates hardened: every length\n", printed
    )
    assert "written, and checked" in printed
    assert "block 0: anti-homomorphism, faithful, permutations of 3 entries" in printed
    assert main(["certify", "--verify", out, good]) == 0 and " holds for " in capsys.readouterr().out
    assert main(["certify", good, "--task", "word-problem", "group=Z6"]) == 1
    assert capsys.readouterr().out.startswith(
        "your network: nothing proved; with its gates hardened: not certified, after the word"
    )
    model = word_problem("S3")[0]
    other = str(checkpoint(tmp_path / "other.ckpt", model, "S3"))
    assert main(["certify", "--verify", out, other]) == 1 and "refused for" in capsys.readouterr().out


@pytest.mark.parametrize("mixer", [{"name": "pd-ssm"}, SIGNED], ids=["pd-ssm", "mamba"])
def test_gathers_and_signs_on_the_command_line(
    mixer: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = construct(mixer, "Z2").model
    path, out = str(checkpoint(tmp_path / "m.ckpt", model, "Z2")), str(tmp_path / "m.json")
    assert main(["certify", path, "--longest", "30", "--out", out]) == 0
    said = capsys.readouterr().out
    assert said.startswith("your network: proved for every length, by boxes\n") and "written, and checked" in said
    assert main(["certify", "--verify", out, path]) == 0 and " holds for " in capsys.readouterr().out


def test_other_layers_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = construct(SIGNED, "Z2").model
    with torch.no_grad():  # gates that are not quite hard
        model.mixers[0].dt_proj.weight.mul_(0.3)
    path, out = str(checkpoint(tmp_path / "m.ckpt", model, "Z2")), tmp_path / "m.json"
    assert main(["certify", path, "--longest", "30", "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert said.startswith(
        "your network: all words up to 30 letters are right, proved by counts; no wrong word found\n"
    )
    assert main(["certify", "--verify", str(out), path]) == 0 and " holds for " in capsys.readouterr().out
    with torch.no_grad():
        model.head.weight[:2] = model.head.weight[:2].flip(0)
    other = str(checkpoint(tmp_path / "other.ckpt", model, "Z2"))
    assert main(["certify", "--verify", str(out), other]) == 1
    assert "refused for" in capsys.readouterr().out
    assert main(["certify", other, "--longest", "30", "--out", str(out)]) == 1
    assert "proved by counts; a word of 1 letters is wrong" in capsys.readouterr().out
    content = json.loads(out.read_text())
    out.write_text(json.dumps(content | {"safe": 5}))
    assert main(["certify", "--verify", str(out), other]) == 1


def damaged_checkpoints(path: Path) -> list[list[str]]:
    """Copies of a checkpoint with weights of other shapes, keys that no model has, and junk for what builds it."""
    content, made = torch.load(path), []
    weights, settings = content["state_dict"], content["hyper_parameters"]
    for number, changes in enumerate(
        [
            {"state_dict": weights | {"model.head.weight": torch.zeros(2, 2)}},
            {"state_dict": weights | {"model.extra": torch.zeros(1)}},
            {"state_dict": {}},
            {"state_dict": {1: torch.zeros(1)}},
            {"state_dict": weights | {"model.head.weight": "x"}},
            {"state_dict": None},
            {"hyper_parameters": None},
            {"hyper_parameters": settings | {"mlp_ratio": "x"}},
            {"hyper_parameters": {}},
            {"task": ["x"]},
            {"datamodule_hyper_parameters": 3},
        ]
    ):
        made.append([str(path.with_name(f"damaged{number}.ckpt"))])
        torch.save(content | changes, made[-1][0])
    return made


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(tmp_path / "x.ckpt", word_problem("Z2")[0], "Z2")
    content = torch.load(path)
    torch.save({key: value for key, value in content.items() if key != "task"}, tmp_path / "y.ckpt")
    (tmp_path / "no.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for arguments, message in (
        ([str(tmp_path / "y.ckpt")], "does not say which task it was trained on"),
        ([str(path), "--max-states", "0"], "--max-states: expected a positive integer, got 0"),
        ([str(path), "--out", str(tmp_path / "a" / "b.json")], "--out: expected a file in a folder that exists"),
        ([str(path), "--verify", str(tmp_path / "no.json")], "is not JSON"),
        ([str(path), "--verify", str(tmp_path / "none.json")], "--verify: cannot read"),
        ([str(path), "--task", "word-problem", "S3"], "--task: expected KEY=VALUE behind the name, got 'S3'"),
        ([str(path), "--task", "string-copy"], "StringCopy is no finite automaton"),
        ([str(path), "--shortest-length", str(10**9)], "length must be an integer from 1 to"),
        ([str(path), "--verify", str(tmp_path / "deep.json")], "is not JSON"),
        *((damaged, "checkpoint: ") for damaged in damaged_checkpoints(path)),
    ):
        assert main(["certify", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert cli.main([str(path)]) == 0
