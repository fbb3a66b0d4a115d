"""Random symbols addressed by (seed, split, example): every example owns a slice of one counter-based stream.

Philox turns a key and a counter into four 64-bit words, with no state in between. The key comes from the seed and the
split; example i owns the counters [i s, (i + 1) s) with s counters enough for its longest form. So any example can be
made without the ones before it, a run of examples is made in one call, and a shorter example is a prefix of a longer.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "symbols", "uniform_integer"]

_SYMBOLS_PER_COUNTER = 8  # 4 words of 64 bits, two symbols each


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
    counters = -(-max_length // _SYMBOLS_PER_COUNTER)
    words = _philox(seed, split, start * counters).random_raw(count * counters * 4)
    halves = words.astype("<u8", copy=False).view("<u4").reshape(count, counters * _SYMBOLS_PER_COUNTER)
    scaled = halves[:, :length].astype(np.uint64)
    scaled *= np.uint64(n_symbols)
    scaled >>= np.uint64(32)
    return scaled.view(np.int64)


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
