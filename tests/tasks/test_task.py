"""Tasks as data modules: batches for any number of ranks and workers, fixed sets, resuming, errors."""

import itertools
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from seqmix.tasks import create_task, get_task, list_tasks, register_task
from seqmix.tasks.base import EvalSet, Task


def task(**kwargs):
    return create_task("word-problem", **({"group": "S3", "train_length": 8, "batch_size": 12} | kwargs))


def on_rank(rank: int, world_size: int, **kwargs):
    result = task(**kwargs)
    kwargs = {"rank": rank, "num_replicas": world_size}
    result.trainer = SimpleNamespace(strategy=SimpleNamespace(distributed_sampler_kwargs=kwargs))
    return result


def take(loader, n: int) -> list[torch.Tensor]:
    return [batch["tokens"] for batch in islice(loader, n)]


def test_printed() -> None:
    assert str(task()).startswith("WordProblem(group='S3'") and "train_length=8" in str(task())


@pytest.mark.parametrize("train_size", [None, 30])
def test_ranks_share_the_global_batch(train_size) -> None:
    whole = take(task(train_size=train_size, min_length=2).train_dataloader(), 4)
    parts = [take(on_rank(r, 3, train_size=train_size, min_length=2).train_dataloader(), 4) for r in range(3)]
    for index, batch in enumerate(whole):
        assert (torch.cat([part[index] for part in parts]) == batch).all()
    assert len({batch.shape[1] for batch in whole}) > 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on two cores
@pytest.mark.parametrize("num_workers", [1, 4])
def test_workers_change_nothing(num_workers: int, packed: bool) -> None:
    without = take(task(min_length=3, packed=packed).train_dataloader(), 5)
    loader = task(min_length=3, num_workers=num_workers, packed=packed).train_dataloader()
    batches = iter(loader)
    with_workers = [next(batches)["tokens"] for _ in range(5)]
    for a, b in zip(without, with_workers, strict=True):
        assert torch.equal(a, b)
    assert loader.state_dict() == {"position": 5}, "what workers made ahead does not count"


SMALL = [
    ("word-problem", {"group": "A5", "generators": 2, "train_length": 9, "min_length": 2}),
    ("parity", {}),
    ("single-parity", {}),
    ("even-pairs", {"packed": True}),
    ("cycle-navigation", {}),
    ("modular-arithmetic", {"train_size": 40}),
    ("bracket-arithmetic", {"multiplication": True}),
    ("string-copy", {"packed": True}),
    ("ngram-lookup", {"suffix": True, "train_size": 40}),
    ("selective-copy", {}),
    ("induction-heads", {}),
    ("compression", {}),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on two cores
@pytest.mark.parametrize(("name", "arguments"), SMALL)
def test_every_task_gives_the_same_batches_with_workers_and_after_resuming(name: str, arguments) -> None:
    def loader(num_workers: int):
        return create_task(name, batch_size=8, eval_size=4, num_workers=num_workers, **arguments).train_dataloader()

    def same(batches, others) -> bool:
        return all(
            a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
            for a, b in zip(batches, others, strict=True)
        )

    # Two epochs of the finite sets, which have five batches each.
    whole = loader(0)
    batches = [*islice(whole, 5), *islice(whole, 5)]
    assert not same(batches[:5], batches[5:])
    for num_workers in (1, 4):
        first = loader(num_workers)
        assert same(batches[:3], list(islice(first, 3)))
        second = loader(0 if num_workers == 4 else 1)
        second.load_state_dict(first.state_dict())
        assert same(batches[3:5], list(islice(second, 2)))
        assert same(batches[5:7], list(islice(second, 2)))


@pytest.mark.parametrize("train_size", [None, 30])
def test_resuming_continues_the_stream(train_size) -> None:
    whole = take(task(train_size=train_size).train_dataloader(), 9 if train_size is None else 2)
    first = task(train_size=train_size).train_dataloader()
    take(first, 1)
    second = task(train_size=train_size).train_dataloader()
    second.load_state_dict(first.state_dict())
    for a, b in zip(whole[1:], take(second, len(whole) - 1), strict=True):
        assert torch.equal(a, b)


def test_a_finite_set_repeats_in_another_order() -> None:
    small = task(train_size=24)
    loader = small.train_dataloader()
    assert len(loader) == 2
    epochs = [torch.cat(take(loader, 2)) for _ in range(3)]
    rows = [sorted(map(tuple, epoch.tolist())) for epoch in epochs]
    assert rows[0] == rows[1] == rows[2] and not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("train_size", [None, 30])
@pytest.mark.parametrize("prefixes", [True, False])
def test_packed_sequences_are_the_examples_at_lengths_of_their_own(train_size, prefixes: bool) -> None:
    def packed(source):
        source.examples.prefixes = prefixes
        return source.train_dataloader()

    arguments = {"train_size": train_size, "min_length": 2, "packed": True}
    batches = list(islice(packed(task(**arguments)), 2))
    plain = {tuple(row) for batch in take(task(train_size=train_size).train_dataloader(), 2) for row in batch.tolist()}
    lengths = []
    for batch in batches:
        bounds = batch["cu_seqlens"]
        assert bounds.dtype == torch.int32 and batch["tokens"].shape == batch["targets"].shape == (1, int(bounds[-1]))
        for first, last in itertools.pairwise(bounds.tolist()):
            row = tuple(batch["tokens"][0, first:last].tolist())
            assert any(whole[: len(row)] == row for whole in plain), "a prefix of the same example"
            assert batch["targets"][0, first] == -100
            lengths.append(last - first - 1)
    assert set(lengths) == set(range(2, 9))
    parts = [list(islice(packed(on_rank(rank, 3, **arguments)), 2)) for rank in range(3)]
    for index, batch in enumerate(batches):
        assert torch.equal(torch.cat([part[index]["tokens"] for part in parts], 1), batch["tokens"])


def test_examples_that_are_no_prefixes_are_made_at_their_length() -> None:
    class Counting:
        vocab_size, chance, prefixes = 100, 0.01, False

        def __call__(self, *, seed, split, start, count, length, max_length=None):
            tokens = (torch.arange(start, start + count)[:, None] + length).expand(-1, length).clone()
            return {"tokens": tokens, "targets": tokens.clone()}

    arguments = {"train_length": 6, "min_length": 3, "batch_size": 4, "eval_lengths": (6,), "eval_size": 2, "seed": 0}
    sets = [EvalSet("easy", Counting(), 5, 3), EvalSet("hard", Counting(), 50, 2)]
    data = Task(Counting(), train_size=8, eval_seed=0, num_workers=0, test_sets=sets, **arguments)
    for batch in islice(data.train_dataloader(), 6):
        length = batch["tokens"].shape[1]
        assert set((batch["tokens"][:, 0] - length).tolist()) <= set(range(8))
    shapes = [next(iter(loader))["tokens"].shape for loader in data.test_dataloader()]
    assert shapes == [(3, 5), (2, 50)] and [s.name for s in data.validation_sets] == ["6"]
    with pytest.raises(ValueError, match="different names, got easy, easy"):
        Task(Counting(), train_size=8, eval_seed=0, num_workers=0, test_sets=sets[:1] * 2, **arguments)


def test_a_curriculum_shortens_examples_to_prefixes() -> None:
    grown, full = task(), task()
    grown.current_length = 3
    loader = grown.train_dataloader()
    batches, reference = iter(loader), iter(full.train_dataloader())
    for length in (3, 5, 8):
        grown.current_length = length
        short, long = next(batches), next(reference)
        assert short["tokens"].shape[1] == length + 1
        for name in short:
            assert torch.equal(short[name], long[name][:, : length + 1])


def test_evaluation_sets_are_fixed_and_apart_from_training() -> None:
    sets = {}
    for seed in (0, 1):
        data = task(seed=seed, eval_lengths=(8, 30), eval_size=10)
        sets[seed] = [torch.cat(take(loader, 99)) for loader in (*data.val_dataloader(), *data.test_dataloader())]
        assert [s.shape for s in sets[seed]] == [(10, 9), (10, 9), (10, 31)]
    for a, b in zip(sets[0], sets[1], strict=True):
        assert torch.equal(a, b)
    validation, test, _ = sets[0]
    train = torch.cat(take(task(train_length=16).train_dataloader(), 1))[:10, :9]
    for a, b in ((validation, test), (validation, train), (test, train)):
        assert (a != b).any(1).all()
    other = task(eval_seed=1, eval_lengths=(8, 30), eval_size=10)
    assert not torch.equal(torch.cat(take(other.test_dataloader()[0], 9)), test)


def test_every_rank_runs_as_many_evaluation_batches_and_counts_each_example_once() -> None:
    whole = next(iter(task(eval_lengths=(8,), eval_size=11).test_dataloader()[0]))
    parts = [list(on_rank(r, 3, eval_lengths=(8,), eval_size=11).test_dataloader()[0]) for r in range(3)]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    tokens = torch.cat([b["tokens"][(b["targets"] != -100).any(1)] for b in batches])
    assert torch.equal(tokens, whole["tokens"][:11]) and (whole["targets"][:11, 1:] != -100).all()


def test_version_pins_the_test_sets() -> None:
    assert task().version() == task(seed=5, batch_size=3, train_length=4).version() == "9c061509e0200c64"
    assert len({task().version(), task(group="Z6").version(), task(eval_lengths=(8,)).version()}) == 3
    assert create_task("parity").version() == "7b5343d9ca5eac0f"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "A55"}, "A55"),
        ({"train_length": 0}, "train_length must be a positive integer, got 0"),
        ({"min_length": 9}, "min_length must be at most train_length = 8, got 9"),
        ({"eval_lengths": []}, "eval_lengths"),
        ({"eval_lengths": 5}, "eval_lengths must be a list of .*, got 5"),
        ({"eval_lengths": (5, "x")}, "eval_lengths must be .*integers, got"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"group": ["S3"]}, r"group must be a text, got \['S3'\]"),
        ({"batch_size": "x"}, "batch_size .* 'x'"),
        ({"num_workers": -1}, "num_workers"),
        ({"eval_size": 0}, "eval_size"),
        ({"train_size": 0}, "train_size"),
        ({"packed": 3}, "packed must be true or false, got 3"),
        ({"grupp": "S3"}, "unknown argument of task .*'grupp'; did you mean 'group'"),
    ],
)
def test_bad_arguments(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**arguments)


def test_lengths_and_ranks_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="current_length must be in"):
        task().current_length = 9
    with pytest.raises(ValueError, match="num_workers must be 0 for a curriculum"):
        task(num_workers=2).current_length = 4
    with pytest.raises(ValueError, match="multiple of their number 5, got 12"):
        on_rank(0, 5).train_dataloader()


def test_registry() -> None:
    assert {"parity", "word-problem"} <= set(list_tasks()) and list_tasks("par*") == ["parity"]
    assert get_task("parity").class_path == "seqmix.tasks.state_tracking.Parity"
    with pytest.raises(ValueError, match="unknown task 'partiy'; did you mean 'parity'"):
        create_task("partiy")
    with pytest.raises(ValueError, match="taken"):
        register_task("parity", "x:Y", description="")
