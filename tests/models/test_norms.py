"""Batch norm and GLU: the block of the LRU's paper as a loop, in training and afterwards, with padding and packed."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from seqmix import SequenceModel
from seqmix.leaderboard.cost.flops import flops_per_token
from seqmix.optim import parameter_groups

PAPER: dict[str, Any] = {"norm": "batch", "glu": True, "final_norm": False, "mlp_ratio": 0}


def build(**options: Any) -> SequenceModel:
    torch.manual_seed(0)
    head = {"name": "classification", "n_classes": 3}
    model = SequenceModel({"name": "lru", "d_state": 4}, 7, 6, 2, head=head, dtype=torch.float64, **(PAPER | options))
    with torch.no_grad():
        model.embedding.weight.mul_(50)
        for block in model.blocks:
            for p in (block.glu.proj.bias, block.mixer_norm.weight, block.mixer_norm.bias):
                p.normal_()
    return model


def layer_by_loop(block: Any, sequences: list[Tensor], training: bool) -> list[Tensor]:
    """minimal-LRU's SequenceLayer with prenorm and batch norm, a sequence (T, D) at a time."""
    norm, lru = block.mixer_norm, block.mixer
    if training:
        tokens = torch.cat(sequences)
        mean = sum(tokens) / len(tokens)
        var = sum((token - mean) ** 2 for token in tokens) / len(tokens)
    else:
        mean, var = norm.running_mean, norm.running_var
    results = []
    for x in sequences:
        u = (x - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias
        lam = torch.exp(torch.complex(-lru.nu_log.exp(), lru.theta_log.exp()))
        B, C = torch.complex(lru.B_re, lru.B_im), torch.complex(lru.C_re, lru.C_im)
        h, y = torch.zeros_like(lam), []
        for token in u:
            h = lam * h + lru.gamma_log.exp() * (B @ token.to(B.dtype))
            y.append((C @ h).real + lru.D * token)
        z = gelu(torch.stack(y))
        out1, out2 = block.glu.proj.weight.chunk(2)
        b1, b2 = block.glu.proj.bias.chunk(2)
        results.append(x + (z @ out1.T + b1) * (z @ out2.T + b2).sigmoid())
    return results


def expected(model: SequenceModel, sequences: list[Tensor], training: bool) -> Tensor:
    x = [model.embedding(tokens) for tokens in sequences]
    for block in model.blocks:
        x = layer_by_loop(block, x, training)
    return torch.stack([s.mean(0) @ model.head.proj.weight.T + model.head.proj.bias for s in x])


def data() -> tuple[list[Tensor], Tensor, Tensor]:
    lengths = torch.tensor([5, 9, 2])
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(7, (int(n),), generator=generator) for n in lengths]
    padded = torch.randint(7, (3, 9), generator=generator)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return sequences, padded, lengths


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_block_of_the_paper(training: bool) -> None:
    model, (sequences, padded, lengths) = build().train(training), data()
    wanted = expected(model, sequences, training)
    torch.testing.assert_close(model(padded, lengths=lengths)[0][:, 0], wanted, rtol=1e-9, atol=1e-11)
    offsets = torch.tensor([0, 5, 14, 16], dtype=torch.int32)
    packed = model(torch.cat(sequences).unsqueeze(0), cu_seqlens=offsets)[0][0]
    if not training:  # in training the first pass has moved the running means, which it does not use
        assert torch.equal(model.blocks[0].mixer_norm.running_mean, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(packed, wanted, rtol=1e-9, atol=1e-11)


def test_running_means_follow_the_tokens_without_padding() -> None:
    model, (sequences, padded, lengths) = build().train(), data()
    model(padded, lengths=lengths)
    norm, tokens = model.blocks[0].mixer_norm, model.embedding(torch.cat(sequences)).detach()
    torch.testing.assert_close(norm.running_mean, 0.1 * tokens.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * tokens.var(0))
    before = norm.running_mean.clone()
    model(padded[:0], lengths=lengths[:0])
    assert torch.equal(norm.running_mean, before), "an empty batch says nothing"


def test_tokens_one_by_one_after_training() -> None:
    model = SequenceModel("lru", 7, 6, 2, dtype=torch.float64, **PAPER)
    model.train()(torch.randint(7, (4, 9)))
    tokens = torch.randint(7, (2, 9))
    whole, _ = model.eval()(tokens)
    state, steps = model.init_state(2), []
    for token in tokens.unbind(1):
        logits, state = model.step(token, state)
        steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("option", [{"norm": "layer"}, {"glu": False}, {"final_norm": True}], ids=str)
def test_every_option_changes_the_answers(option: dict[str, Any]) -> None:
    _, padded, lengths = data()
    model = build()
    other = SequenceModel(**{**model.config, **option}, dtype=torch.float64)
    other.load_state_dict(model.state_dict(), strict=False)
    a, b = (m(padded, lengths=lengths)[0] for m in (model, other))
    assert (a - b).abs().max() > 1e-3


def test_dropout_is_on_both_sides_of_the_glu() -> None:
    model = build(dropout=0.5)
    assert model.blocks[0].glu.dropout.p == model.blocks[0].dropout.p == 0.5


def test_norms_do_not_decay_and_operations_are_counted() -> None:
    model = build()
    decays = {
        id(p)
        for group in parameter_groups(model, lr=1, weight_decay=1)
        if group["weight_decay"]
        for p in group["params"]
    }
    block = model.blocks[0]
    assert id(block.glu.proj.weight) in decays
    assert not decays & {id(p) for p in (block.mixer_norm.weight, block.mixer_norm.bias, block.glu.proj.bias)}
    plain = flops_per_token(SequenceModel(**{**model.config, "glu": False}), 8)
    assert flops_per_token(model, 8) - plain == 2 * 2 * 6 * 12


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="norm must be one of 'layer', 'batch', got 'rms'"):
        SequenceModel("lru", 7, 6, norm="rms")
    with pytest.raises(ValueError, match="norm 'batch' has no activation_checkpointing"):
        SequenceModel("lru", 7, 6, norm="batch", activation_checkpointing=True)
