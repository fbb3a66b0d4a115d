"""Sequences over ranks: parts that make the whole again, mixers that hand their states on, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from seqmix import SequenceModel, list_mixers
from seqmix.distributed import sequence_parallel, split_sequences
from seqmix.distributed.split import part_of
from tests.distributed.ranks import join, run


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    join(0, 1, f"{tmp_path}/store")
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("lengths", [[11], [4, 7], [0, 3, 0, 0, 5, 3, 0], [1] * 11, [2, 2, 2, 2, 3]], ids=str)
def test_parts_make_the_whole_again(ranks: int, lengths: list[int]) -> None:
    tokens, cu_seqlens = torch.arange(11)[None], torch.tensor([0, *lengths]).cumsum(0).int()
    sequences: list[list[int]] = [[]]
    for rank in range(ranks):
        part, offsets = part_of(tokens, rank, ranks, cu_seqlens)
        assert offsets is not None and offsets.dtype == torch.int32 and int(offsets[-1]) == part.shape[1] > 0
        pieces = [piece.tolist() for piece in part[0].split(offsets.diff().tolist())]
        sequences[-1] += pieces[0]  # the first is the one that the part before ended with
        sequences += pieces[1:]
    expected = [piece.tolist() for piece in tokens[0].split(lengths)]
    assert [s for s in sequences if s] == [s for s in expected if s]
    parts = [part_of(tokens, rank, ranks)[0] for rank in range(ranks)]
    assert torch.equal(torch.cat(parts, 1), tokens) and max(p.shape[1] for p in parts) <= -(-11 // ranks)


def check(found: dict[str, dict[str, float]], mixers: list[str]) -> None:
    assert set(found) == {f"{name} {kind}" for name in mixers for kind in ("batch", "packed")}
    for name, differences in found.items():
        assert max(differences.values()) < 1e-9, (name, differences)


def test_two_ranks_are_one() -> None:
    mixers = ["bd-lru", "attention"]  # a state that stays as large as it is, and one that grows
    check(run(2, mixers), mixers)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_mixer(ranks: int) -> None:
    check(run(ranks, list_mixers()), list_mixers())


def test_one_rank_is_the_model(alone: None) -> None:
    model, tokens = SequenceModel("lru", 5, 8), torch.randint(5, (2, 6))
    expected, state = model(tokens)
    found, end = sequence_parallel(model, init_device_mesh("cpu", (1,)))(split_sequences(tokens)[0])
    assert torch.equal(found, expected) and torch.equal(end.layers[0].h, state.layers[0].h)
    assert list(model.state_dict()) == list(SequenceModel("lru", 5, 8).state_dict())
    with pytest.raises(ValueError, match="cut over ranks already"):
        sequence_parallel(model)
    with pytest.raises(ValueError, match="whole or packed sequences, got a state"):
        model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="whole or packed sequences, got lengths"):
        model(tokens, lengths=torch.tensor([3, 6]))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bidirectional": True}, ValueError, "layers that read forwards, token by token, got blocks.0.mixer"),
        ({"norm": "batch"}, ValueError, "layers that read forwards, token by token, got blocks.0.mixer_norm"),
        ({"head": "autoencoder"}, ValueError, "an answer at each token, got head 'autoencoder'"),
        ({"activation_checkpointing": True}, NotImplementedError, "would send every state a second time"),
    ],
)
def test_models_that_cannot_be_cut(alone: None, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sequence_parallel(SequenceModel("lru", 5, 8, **options))


def test_calls_that_mean_nothing(alone: None) -> None:
    model = SequenceModel("lru", 5, 8)
    with pytest.raises(
        ValueError, match=r"expected one dimension, such as mesh\['sequence'\], got 2 of sizes \(1, 1\)"
    ):
        sequence_parallel(model, init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "sequence")))
    with pytest.raises(ValueError, match="expected a DeviceMesh or a ProcessGroup, got a int"):
        sequence_parallel(model, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a SequenceModel, got a Linear"):
        sequence_parallel(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"T of at least the 4 ranks, got \(1, 3\)"):
        part_of(torch.zeros(1, 3), 0, 4)
    with pytest.raises(ValueError, match="offsets that end at T = 3 of one row"):
        split_sequences(torch.zeros(1, 3), cu_seqlens=torch.tensor([0, 2]))


def test_without_processes_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"call torch\.distributed\.init_process_group"):
        sequence_parallel(SequenceModel("lru", 5, 8))
