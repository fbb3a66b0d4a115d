"""ListOps against a plain reader, Pathfinder's geometry, digits' split; and that each is what it was."""

import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch

from seqmix.tasks import create_task
from seqmix.tasks import pathfinder as drawing
from seqmix.tasks.digits import DigitsExamples
from seqmix.tasks.listops import ListOpsExamples
from seqmix.tasks.mqar import MQARExamples
from seqmix.tasks.pathfinder import PathfinderExamples
from seqmix.tasks.streams import words
from tests.pace import pace

MIN, MAX, MED, SM, CLOSE, PAD = range(10, 16)


def read(tokens: list[int], depth: int = 1) -> tuple[int, list[int], int, list[int]]:
    """Value, the tokens that are left, the depth of the tree and how many arguments its operators have."""
    head, rest = tokens[0], tokens[1:]
    if head < 10:
        return head, rest, depth, []
    assert head in (MIN, MAX, MED, SM)
    values, deepest, counts = [], depth, []
    while rest[0] != CLOSE:
        value, rest, below, more = read(rest, depth + 1)
        values.append(value)
        deepest, counts = max(deepest, below), counts + more
    worth = {MIN: min, MAX: max, MED: lambda v: int(np.median(v)), SM: lambda v: sum(v) % 10}[head](values)
    return worth, rest[1:], deepest, [len(values), *counts]


@pytest.mark.parametrize(
    ("settings", "longest"), [((10, 5, 5), 50), ((4, 3, 2), 12), ((300, 10, 10), 600)], ids=["small", "tiny", "long"]
)
def test_listops_says_what_its_lists_are_worth(settings, longest: int) -> None:
    batch = ListOpsExamples(*settings)(seed=3, split="train", start=0, count=200, length=longest)
    assert batch["tokens"].shape == (200, longest) and batch["targets"].shape == (200, 1)
    all_counts, depths = [], []
    for tokens, length, target in zip(
        *(batch[name].tolist() for name in ("tokens", "lengths", "targets")), strict=True
    ):
        value, rest, depth, counts = read(tokens[:length])
        assert target == [value] and not rest and tokens[length:] == [PAD] * (longest - length)
        assert settings[0] <= length <= longest
        depths.append(depth)
        all_counts += counts
    assert max(depths) <= settings[1] and min(all_counts) == 2 and max(all_counts) == settings[2]
    assert torch.equal(batch["targets"].flatten().bincount(), torch.full((10,), 20)), "as many of each class"


@pytest.mark.parametrize("train_size", [None, 200])
def test_packed_lists_are_the_padded_ones(train_size) -> None:
    arguments = {"min_length": 10, "max_length": 50, "max_depth": 5, "max_arguments": 5, "train_size": train_size}
    padded, packed = (
        next(iter(create_task("listops", packed=packed, batch_size=32, **arguments).train_dataloader()))
        for packed in (False, True)
    )
    rows = packed["tokens"][0].split(packed["cu_seqlens"].diff().tolist())
    assert [row.tolist() for row in rows] == [
        row[:length].tolist() for row, length in zip(padded["tokens"], padded["lengths"], strict=True)
    ]
    assert torch.equal(packed["targets"], padded["targets"].T) and packed["cu_seqlens"].dtype == torch.int32


def test_listops_grows_the_published_trees() -> None:
    from seqmix.tasks.listops import _grow, _Stream

    levels, lengths = _grow(_Stream(0, "x"), 1, 10**9, 4, 10)
    assert len(lengths) > 150 and abs(len(lengths) - 256) < 6 * 14, "a root is an operator in one of four trees"
    inner = np.concatenate([level.arity for level in levels[1:3]])
    assert abs((inner > 0).mean() - 0.25) < 6 * (0.1875 / len(inner)) ** 0.5
    arity = inner[inner > 0]
    assert abs(np.bincount(arity, minlength=11)[2:] - len(arity) / 9).max() < 6 * (len(arity) / 9) ** 0.5
    assert len(levels) == 4 and not levels[3].arity.any(), "the largest depth has digits only"


def test_listops_are_as_long_as_the_published_ones() -> None:
    from seqmix.tasks.listops import _grow, _Stream

    def mean_length(depth: int, max_depth: int) -> float:
        # The published recursion, which starts with depth 1, in expectation: six arguments on average.
        return 1 if depth == max_depth else 0.75 + 0.25 * (2 + 6 * mean_length(depth + 1, max_depth))

    for max_depth in (2, 4):
        lengths = np.concatenate([_grow(_Stream(0, f"{n}"), 1, 10**9, max_depth, 10)[1] for n in range(8)])
        error = lengths.std() / len(lengths) ** 0.5
        assert abs(lengths.mean() - (2 + 6 * mean_length(2, max_depth))) < 4 * error


def test_pathfinder_curves_keep_apart_and_go_on() -> None:
    examples = PathfinderExamples(24, 7, 2, 3)
    centres, directions, whole = examples._grow(words(0, "x", 0, 256, n_words=3 * 3 * 4 * 20))
    centres, directions = centres[whole], directions[whole]
    assert len(centres) > 50 and centres.min() >= 1.5 and centres.max() <= 21.5
    curve = np.repeat([0, 1, 2, 3], [7, 7, 3, 3])
    apart = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1)
    follows = (curve[:, None] == curve) & (abs(np.subtract.outer(np.arange(20), np.arange(20))) <= 1)
    assert (apart[:, ~follows] >= 2.5).all()
    steps = apart[:, np.arange(19), np.arange(1, 20)][:, curve[1:] == curve[:-1]]
    assert (steps <= 2.75 + 1e-5).all() and (steps > 2.0).all()
    turns = (np.diff(directions, axis=1)[:, curve[1:] == curve[:-1]] + 128) % 256 - 128
    assert abs(turns).max() == 52 and abs(turns.mean()) < 2


def test_pathfinder_marks_the_curves_that_its_class_says() -> None:
    examples = PathfinderExamples(16, 4, 1, 2)
    drawn = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    centres = np.arange(8 * 10 * 2, dtype=float).reshape(8, 10, 2)
    ends = [centres[0, [0, 3]], centres[0, [4, 7]]]
    centres = np.repeat(centres[:1], 8, axis=0)
    for row, (a, b, c) in enumerate(drawn):
        assert (examples._ends(centres, np.ones(8, dtype=int), drawn)[row] == ends[a]).all()
        assert (examples._ends(centres, np.zeros(8, dtype=int), drawn)[row] == [ends[0][b], ends[1][c]]).all()
    batch = examples(seed=0, split="train", start=1, count=400, length=256)
    assert batch["tokens"].min() == 0 and batch["tokens"].max() == 255
    assert batch["targets"][1:399].view(-1, 2).sum(1).eq(1).all(), "every pair has both classes"
    assert 60 < batch["targets"][1::2].sum() < 140


def test_pathfinder_draws_dashes_and_discs() -> None:
    # One dash along a row and a disc, at whole pixels.
    directions, discs = np.zeros((1, 1), dtype=int), np.array([[[2.0, 2.0], [2.0, 2.0]]])
    picture = drawing._draw(12, np.array([[[8.0, 8.0]]]), directions, discs).reshape(12, 12)
    assert picture[2, 2] == picture[1, 2] == picture[3, 2] == 255 and picture[4, 2] == 0 and picture[3, 3] < 255
    assert picture[8, 8] == 255 and picture[8, 9] == 0 and picture[7, 8] == picture[9, 8] > 0 and picture[6, 8] == 0


def test_the_distance_of_discs_is_a_weak_hint_only() -> None:
    examples = PathfinderExamples(24, 7, 2, 3)
    centres, _, whole = examples._grow(words(0, "x", 0, 2000, n_words=3 * 3 * 4 * 20))
    drawn = np.random.default_rng(0).integers(2, size=(len(centres), 3))
    apart = [
        np.linalg.norm(np.diff(examples._ends(centres, np.full(len(centres), c), drawn), axis=1)[whole, 0], axis=-1)
        for c in (0, 1)
    ]
    grid = np.linspace(0, 30, 61)
    below = np.array([[(each < bound).mean() for each in apart] for bound in grid])
    best = 0.5 + abs(below[:, 0] - below[:, 1]).max() / 2
    assert best < 0.7


def test_without_scikit_learn_digits_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmix.tasks import digits

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    digits._pictures.cache_clear()
    with pytest.raises(ImportError, match=r"seqmix\.tasks\.digits needs sklearn: pip install 'seqmix\[images\]'"):
        create_task("digits")


def test_digits_are_split_once() -> None:
    examples = DigitsExamples()
    parts = [examples.part(split) for split in ("train", "validation 64", "test 64")]
    assert [len(part) for part in parts] == [1077, 360, 360] and len(set(np.concatenate(parts).tolist())) == 1797
    task = create_task("digits", batch_size=359)
    epoch = list(islice(task.train_dataloader(), 3))
    assert sorted(torch.cat([b["targets"] for b in epoch]).flatten().tolist()) == sorted(examples.classes[parts[0]])
    assert epoch[0]["tokens"].shape == (359, 64) and epoch[0]["tokens"].min() >= 0 and epoch[0]["tokens"].max() == 16
    test = list(task.test_dataloader()[0])
    assert torch.cat([b["tokens"] for b in test]).shape == (360, 64)
    assert sum(int((b["targets"] != -100).sum()) for b in test) == 360


def test_a_large_finite_set_is_cut_into_batches() -> None:
    task = create_task("listops", min_length=10, max_length=30, max_depth=4, max_arguments=4, train_size=10_400)
    task.batch_size = 2_600
    first, second = ([batch["tokens"] for batch in islice(loader, 4)] for loader in [task.train_dataloader()] * 2)
    assert sorted(map(str, first)) == sorted(map(str, second)) and list(map(str, first)) != list(map(str, second))
    assert len({tuple(row) for row in torch.cat(first).tolist()}) > 10_000


@pytest.mark.parametrize(
    ("examples", "length"),
    [(ListOpsExamples(10, 5, 5), 50), (PathfinderExamples(16, 4, 1, 2), 256), (DigitsExamples(), 64)],
    ids=lambda value: type(value).__name__,
)
def test_an_example_depends_on_its_number_only(examples, length: int) -> None:
    def make(start: int, count: int, split: str = "train", seed: int = 0):
        return examples(seed=seed, split=split, start=start, count=count, length=length)

    whole = make(90, 30)
    for name, part in make(97, 9).items():
        assert torch.equal(part, whole[name][7:16])
    assert (make(90, 30, "validation")["tokens"] != whole["tokens"]).any(1).all()
    if not isinstance(examples, DigitsExamples):
        assert (make(90, 30, seed=1)["tokens"] != whole["tokens"]).any(1).all()


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.parametrize("num_workers", [1, 4])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mqar", {"vocab_size": 64, "train_mixture": [[16, 2, 64], [32, 4, 64]], "train_size": 128}),
        ("listops", {"min_length": 10, "max_length": 50, "max_depth": 5, "max_arguments": 5, "train_size": 200}),
        ("pathfinder", {"size": 16, "dashes": 4, "distractors": 1, "distractor_dashes": 2}),
    ],
)
def test_workers_and_resuming_change_nothing(name: str, arguments, num_workers: int) -> None:
    def batches(loader, n: int):
        return [torch.cat([v.flatten() for v in batch.values()]) for batch in islice(loader, n)]

    arguments = arguments | {"batch_size": 32}
    whole = batches(create_task(name, **arguments).train_dataloader(), 4)
    loader = create_task(name, num_workers=num_workers, **arguments).train_dataloader()
    for found, expected in zip(batches(loader, 2), whole, strict=False):
        assert torch.equal(found, expected)
    resumed = create_task(name, num_workers=num_workers, **arguments).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    for found, expected in zip(batches(resumed, 2), whole[2:], strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("name", "arguments", "version"),
    [
        ("mqar", {}, "1f74c99e17b33820"),
        ("mqar", {"fillers": "random"}, "44a7623d0795d21b"),
        ("in-context-recall", {}, "6013f1cb2cf8aec7"),
        ("noisy-recall", {}, "dd17f0e898cef004"),
        ("fuzzy-recall", {}, "0678d9833a94cff9"),
        ("memorization", {}, "22d5223ef40831ef"),
        ("listops", {}, "48093314c4989592"),
        ("pathfinder", {}, "608f6ad0310c02fe"),
        ("digits", {}, "af5ea4512b1a95c5"),
    ],
)
def test_versions_are_pinned(name: str, arguments, version: str) -> None:
    # Any change here changes the test sets; then results before and after cannot be compared.
    assert create_task(name, **arguments).version() == version


@pytest.mark.parametrize(("name", "count", "least"), [("mqar", 4096, 5_000), ("listops", 400, 100)])
def test_generation_is_vectorised(name: str, count: int, least: int) -> None:
    # A loop over examples makes fewer; the goals, 20,000 and 500 a second, are checked by the benchmark.
    examples = MQARExamples(8192, 8) if name == "mqar" else ListOpsExamples()
    length = 128 if name == "mqar" else 2000
    examples(seed=0, split="warm", start=0, count=64, length=length)
    begin = time.process_time()
    examples(seed=0, split="train", start=0, count=count, length=length)
    assert count / (time.process_time() - begin) > least / pace()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("listops", {"max_length": 400}, "longest length must be at least min_length = 500"),
        ("listops", {"min_length": 30, "max_length": 40, "max_depth": 2, "max_arguments": 3}, "too few have 30 to 40"),
        ("listops", {"max_arguments": 1}, "max_arguments must be an integer of at least 2"),
        ("listops", {"max_depth": 1}, "max_depth must be an integer of at least 2"),
        ("listops", {"min_length": 0}, "min_length must be a positive integer"),
        ("pathfinder", {"size": 7}, "size must be an integer of at least 8"),
        ("pathfinder", {"size": 10, "dashes": 12}, "did not fit into 10 x 10 pixels"),
        ("pathfinder", {"dashes": 1}, "dashes must be an integer of at least 2"),
        ("digits", {"batch_size": 0}, "batch_size must be a positive integer"),
    ],
)
def test_bad_arguments(name: str, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_task(name, **arguments)
