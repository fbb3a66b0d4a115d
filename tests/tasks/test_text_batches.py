"""Batches of text: every token is a target once in a pass, no sequence reaches into another document."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from seqmix.tasks.loaders import StreamLoader
from seqmix.tasks.text_batches import EncodedText, EvalText, Rows, Shuffled, TrainText

EOS = 9
LENGTHS = (5, 1, 12, 30, 3)


@pytest.fixture
def text() -> EncodedText:
    """Documents of tokens that tell their place, 100 d + position, and stand for d bytes each."""
    documents = [(100 * d + np.arange(n), np.append(np.full(n, d), 1)) for d, n in enumerate(LENGTHS, 1)]
    return EncodedText.of(documents, EOS)


def sequences(batch) -> list[tuple[list[int], list[int]]]:
    bounds = batch["cu_seqlens"].tolist()
    tokens, targets = batch["tokens"][0].tolist(), batch["targets"][0].tolist()
    assert bounds[0] == 0 and bounds[-1] == len(tokens) == len(targets)
    return [(tokens[a:b], targets[a:b]) for a, b in pairwise(bounds)]


def check_one_document(tokens: list[int], targets: list[int]) -> None:
    assert tokens[1:] == targets[:-1]
    places = [token for token in [*tokens, targets[-1]] if token != EOS]
    assert not places or (len({p // 100 for p in places}) == 1 and (np.diff(places) == 1).all())
    assert EOS not in tokens[1:] and (tokens[0] != EOS or not places or places[0] % 100 == 0)


@pytest.mark.parametrize("length", [1, 4, 7, 64])
def test_packed_pieces_cover_a_pass_and_know_one_document_each(text: EncodedText, length: int) -> None:
    total = int(text.starts[-1])
    assert total == sum(LENGTHS) + len(LENGTHS)
    rows = Rows(Shuffled(text, text.spans(length), seed=0), 1, total)
    passes = [sequences(TrainText(rows)(index)) for index in range(3)]
    wanted = sorted([t for d, n in enumerate(LENGTHS, 1) for t in range(100 * d, 100 * d + n)] + [EOS] * len(LENGTHS))
    for batch in passes:
        for tokens, targets in batch:
            check_one_document(tokens, targets)
            assert len(tokens) <= length
        assert sorted(target for _, targets in batch for target in targets) == wanted, "every token once"
    assert length == 64 or passes[0] != passes[1] != passes[2], "another order in every pass"


def test_carried_rows_go_on_where_they_stopped(text: EncodedText) -> None:
    rows, length = 3, 4
    make = TrainText(Rows(Shuffled(text, text.spans(), seed=1), rows, length), carry=True)
    open_documents: list[list[int]] = [[] for _ in range(rows)]
    finished = []
    for index in range(40):
        batch = make(index)
        parts = sequences(batch)
        ends = batch["carry_to"].tolist()
        bounds = batch["cu_seqlens"].tolist()
        assert [bounds[s + 1] for s in ends] == [length, 2 * length, 3 * length]
        for s, (tokens, targets) in enumerate(parts):
            row = bounds[s] // length
            if batch["carry_from"][s] >= 0:
                assert batch["carry_from"][s] == row and bounds[s] % length == 0
                assert open_documents[row][-1] == tokens[0], "its first input is the last target of the batch before"
            else:
                assert tokens[0] == EOS
                open_documents[row] = [EOS]
            open_documents[row] += targets
            if targets[-1] == EOS:
                finished.append(tuple(open_documents[row]))
    whole = {(EOS, *range(100 * d, 100 * d + n), EOS) for d, n in enumerate(LENGTHS, 1)}
    assert set(finished) == whole and len(finished) > 2 * len(whole)
    counts = [finished.count(document) for document in whole]
    assert max(counts) - min(counts) <= 2, "rows take documents in turn, so that all come up equally often"


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # on two cores
@pytest.mark.parametrize("carry", [False, True])
def test_any_batch_can_be_made_first(text: EncodedText, carry: bool) -> None:
    def new() -> TrainText:
        spans = text.spans(None if carry else 6)
        return TrainText(Rows(Shuffled(text, spans, 0), 2 if carry else 1, 6 if carry else 12), carry)

    one = new()
    batches = [one(index) for index in range(9)]
    for index in (8, 3, 4, 0):
        for maker in (one, new()):
            again = maker(index)
            assert all(torch.equal(again[name], batches[index][name]) for name in batches[index])
    loaders = [StreamLoader(new(), 1 << 40, num_workers=n) for n in (0, 1, 4)]
    for loader in loaders:
        for batch, wanted in zip(islice(loader, 6), batches, strict=False):
            assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    resumed = StreamLoader(new(), 1 << 40)
    resumed.load_state_dict(loaders[2].state_dict())
    assert resumed.position == 6
    assert torch.equal(next(iter(resumed))["tokens"], batches[6]["tokens"])


def test_rows_resume_from_their_state(text: EncodedText) -> None:
    taken = []

    def in_order(number: int) -> np.ndarray:
        assert not taken or number == taken[-1] + 1, "a stream is read forwards only"
        taken.append(number)
        start, stop = text.spans()[number % len(LENGTHS)]
        return text.ids[start : stop + 1]

    rows = Rows(in_order, 2, 5)
    whole = [rows(index) for index in range(6)]
    first = Rows(in_order, 2, 5)
    taken.clear()
    for index in range(3):
        first(index)
    state = first.state_dict()
    second = Rows(in_order, 2, 5)
    second.load_state_dict(state)
    for index in range(3, 6):
        spans = second(index)
        assert [s.ids.tolist() for s in spans] == [s.ids.tolist() for s in whole[index]]
        assert [s.continues for s in spans] == [s.continues for s in whole[index]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_batch(text: EncodedText, world_size: int) -> None:
    def new(rank: int, n: int) -> TrainText:
        return TrainText(Rows(Shuffled(text, text.spans(5), 0), 1, 12), False, rank, n)

    for index in range(5):
        parts = [new(rank, world_size)(index) for rank in range(world_size)]
        whole = new(0, 1)(index)
        assert {part["tokens"].shape for part in parts} == {(1, 12 // world_size)}
        for name in ("tokens", "targets"):
            assert torch.equal(torch.cat([part[name] for part in parts], 1), whole[name])
        for tokens, targets in (pair for part in parts for pair in sequences(part)):
            check_one_document(tokens, targets)


@pytest.mark.parametrize(("length", "size", "world_size"), [(4, 9, 1), (64, 64, 1), (3, 10, 2), (1, 4, 3)])
def test_evaluation_takes_every_byte_once(text: EncodedText, length: int, size: int, world_size: int) -> None:
    parts = [EvalText(text, length, size, rank, world_size) for rank in range(world_size)]
    assert len({len(part) for part in parts}) == 1
    targets, n_bytes = [], 0
    for part in parts:
        for batch in map(part, range(len(part))):
            assert batch["tokens"].shape[1] <= size and batch["n_bytes"].shape == batch["tokens"].shape
            if (batch["targets"] == -100).all():
                assert batch["n_bytes"].sum() == 0
                continue
            for inputs, answers in sequences(batch):
                check_one_document(inputs, answers)
                # Pieces begin at the beginning of the document, so that they do not depend on what stands beside.
                assert len(inputs) <= length and (inputs[0] == EOS or (inputs[0] % 100 + 1) % length == 0)
                targets += answers
            n_bytes += int(batch["n_bytes"].sum())
    assert len(targets) == sum(LENGTHS) + len(LENGTHS) and targets.count(EOS) == len(LENGTHS)
    assert n_bytes == sum(d * n for d, n in enumerate(LENGTHS, 1)) + len(LENGTHS)
    each = EvalText(text, length, size)(0)
    known = {t: t // 100 for t in each["targets"][0].tolist()} | {EOS: 1}
    assert each["n_bytes"][0].tolist() == [known[t] for t in each["targets"][0].tolist()]
