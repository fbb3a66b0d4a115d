"""Processes in one group: what rank 0 returns, and threads that do not outlive the group."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from seqmix.benchmarks import processes


def a_cycle_that_holds_the_group(rank: int) -> dict[str, int]:
    held: list[Any] = [dist.group.WORLD]
    held.append(held)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, rank + 1)
    return {"ranks": sum(gathered)}


def gloo_threads() -> Iterator[Path]:
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended since
            if "gloo" in (task / "comm").read_text():
                yield task


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_threads_end_with_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of gloo that lives until the interpreter ends aborts one process of twenty."""
    others = set(gloo_threads())  # of groups that meshes of other tests keep
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process, which other tests share
    processes._process(0, 1, str(tmp_path), a_cycle_that_holds_the_group, ())
    assert not dist.is_initialized()
    until = time.monotonic() + 5  # one that was joined stands in /proc a little longer
    while set(gloo_threads()) - others:
        assert time.monotonic() < until
    assert (tmp_path / "answer").read_text() == '{"ranks": 1}'


@pytest.mark.slow
def test_the_answer_is_that_of_the_first() -> None:
    assert processes.spawn(a_cycle_that_holds_the_group, 2) == {"ranks": 3}
