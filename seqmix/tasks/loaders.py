"""Batches by number: loaders that know their rank, resume where training stopped, and need no state but a count."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["Batch", "FixedBatches", "StreamLoader", "rank_of"]

Batch = dict[str, Tensor]


class FixedBatches(Dataset[Batch]):
    """Batches 0 .. n - 1 of a function of the batch's number."""

    def __init__(self, make: Callable[[int], Batch], n_batches: int) -> None:
        self.make, self.n_batches = make, n_batches

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, index: int) -> Batch:
        return self.make(index)


class _From:
    """A sampler of the numbers `start`, `start + 1`, ... below `end`."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.end))

    def __len__(self) -> int:
        return self.end - self.start


class StreamLoader:
    """Batches `position`, `position + 1`, ... of a function of the batch's number, `n_batches` to the epoch.

    It has a length, so that Lightning fetches nothing ahead, and a state, the count of batches that training took:
    what worker processes made ahead is not counted. An epoch that was interrupted is finished first. A function with a
    `state_dict` of its own, which needs `num_workers` 0, has it in the state.
    """

    def __init__(self, make: Callable[[int], Batch], n_batches: int, *, num_workers: int = 0) -> None:
        self.make, self.n_batches, self.num_workers = make, n_batches, num_workers
        self.position = 0

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        end = self.position - self.position % self.n_batches + self.n_batches
        if self.num_workers == 0:
            while self.position < end:
                batch = self.make(self.position)
                self.position += 1
                yield batch
            return
        dataset = FixedBatches(self.make, end)
        sampler = _From(self.position, end)
        # A generator of its own: loaders draw a seed for their workers, which must not move the model's dropout.
        options: dict[str, Any] = {"num_workers": self.num_workers, "generator": Generator()}
        for batch in DataLoader(dataset, batch_size=None, sampler=sampler, **options):
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        own = {"make": self.make.state_dict()} if hasattr(self.make, "state_dict") else {}
        return {"position": self.position, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]
        if "make" in state:
            self.make.load_state_dict(state["make"])  # type: ignore[attr-defined]


def rank_of(task: Any) -> tuple[int, int]:
    """Rank and number of processes of the trainer that a data module is attached to; (0, 1) without one."""
    trainer = getattr(task, "trainer", None)
    if trainer is None:
        return 0, 1
    kwargs: dict[str, Any] | None = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
    return (kwargs["rank"], kwargs["num_replicas"]) if kwargs else (0, 1)
