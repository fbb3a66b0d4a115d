"""Padded sequences: outputs, states and what is told of a solve are those of each sequence alone."""

from functools import partial
from typing import Any

import pytest
import torch

from seqmix.mixers import Attention, create_mixer, list_mixers
from seqmix.models import SequenceModel
from seqmix.testing import check_mixer


@pytest.mark.parametrize("mixer", list_mixers())
def test_a_padded_prompt_is_continued_as_without_padding(mixer: str) -> None:
    torch.manual_seed(0)
    model, more = SequenceModel(mixer, 11, 16, 2, dtype=torch.float64), torch.tensor([[4]])
    logits, state = model(torch.tensor([[1, 2, 3, 0, 0]]), lengths=torch.tensor([3]))
    expected, alone = model(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(logits[:, :3], expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(model(more, state)[0], model(more, alone)[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {"window": 3},
        {"position": "rope", "window": 6, "forget_gate": True},
        {"position": "selective-rope", "d_conv": 4},
    ],
    ids=str,
)
def test_attention_keeps_the_keys_of_real_tokens(options: dict[str, Any]) -> None:
    assert check_mixer(partial(Attention, n_heads=2, **options), only="padded*") == 2


@pytest.mark.parametrize("mixer", ["fp-rnn", "fp-mamba"])
def test_a_solve_is_told_of_sequences_not_of_padding(mixer: str) -> None:
    layer, x = create_mixer(mixer, 8, dtype=torch.float64, solver="sweeps"), torch.randn(2, 6, 8, dtype=torch.float64)
    layer(x, lengths=torch.tensor([2, 6]))
    padded = layer.last_solve
    layer(torch.cat((x[0, :2], x[1]))[None], cu_seqlens=torch.tensor([0, 2, 8], dtype=torch.int32))
    torch.testing.assert_close(padded, layer.last_solve)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", list_mixers())
def test_one_graph_for_all_lengths(mixer: str) -> None:
    model = SequenceModel(mixer, 11, 16, dtype=torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    t, first = torch.randint(11, (2, 9)), torch.tensor([4, 9])
    expected, _ = model(t, lengths=first)
    torch.testing.assert_close(compiled(t, lengths=first)[0][0, :4], expected[0, :4], rtol=1e-9, atol=1e-11)
    with torch.compiler.set_stance("fail_on_recompile"):
        _, state = compiled(t, lengths=torch.tensor([9, 2]))
    more = torch.randint(11, (2, 3))
    again = model(more, model(t, lengths=torch.tensor([9, 2]))[1])[0]
    torch.testing.assert_close(model(more, state)[0], again, rtol=1e-9, atol=1e-11)
    torch._dynamo.reset()
