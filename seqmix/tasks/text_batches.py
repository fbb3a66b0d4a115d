"""Batches of text: documents, or pieces of them, packed end to end with the offsets where each begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix.tasks.loaders import Batch
from seqmix.tasks.streams import permutation

__all__ = ["EncodedText", "EvalText", "Rows", "Shuffled", "TrainText"]

Array = NDArray[np.integer[Any]]
IGNORE = -100


@dataclass(frozen=True)
class EncodedText:
    """Documents as tokens: `eos`, the first, `eos`, the second, .., `eos`.

    A document of n tokens is the n + 1 inputs from `starts[i]` on; each one's target is the next token, `eos` at last.
    """

    ids: Array
    n_bytes: Array  # of UTF-8 behind each of `ids`
    starts: Array  # of the documents, and where the last one ends

    @classmethod
    def of(cls, documents: Sequence[tuple[Array, Array]], eos: int) -> "EncodedText":
        """From what `Tokenizer.encode` returns for each document."""
        end = np.array([eos])
        ids = np.concatenate([end, *(part for tokens, _ in documents for part in (tokens, end))])
        n_bytes = np.concatenate([[0], *(counts for _, counts in documents)])
        starts = np.cumsum([0, *(len(counts) for _, counts in documents)])
        return cls(ids.astype(np.uint16 if eos < 1 << 16 else np.int32), n_bytes.astype(np.int32), starts)

    def spans(self, length: int | None = None) -> Array:
        """(S, 2) first input and end of each document, or of its pieces of at most `length` inputs."""
        documents = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        pieces = [
            (at, min(end, at + (length or end))) for start, end in documents for at in range(start, end, length or end)
        ]
        return np.array(pieces, dtype=np.int64)


class Span(NamedTuple):
    """Inputs and targets of one sequence in a batch."""

    ids: Array  # n inputs and the target of the last
    continues: bool  # it goes on where this row of the batch before stopped


class Shuffled:
    """Spans of a text by number, in a new random order in every pass over all of them."""

    def __init__(self, text: EncodedText, spans: Array, seed: int) -> None:
        self.text, self.spans, self.seed = text, spans, seed

    def __call__(self, number: int) -> Array:
        epoch, index = divmod(number, len(self.spans))
        start, stop = self.spans[permutation(self.seed, f"text {epoch}", len(self.spans))[index]]
        return self.text.ids[start : stop + 1]


class Rows:
    """Chunk after chunk of rows that read one sequence after the other; a row that has ended takes the next.

    Args:
        take: the sequence with a number, as its inputs and its last target (n + 1,).
        rows: rows of a batch.
        length: inputs of a row in each batch.
    """

    def __init__(self, take: Callable[[int], Array], rows: int, length: int) -> None:
        self.take, self.rows, self.length = take, rows, length
        self._restart()

    def _restart(self) -> None:
        self._next, self._taken = 0, 0
        self._rest: list[tuple[Array, bool]] = [(np.empty(1, dtype=np.int64), False)] * self.rows

    def __call__(self, index: int) -> list[Span]:
        """The spans of batch `index`, row after row; batches in order are fastest, others are counted up to."""
        if index < self._next:
            self._restart()
        while self._next < index:
            self._advance()
        return self._advance()

    def _advance(self) -> list[Span]:
        spans = []
        for row, (ids, continues) in enumerate(self._rest):
            left = self.length
            while left:
                if len(ids) == 1:
                    ids, continues = self.take(self._taken), False
                    self._taken += 1
                count = min(left, len(ids) - 1)
                spans.append(Span(ids[: count + 1], continues))
                ids, continues, left = ids[count:], True, left - count
            self._rest[row] = ids, continues
        self._next += 1
        return spans

    def state_dict(self) -> dict[str, Any]:
        """Where the rows are, with what is left of their sequences."""
        rest = [(torch.from_numpy(ids.astype(np.int64)), continues) for ids, continues in self._rest]
        return {"next": self._next, "taken": self._taken, "rest": rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next, self._taken = state["next"], state["taken"]
        self._rest = [(ids.numpy(), continues) for ids, continues in state["rest"]]


@dataclass
class TrainText:
    """Batches (1, N) of rows that lie end to end, N inputs over all ranks: tokens, targets, cu_seqlens.

    With `carry` also `carry_from` (S,), for each sequence the row of the batch before whose last state it starts
    from, or -1, and `carry_to` (rows,), the sequence that ends each row.
    """

    source: Rows
    carry: bool = False
    rank: int = 0
    world_size: int = 1

    def __call__(self, index: int) -> Batch:
        spans = self.source(index)
        if self.world_size > 1:
            spans = _part(spans, self.rank, self.world_size)
        batch = _pack([span.ids for span in spans])
        if self.carry:
            starts = batch["cu_seqlens"][:-1].long()
            row, first = starts // self.source.length, starts % self.source.length == 0
            continues = torch.tensor([span.continues for span in spans])
            batch["carry_from"] = torch.where(first & continues, row, -1)
            batch["carry_to"] = torch.cat([first.nonzero()[1:, 0], torch.tensor([len(spans)])]) - 1
        return batch


class StreamedText(TrainText):
    """`TrainText` whose place in the stream is part of checkpoints, because it cannot be counted up to."""

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.source.load_state_dict(state)


@dataclass
class EvalText:
    """Every document once, in pieces of at most `length` inputs that know nothing of each other.

    Batches (1, N) hold up to `size` inputs, and `n_bytes` beside tokens, targets and cu_seqlens.
    """

    text: EncodedText
    length: int
    size: int
    rank: int = 0
    world_size: int = 1
    _batches: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        pieces = self.text.spans(self.length)
        filled = 0
        groups: list[int] = []
        for index, count in enumerate((pieces[:, 1] - pieces[:, 0]).tolist()):
            if not groups or filled + count > self.size:
                groups.append(index)
                filled = 0
            filled += count
        self._batches = np.split(pieces, groups[1:])

    def __len__(self) -> int:
        return -(-len(self._batches) // self.world_size)

    def __call__(self, index: int) -> Batch:
        number = index * self.world_size + self.rank
        # Every rank runs every batch (sharded models communicate in each); what lies beyond the end does not count.
        spare = number >= len(self._batches)
        spans = self._batches[-1 if spare else number].tolist()
        batch = _pack([self.text.ids[start : stop + 1] for start, stop in spans])
        n_bytes = np.concatenate([self.text.n_bytes[start + 1 : stop + 1] for start, stop in spans])
        batch["n_bytes"] = torch.from_numpy(n_bytes.astype(np.int64))[None]
        if spare:
            batch["targets"].fill_(IGNORE)
            batch["n_bytes"].zero_()
        return batch


def _pack(sequences: Sequence[Array]) -> Batch:
    def joined(parts: list[Array]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]

    offsets = np.cumsum([0, *(len(ids) - 1 for ids in sequences)])
    return {
        "tokens": joined([ids[:-1] for ids in sequences]),
        "targets": joined([ids[1:] for ids in sequences]),
        "cu_seqlens": torch.from_numpy(offsets.astype(np.int32)),
    }


def _part(spans: Sequence[Span], rank: int, world_size: int) -> list[Span]:
    # The share of one rank; a sequence that reaches into the next one's is cut there.
    ends = np.cumsum([len(span.ids) - 1 for span in spans])
    low, high = (int(ends[-1]) * k // world_size for k in (rank, rank + 1))
    part = []
    for span, end in zip(spans, ends.tolist(), strict=True):
        start = end - (len(span.ids) - 1)
        a, b = max(start, low), min(end, high)
        if a < b:
            part.append(Span(span.ids[a - start : b - start + 1], span.continues or a > start))
    return part
