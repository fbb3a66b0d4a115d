"""Random symbols addressed by (seed, split, example): every example owns a slice of one counter-based stream.

Philox turns a key and a counter into four 64-bit words, with no state in between. The key comes from the seed and the
split; example i owns the counters [i s, (i + 1) s) with s counters enough for its longest form. So any example can be
made without the ones before it, a run of examples is made in one call, and a shorter example is a prefix of a longer.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["below", "distinct", "permutation", "skip", "symbols", "uniform_integer", "unit", "words"]

_WORDS_PER_COUNTER = 8  # 4 words of 64 bits, two of 32 bits each


def _philox(seed: int, split: str, counter: int) -> np.random.Philox:
    digest = hashlib.sha256(f"{int(seed)}/{split}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"), counter=counter)


def symbols(
    seed: int, split: str, start: int, count: int, *, length: int, max_length: int, n_symbols: int
) -> NDArray[np.int64]:
    """Uniform symbols (count, length) in [0, n_symbols) of the examples `start` .. `start + count - 1`.

    `max_length` fixes the slice of an example; the result for a smaller `length` is a prefix of that for a larger.
    Symbols are (w n) >> 32 for 32-bit words w: their probabilities differ by less than n / 2^32 of their value.
    """
    return below(words(seed, split, start, count, n_words=max_length)[:, :length], n_symbols)


def words(seed: int, split: str, start: int, count: int, *, n_words: int) -> NDArray[np.uint32]:
    """Random 32-bit words (count, n_words) of the examples `start` .. `start + count - 1`; `n_words` fixes a slice."""
    counters = -(-n_words // _WORDS_PER_COUNTER)
    drawn = _philox(seed, split, start * counters).random_raw(count * counters * 4)
    halves = drawn.astype("<u8", copy=False).view("<u4").reshape(count, counters * _WORDS_PER_COUNTER)
    return halves[:, :n_words]


def below(words: NDArray[np.uint32], n: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers in [0, n) from 32-bit words: (w n) >> 32; `n` may be an array that broadcasts with them."""
    scaled = words.astype(np.uint64)
    scaled *= np.asarray(n, dtype=np.uint64)
    scaled >>= np.uint64(32)
    return scaled.view(np.int64)


def unit(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Numbers in the open interval (0, 1) from 32-bit words."""
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def skip(numbers: NDArray[np.int64], taken: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers (count, n) counted among those that are not in `taken` (count, k), each row distinct."""
    result = numbers.copy()
    for column in np.sort(taken, axis=1).T:
        result += result >= column[:, None]
    return result


def distinct(words: NDArray[np.uint32], n: int) -> NDArray[np.int64]:
    """For words (count, 2 k) k distinct numbers below n in each row, (count, k): every sequence is equally likely."""
    count, k = words.shape[0], words.shape[1] // 2
    # Floyd's algorithm draws the set, whose order still tells something, and sorting by random words the order.
    chosen = np.empty((k, count), dtype=np.int64)
    for j in range(k):
        top = n - k + j
        drawn = below(words[:, j], top + 1)
        chosen[j] = np.where((chosen[:j] == drawn).any(0), top, drawn)
    return np.take_along_axis(chosen.T, np.argsort(words[:, k : 2 * k], axis=1, kind="stable"), axis=1)


def uniform_integer(seed: int, split: str, index: int, low: int, high: int) -> int:
    """An integer in [low, high], a pure function of the other arguments."""
    if low == high:
        return low
    word = int(_philox(seed, split, index).random_raw())
    return low + (word * (high - low + 1) >> 64)


@lru_cache(maxsize=2)
def permutation(seed: int, split: str, n: int) -> NDArray[np.int64]:
    """The numbers 0 .. n - 1 in random order."""
    return np.random.Generator(_philox(seed, split, 0)).permutation(n)
