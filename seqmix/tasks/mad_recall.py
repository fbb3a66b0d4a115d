"""Examples of MAD's recall and memorisation tasks (Poli et al. 2024, 2403.17844). Needs numpy and torch only.

    recall          k v k v ..         each key has one value in its example; a value is asked for where its key was
                                       seen before, and at the end of the sequence
    noisy           some pairs are two tokens of noise instead
    fuzzy           keys and values are runs of 1 to 3 different tokens; the last key was seen, padding stands in front
    memorisation    k ? k ? ..         each key has the same value in every example; the value is asked for at ?

Targets are the next tokens in recall, and stand below ? in memorisation. The published training loss counts every
next token, keys that nobody can know included (`published`); tests count asked values only.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix._checks import is_whole, positive
from seqmix.tasks.streams import below, skip, unit, words
from seqmix.tasks.word_problem import IGNORE

__all__ = ["FuzzyRecallExamples", "MemorizationExamples", "RecallExamples"]


class RecallExamples:
    """In-context recall, with noise if asked for; tokens and targets are (count, length - 1).

    Keys are tokens 0 .. n/2 - 1 and values n/2 .. n - 1, of the n = vocab_size - noise_vocab_size that are no noise;
    different keys may share a value. `length` counts the last value, which is a target only.

    Args:
        vocab_size: number of tokens.
        noise_vocab_size: how many of them are noise.
        noise: share of the pairs that are noise, in [0, 1).
        published: every next token is a target in training.

    Raises:
        ValueError: fewer than two keys or values, noise without tokens for it or out of range, a length that is odd
            or below 4.
    """

    prefixes = False

    def __init__(
        self, vocab_size: int, noise_vocab_size: int = 0, noise: float = 0.0, *, published: bool = False
    ) -> None:
        if not isinstance(noise, int | float) or not 0 <= noise < 1:
            raise ValueError(f"recall: noise must be in [0, 1), got {noise!r}")
        if noise and noise_vocab_size < 1:
            raise ValueError(f"recall: noise_vocab_size must be positive where noise = {noise}, got {noise_vocab_size}")
        self.vocab_size, self.noise_vocab_size, self.noise = vocab_size, noise_vocab_size, noise
        self.n = _known("recall", vocab_size, noise_vocab_size, 4)
        self.published = published
        self.chance = 1 / (self.n - self.n // 2)

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        if length < 4 or length % 2:
            raise ValueError(f"recall: length must be even and at least 4, got {length}")
        n_keys, n_pairs = self.n // 2, length // 2
        drawn = words(seed, f"{split} {length}", start, count, n_words=2 * n_keys + 4 * n_pairs + 1)
        value_of = n_keys + below(drawn[:, :n_keys], self.n - n_keys)
        priority, drawn = drawn[:, n_keys : 2 * n_keys], drawn[:, 2 * n_keys :]
        keys = below(drawn[:, :n_pairs], n_keys)
        is_noise = unit(drawn[:, n_pairs : 2 * n_pairs]) < self.noise
        # One pair before the last is there for sure.
        kept = below(drawn[:, 4 * n_pairs], n_pairs - 1)
        is_noise[np.arange(count), kept] = is_noise[:, -1] = False
        # The last key is one of those before, each as likely however often it came.
        shown = np.zeros((count, n_keys + 1), dtype=bool)
        np.put_along_axis(shown, np.where(is_noise, n_keys, keys)[:, :-1], True, axis=1)
        keys[:, -1] = np.where(shown[:, :n_keys], priority.astype(np.int64), -1).argmax(1)
        pairs = np.stack([keys, np.take_along_axis(value_of, keys, axis=1)], axis=2)
        if self.noise:
            tokens = self.n + below(drawn[:, 2 * n_pairs : 4 * n_pairs], self.noise_vocab_size)
            pairs = np.where(is_noise[:, :, None], tokens.reshape(count, n_pairs, 2), pairs)
        asked = _repeated(np.where(is_noise, -1 - np.arange(n_pairs), keys))
        asked[:, -1] = True
        sequence = pairs.reshape(count, length)
        targets = np.where(np.repeat(asked, 2, axis=1) & (np.arange(length) % 2 == 1), sequence, IGNORE)
        return _next_tokens(sequence, sequence if self.published and split == "train" else targets)


class FuzzyRecallExamples:
    """Recall of runs: keys and values of 1 to `motif` different tokens each; tokens and targets are (count, length).

    Test examples have keys of `motif` tokens only, values of any. The last token of the vocabulary is padding; of the
    n others the first half are keys, the second values. What is asked for is each token of a value whose key was seen.

    Args:
        vocab_size: number of tokens.
        motif: largest run.
        published: every next token is a target in training, and in a few examples the pair asked for is not there.

    Raises:
        ValueError: fewer key or value tokens than `motif`, or a length that cannot hold three pairs.
    """

    prefixes = False

    def __init__(self, vocab_size: int, motif: int = 3, *, published: bool = False) -> None:
        positive("fuzzy recall", "motif", motif)
        self.vocab_size, self.motif, self.published = vocab_size, motif, published
        self.n = _known("fuzzy recall", vocab_size, 1, max(4, 2 * motif))
        self.chance = 1 / (self.n - self.n // 2)

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        m, n_keys = self.motif, self.n // 2
        if length < 6 * m + 1:
            raise ValueError(
                f"fuzzy recall: length must be at least 6 motif + 1 = {6 * m + 1}, for a pair, the pair asked for and "
                f"one more, got {length}"
            )
        # Pair 0 is the one that is asked for at the end; the others follow one another until the sequence is full.
        n_pairs = 1 + length // (2 if split == "train" else m + 1)
        drawn = words(seed, f"{split} {length}", start, count, n_words=n_pairs * (2 * m + 2) + 1)
        each = drawn[:, :-1].reshape(count, n_pairs, 2 * m + 2)
        key_size = 1 + below(each[:, :, 0], m) if split == "train" else np.full((count, n_pairs), m)
        value_size = 1 + below(each[:, :, 1], m)
        key = _runs(each[:, :, 2 : 2 + m], n_keys, key_size)
        value = _runs(each[:, :, 2 + m :], self.n - n_keys, value_size)
        code = _code(key, n_keys)
        probe_size = key_size[:, 0] + value_size[:, 0]
        full = length - probe_size - 2 * m
        # Published, it may come so late that the sequence is full before: then nobody can know the last value.
        earliest = below(drawn[:, -1], length - 2 * probe_size if self.published else full - 2 * m + 1)
        # Walk over the pairs of all examples at once: which pair stands where, and whose value it has.
        rows = np.arange(count)
        order, source = (np.full((count, n_pairs + 1), -1) for _ in range(2))
        offset = np.zeros((count, n_pairs + 1), dtype=np.int64)
        filled, shown, drawn_next = (np.zeros(count, dtype=np.int64) for _ in range(3))
        for slot in range(n_pairs):
            going = filled < full
            if not going.any():
                break
            asked_now = going & (filled >= earliest) & (shown == 0)
            number = np.where(asked_now, 0, np.minimum(drawn_next + 1, n_pairs - 1))
            drawn_next += going & ~asked_now
            before = order[:, : slot + 1]  # the last is not set yet
            same = (before >= 0) & (code[rows[:, None], before] == code[rows, number][:, None])
            first = np.where(same.any(1), source[rows, same.argmax(1)], number)
            first = np.where(code[rows, number] == code[:, 0], 0, first)
            shown |= going & (first == 0)
            order[:, slot] = np.where(going, number, -1)
            source[:, slot] = np.where(going, first, -1)
            offset[:, slot] = filled
            filled += np.where(going, key_size[rows, number] + value_size[rows, first], 0)
        # The last pair is the one asked for.
        order[:, -1], source[:, -1], offset[:, -1] = 0, 0, filled
        asked = _repeated(np.where(order >= 0, code[rows[:, None], order], -2 - np.arange(n_pairs + 1)))
        asked[:, -1] = True
        shift = length + 1 - (filled + probe_size)
        sequence = np.full((count, length + 1), self.vocab_size - 1)
        targets = np.full((count, length + 1), IGNORE)
        base = offset + shift[:, None]
        for j in range(m):
            size = np.where(order >= 0, key_size[rows[:, None], order], 0)
            _put(sequence, base + j, key[rows[:, None], order, j], j < size)
            inside = j < np.where(order >= 0, value_size[rows[:, None], source], 0)
            tokens = n_keys + value[rows[:, None], source, j]
            _put(sequence, base + size + j, tokens, inside)
            _put(targets, base + size + j, tokens, inside & asked)
        return _next_tokens(sequence, sequence if self.published and split == "train" else targets)


class MemorizationExamples:
    """Values that are the same in every example; tokens and targets are (count, length).

    The last token of the vocabulary asks; of the n others the first n // 2 are keys, and a fixed random one-to-one map
    gives each one of the rest. The map is no part of what `seed` decides: it is what has to be learned.

    Args:
        vocab_size: number of tokens.
        map_seed: of the map.

    Raises:
        ValueError: fewer than two keys, or an odd length.
    """

    prefixes = True

    def __init__(self, vocab_size: int, map_seed: int = 0) -> None:
        self.vocab_size = vocab_size
        n = _known("memorisation", vocab_size, 1, 4)
        order = words(map_seed, "memorisation map", 0, 1, n_words=n)[0]
        n_keys = n // 2
        self.value_of = n_keys + np.argsort(order[: n - n_keys], kind="stable")[:n_keys]
        self.chance = 1 / (n - n_keys)

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        if length < 2 or length % 2:
            raise ValueError(f"memorisation: length must be even and at least 2, got {length}")
        drawn = words(seed, split, start, count, n_words=(max_length or length) // 2)[:, : length // 2]
        keys = below(drawn, len(self.value_of))
        tokens = np.full((count, length), self.vocab_size - 1)
        targets = np.full((count, length), IGNORE)
        tokens[:, ::2], targets[:, 1::2] = keys, self.value_of[keys]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


def _known(task: str, vocab_size: int, special: int, least: int) -> int:
    # Tokens that are keys or values.
    if not is_whole(vocab_size, special + least):
        raise ValueError(
            f"{task}: vocab_size must be an integer of at least {least + special}, for the keys, the values and "
            f"{special} other tokens, got {vocab_size!r}"
        )
    return vocab_size - special


def _next_tokens(sequence: NDArray[np.int64], targets: NDArray[np.int64]) -> dict[str, Tensor]:
    tokens, targets = np.ascontiguousarray(sequence[:, :-1]), np.ascontiguousarray(targets[:, 1:])
    return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


def _repeated(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each entry of (count, n) has stood before it in its row."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    repeated = np.zeros(codes.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated


def _runs(drawn: NDArray[np.uint32], n: int, size: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs of different tokens below n, (count, pairs, m), -1 beyond their size."""
    count, pairs, m = drawn.shape
    flat = drawn.reshape(-1, m)
    run = np.empty(flat.shape, dtype=np.int64)
    for j in range(m):
        run[:, j : j + 1] = skip(below(flat[:, j : j + 1], n - j), run[:, :j])
    return np.where(np.arange(m) < size[:, :, None], run.reshape(count, pairs, m), -1)


def _code(run: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """One number for each run."""
    code = np.zeros(run.shape[:-1], dtype=np.int64)
    for column in np.moveaxis(run, -1, 0):
        code = code * (n + 1) + column + 1
    return code


def _put(
    rows: NDArray[np.int64], place: NDArray[np.int64], value: NDArray[np.int64], chosen: NDArray[np.bool_]
) -> None:
    row, column = np.nonzero(chosen)
    rows[row, place[row, column]] = value[row, column]
