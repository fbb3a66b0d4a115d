"""Recall: MQAR by its definition, MAD's tasks against a reader of their sequences, protocols, mixtures, bad input."""

from itertools import islice

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from seqmix.tasks import create_task
from seqmix.tasks.mad_recall import FuzzyRecallExamples, MemorizationExamples, RecallExamples
from seqmix.tasks.mqar import MQARExamples
from seqmix.training.metrics import Counts


def make(examples, length: int, count: int = 64, split: str = "train", seed: int = 0, start: int = 0):
    batch = examples(seed=seed, split=split, start=start, count=count, length=length)
    return batch["tokens"].numpy(), batch["targets"].numpy()


@pytest.mark.parametrize("fillers", ["zero", "random", "any"])
def test_mqar_asks_for_every_pair_once(fillers: str) -> None:
    examples = MQARExamples(64, 5, fillers=fillers)
    tokens, targets = make(examples, 40)
    keys, values = tokens[:, 0:10:2], tokens[:, 1:10:2]
    assert keys.min() >= 1 and keys.max() <= 31 and values.min() >= 32 and values.max() <= 63
    extra = 0
    for row, answers in zip(tokens, targets, strict=True):
        pairs = dict(zip(row[0:10:2].tolist(), row[1:10:2].tolist(), strict=True))
        assert len(pairs) == 5 and len(set(pairs.values())) == 5
        places = np.flatnonzero(answers != -100)
        assert len(places) == 5 and (places >= 10).all() and (places % 2 == 0).all()
        assert {int(row[place]): int(answers[place]) for place in places} == pairs
        rest = np.setdiff1d(np.arange(10, 40), places)
        assert fillers != "zero" or not row[rest].any()
        extra += np.isin(row[rest], list(pairs)).sum()
    assert (extra > 0) == (fillers == "any"), "a filler that is a key would ask for a value without a target"


def test_mqar_fillers_are_any_other_token() -> None:
    tokens, targets = make(MQARExamples(16, 3, fillers="random"), 24, count=3000)
    rest = tokens[:, 6:][targets[:, 6:] == -100]
    counts = np.bincount(rest, minlength=16)
    keys = np.bincount(tokens[:, 0:6:2].ravel(), minlength=16) / 3000
    # A token that is a key in a share s of the sequences can be drawn in the others only.
    expected = (1 - keys) / 13 * len(rest)
    assert abs(counts - expected).max() < 6 * expected.max() ** 0.5


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_mqar_gaps_follow_the_power_law_without_replacement(power: float) -> None:
    n, slots = 40_000, 4
    tokens, targets = make(MQARExamples(16, 2, power=power), 12, count=n)
    first, second = tokens[:, 0], tokens[:, 2]
    asked = np.where(targets != -100, tokens, -1)[:, 4::2]
    at = [(asked == key[:, None]).argmax(1) for key in (first, second)]
    found = np.bincount(at[0] * slots + at[1], minlength=slots * slots).reshape(slots, slots)
    p = np.arange(1, slots + 1) ** (power - 1.0)
    p /= p.sum()
    expected = n * p[:, None] * p / (1 - p[:, None])
    np.fill_diagonal(expected, 0)
    assert (abs(found - expected) < 6 * np.sqrt(expected) + 1e-9).all()


def read_pairs(row: np.ndarray, n_keys: int, n: int) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Runs of key tokens, the runs of value tokens behind them, and where those start; noise and padding between."""
    pairs, position = [], 0
    while position < len(row):
        start = position
        while position < len(row) and row[position] < n_keys:
            position += 1
        middle = position
        while position < len(row) and n_keys <= row[position] < n:
            position += 1
        if middle > start:
            pairs.append((tuple(row[start:middle].tolist()), tuple(row[middle:position].tolist()), middle))
        position = max(position, start + 1)
    return pairs


def check_recall(sequence: np.ndarray, asked: np.ndarray, n_keys: int, n: int) -> int:
    """Every value is asked for where its key was seen, and nothing else; how often a key came again."""
    value_of: dict[tuple[int, ...], tuple[int, ...]] = {}
    expected = np.full(len(sequence), -100)
    again = 0
    for key, value, place in read_pairs(sequence, n_keys, n):
        assert value and value_of.setdefault(key, value) == value
        if key in [k for k, _, p in read_pairs(sequence[:place], n_keys, n) if p < place]:
            expected[place : place + len(value)] = value
            again += 1
    assert (asked == expected).all()
    assert asked[-1] != -100, "the last value can be known"
    return again


@pytest.mark.parametrize(("vocab_size", "noise_vocab_size", "noise"), [(16, 0, 0.0), (12, 4, 0.6)])
def test_in_context_recall_asks_for_values_of_keys_seen(vocab_size, noise_vocab_size, noise) -> None:
    examples = RecallExamples(vocab_size, noise_vocab_size, noise)
    n = vocab_size - noise_vocab_size
    tokens, targets = make(examples, 40)
    assert tokens.shape == (64, 39)
    sequences = np.concatenate([tokens, targets[:, -1:]], axis=1)
    pairs = sequences.reshape(64, 20, 2)
    is_noise = (pairs >= n).all(2)
    assert ((pairs[..., 0] < n // 2) & (pairs[..., 1] >= n // 2) | is_noise).all()
    assert abs(is_noise.mean() - noise * 18 / 20) < 0.05 and not is_noise[:, :-1].all(1).any()
    for sequence, asked in zip(sequences, targets, strict=True):
        value_of: dict[int, int] = {}
        for position, (key, value) in enumerate(sequence.reshape(-1, 2).tolist()):
            if key < n // 2:
                seen = key in value_of
                assert value_of.setdefault(key, value) == value
                assert asked[2 * position] == (value if seen else -100)
            else:
                assert asked[2 * position] == -100
        assert asked[-1] != -100 and (asked[1::2] == -100).all()
    published, all_next = make(RecallExamples(vocab_size, noise_vocab_size, noise, published=True), 40)
    assert (published == tokens).all() and (all_next[:, :-1] == tokens[:, 1:]).all()
    assert (make(RecallExamples(vocab_size, published=True), 40, split="test")[1] == -100).any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_fuzzy_recall_asks_for_runs(split: str) -> None:
    examples = FuzzyRecallExamples(10, 2)
    n_keys, n = 4, 9
    tokens, targets = make(examples, 60, split=split)
    again, sizes = 0, set()
    for row, asked in zip(tokens, targets, strict=True):
        sequence, asked = np.append(row, asked[-1]), np.concatenate([[-100], asked])
        start = int((sequence != 9).argmax())
        assert (sequence[start:] != 9).all(), "padding stands in front only"
        again += check_recall(sequence, asked, n_keys, n)
        for key, value, _ in read_pairs(sequence, n_keys, n):
            assert len(set(key)) == len(key) <= 2 and len(set(value)) == len(value) <= 2
            sizes.add((len(key), len(value)))
    assert again > 64 and sizes == ({(1, 1), (1, 2), (2, 1), (2, 2)} if split == "train" else {(2, 1), (2, 2)})


def test_fuzzy_recall_as_published_sometimes_asks_for_what_is_not_there() -> None:
    counts = {}
    for published in (False, True):
        tokens, targets = make(FuzzyRecallExamples(16, 3, published=published), 64, count=2000)
        missing = 0
        for row, last in zip(tokens, targets[:, -1], strict=True):
            keys = [key for key, _, _ in read_pairs(np.append(row, last), 7, 15)]
            missing += keys[-1] not in keys[:-1]
        counts[published] = missing / 2000
        assert published == (targets[:, :-1] == tokens[:, 1:]).all()
    assert counts[False] == 0 and 0.005 < counts[True] < 0.2


def test_memorisation_has_one_map_for_every_seed() -> None:
    examples, pairs = MemorizationExamples(31), set()
    for seed, split in ((0, "train"), (1, "train"), (0, "test 32")):
        tokens, targets = make(examples, 32, seed=seed, split=split)
        assert (tokens[:, 1::2] == 30).all() and (targets[:, ::2] == -100).all()
        pairs |= set(zip(tokens[:, ::2].ravel().tolist(), targets[:, 1::2].ravel().tolist(), strict=True))
    assert len(pairs) == 15 == len(dict(pairs)) == len({value for _, value in pairs})
    assert {key for key, _ in pairs} == set(range(15)) and all(15 <= value < 30 for _, value in pairs)
    assert (MemorizationExamples(31, map_seed=1).value_of != examples.value_of).any()


@pytest.mark.parametrize(
    ("examples", "length"),
    [
        (MQARExamples(64, 4, fillers="random"), 32),
        (RecallExamples(16, 4, 0.3), 32),
        (FuzzyRecallExamples(16), 40),
        (MemorizationExamples(64), 32),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_example_depends_on_its_number_only(examples, length: int) -> None:
    whole = make(examples, length, count=9)
    for part, full in zip(make(examples, length, count=4, start=5), whole, strict=True):
        assert (part == full[5:]).all()
    for change in ({"seed": 1}, {"split": "validation 32"}):
        assert (make(examples, length, count=9, **change)[0] != whole[0]).any(1).all()


def batches(task, n: int) -> list[torch.Tensor]:
    return [batch["tokens"] for batch in islice(task.train_dataloader(), n)]


def mixture(**kwargs):
    rows = [[16, 2, 60], [32, 4, 30]]
    return create_task("mqar", vocab_size=64, train_mixture=rows, batch_size=10, **kwargs)


@pytest.mark.parametrize("train_size", [None, 90])
def test_an_epoch_of_a_mixture_has_its_shares(train_size) -> None:
    drawn = batches(mixture(train_size=train_size), 9) + (batches(mixture(), 18)[9:] if train_size is None else [])
    for epoch in range(0, len(drawn), 9):
        assert sorted(batch.shape[1] for batch in drawn[epoch : epoch + 9]) == [16] * 6 + [32] * 3
    short = torch.cat([batch for batch in drawn if batch.shape[1] == 16])
    assert len({tuple(row) for row in short.tolist()}) == len(short), "no example twice"
    loader = mixture(train_size=90).train_dataloader()
    first, second = ([batch["tokens"] for batch in islice(loader, 9)] for _ in range(2))
    assert sorted(map(str, first)) == sorted(map(str, second)) and list(map(str, first)) != list(map(str, second))


def test_a_finite_part_fills_a_batch() -> None:
    with pytest.raises(ValueError, match="batch_size must be at most the 5 training examples of a kind, got 10"):
        create_task("mqar", train_mixture=[[16, 2, 5]], train_size=5, batch_size=10).train_dataloader()
    with pytest.raises(ValueError, match="batch_size must be at most the 5"):
        create_task("mqar", train_size=5).train_dataloader()


def test_answers_that_are_the_next_tokens_must_not_be_seen() -> None:
    told = {name: getattr(create_task(name), "predicts_next", False) for name in ("mqar", "memorization")}
    assert told == {"mqar": False, "memorization": False}
    for name in ("in-context-recall", "noisy-recall", "fuzzy-recall"):
        assert create_task(name).predicts_next


def test_test_sets_are_named_by_what_differs() -> None:
    def names(sets):
        return [each.name for each in create_task("mqar", vocab_size=64, eval_sets=sets).test_sets]

    assert names([[32, 4], [64, 8]]) == ["32", "64"] and names([[64, 4], [64, 8], [128, 16]]) == ["4", "8", "16"]
    assert names([[64, 4], [64, 8], [128, 8]]) == ["64x4", "64x8", "128x8"]


@pytest.mark.parametrize("name", ["mqar", "in-context-recall"])
def test_a_protocol_chooses_on_the_test_set(name: str) -> None:
    suite = "zoology" if name == "mqar" else "mad"
    own = create_task(name, eval_size=10)
    published = create_task(name, eval_size=10, protocol=suite, train_size=100)
    test = next(iter(published.test_dataloader()[0]))["tokens"]
    assert torch.equal(next(iter(published.val_dataloader()[0]))["tokens"], test)
    assert not torch.equal(next(iter(own.val_dataloader()[0]))["tokens"], test)
    assert own.metric == "token_accuracy" and own.version() == published.version()
    assert published.metric == ("token_accuracy" if suite == "zoology" else "macro_accuracy")
    with pytest.raises(ValueError, match=f"protocol '{suite}' needs a finite train_size"):
        create_task(name, protocol=suite)
    with pytest.raises(ValueError, match=f"protocol must be null or '{suite}', got 'lra'"):
        create_task(name, protocol="lra")


def test_balanced_accuracy_is_what_torchmetrics_says() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 6, 20, 7), torch.randint(5, (2, 6, 20))
    targets[torch.rand(2, 6, 20) < 0.4] = -100
    logits[..., 6] -= 100  # neither asked for nor answered
    counts, expected = Counts(torch.device("cpu"), macro=True), []
    for batch in range(2):
        counts.add(logits[batch], targets[batch])
        metric = MulticlassAccuracy(7, ignore_index=-100)
        expected.append(metric(logits[batch].flatten(0, 1), targets[batch].flatten()).item())

    class OneProcess:
        def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
            return tensor

    found = counts.rates(OneProcess())
    assert found["macro_accuracy"].item() == pytest.approx(sum(expected) / 2)
    assert "macro_accuracy" not in Counts(torch.device("cpu")).rates(OneProcess())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "mqar",
            {"vocab_size": 8, "n_pairs": 4},
            "vocab_size must have as many keys as pairs, at least 10 for",
        ),
        ("mqar", {"vocab_size": 63}, "vocab_size must be an even integer"),
        ("mqar", {"train_length": 14}, "even and at least 4 n_pairs = 16, .* got 14"),
        ("mqar", {"train_length": 33}, "lengths must be even"),
        ("mqar", {"eval_sets": [[32, 9]]}, "at least 4 n_pairs = 36"),
        ("mqar", {"eval_sets": [[32]]}, r"eval_sets must have rows \[length, pairs\]"),
        ("mqar", {"train_mixture": [[32, 4]]}, r"train_mixture must have rows \[length, pairs, examples\]"),
        ("mqar", {"n_pairs": 0, "eval_sets": [[32, 4]]}, "n_pairs must be a positive integer"),
        ("mqar", {"power": 0}, "power must be a positive number"),
        ("mqar", {"fillers": "none"}, "fillers must be one of 'zero', 'random', 'any', got 'none'"),
        ("in-context-recall", {"vocab_size": 3}, "recall: vocab_size must be an integer of at least 4"),
        ("noisy-recall", {"vocab_size": 18}, "at least 20, for the keys, the values and 16 other tokens, got 18"),
        ("noisy-recall", {"noise": 1.0}, r"noise must be in \[0, 1\)"),
        ("noisy-recall", {"noise_vocab_size": 0}, "noise_vocab_size must be positive where noise = 0.2"),
        ("fuzzy-recall", {"vocab_size": 6}, "fuzzy recall: vocab_size must be an integer of at least 7"),
        ("fuzzy-recall", {"motif": 0}, "motif must be a positive integer"),
        ("memorization", {"vocab_size": 4}, "memorisation: vocab_size must be an integer of at least 5"),
        ("in-context-recall", {"train_length": 5}, "length must be even and at least 4, got 5"),
        ("fuzzy-recall", {"eval_lengths": [18]}, r"length must be at least 6 motif \+ 1 = 19"),
        ("memorization", {"train_length": 31}, "length must be even and at least 2, got 31"),
    ],
)
def test_bad_arguments(name: str, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_task(name, **arguments)
