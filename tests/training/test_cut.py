"""A rank's part of a batch, and whole answers again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from seqmix.benchmarks.processes import group
from seqmix.training.cut import CutSequences


@pytest.fixture
def cut(tmp_path: Path) -> Iterator[CutSequences]:
    with group(0, 1, f"{tmp_path}/store"):
        yield CutSequences(dist.group.WORLD)


def test_one_rank_has_it_all(cut: CutSequences) -> None:
    batch = {"tokens": torch.arange(7)[None], "targets": torch.arange(7)[None] + 1}
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    found = cut.part(batch | {"cu_seqlens": bounds})
    assert torch.equal(found["tokens"], batch["tokens"]) and torch.equal(found["cu_seqlens"], bounds)
    assert "cu_seqlens" not in cut.part(batch)
    assert torch.equal(cut.whole(found["targets"], 7), batch["targets"])


def test_refused_batches(cut: CutSequences) -> None:
    batch = {"tokens": torch.zeros(2, 7), "targets": torch.zeros(2, 7)}
    for name, what in (("carry_from", "states that go on"), ("lengths", "padded sequences")):
        with pytest.raises(ValueError, match=f"sequence_parallel expects whole or packed sequences, got {what}"):
            cut.part(batch | {name: torch.zeros(2)})
    with pytest.raises(ValueError, match=r"expects targets of shape \(2, 7\), one for each token, got \(2, 1\)"):
        cut.part(batch | {"targets": torch.zeros(2, 1)})
