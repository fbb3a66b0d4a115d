"""The theorems of the atlas: what a layer of some kind cannot do, what that says of an automaton, and where it is from.

Proofs of those that are "derived" are in docs/atlas.md. All speak of minimal automata all of whose letters may come.
"""

from collections.abc import Callable
from typing import NamedTuple

from seqmix.atlas.conditions import (
    alike_breaks,
    alike_within_breaks,
    lags_break,
    loops_break,
    order_matters,
    periods,
    same_length_periods,
)  # fmt: skip
from seqmix.atlas.traits import Traits
from seqmix.tasks.automata.describe import Description
from seqmix.tasks.automata.monoid import Monoid
from seqmix.tasks.block_sizes import smallest_block
from seqmix.tasks.groups import group

__all__ = ["EXACT", "FLOATS", "REALS", "THEOREMS", "Subject", "Theorem"]

REALS = "real numbers, states within bounds, the right answer ahead by a fixed margin at every length"
FLOATS = "floating-point numbers of one type, one token at a time"
EXACT = "any arithmetic in which sums do not depend on their order"


class Subject(NamedTuple):
    """An automaton, as theorems look at it."""

    about: Description
    monoid: Monoid


class Theorem(NamedTuple):
    """Layers of which `applies(traits)` cannot do automata of which `breaks(traits, subject, n)`, n being their number.

    layers: at one layer only, or 0 for any number. says: the theorem in a sentence. condition: what was found of the
    automaton. proof: the heading of docs/atlas.md under which it is proved or quoted.
    """

    name: str
    says: str
    condition: str
    source: str
    proof: str
    precision: str
    layers: int
    applies: Callable[[Traits], bool]
    breaks: Callable[[Traits, Subject, int], bool]


def _one_token(*kinds: str) -> Callable[[Traits], bool]:
    return lambda t: t.kind in kinds and t.window == 1 and not t.clocked


def _of_kind(*kinds: str) -> Callable[[Traits], bool]:
    return lambda t: t.kind in kinds and not t.clocked


def _elementwise(t: Traits) -> bool:
    """h <- a h + b with a of at least 0 in every channel."""
    return not t.clocked and not t.alike and (t.kind == "positive" or (t.kind == "rows" and t.m == 1))


def _elementwise_signed(t: Traits) -> bool:
    return not t.clocked and not t.alike and (t.kind == "signed" or (t.kind == "signed rows" and t.m == 1))


def _orders_other_than_two(t: Traits, s: Subject, n: int) -> bool:
    return any(order & (order - 1) for order in s.about.orders or ())


def _too_small_blocks(t: Traits, s: Subject, n: int) -> bool:
    known = [name for name in s.about.groups or () if not name.startswith("order")]
    signed = t.kind == "signed rows"
    small = [name for name in known if group(name).order <= 120]
    return any(smallest_block(name, signed=signed, read_out="any") > (t.m or 0) for name in small)


def _letter_periods(t: Traits, s: Subject, n: int) -> bool:
    most = 2 if t.spectrum == -1 else 1
    return any(most % period for period in periods(s.monoid.letters))


def _longer_series(t: Traits, s: Subject, n: int) -> bool:
    # Windows may do what a layer does, for all that is proved.
    return s.about.solvable is False or (t.window == 1 and (s.about.derived_length or 0) > n)


# Headings of docs/atlas.md.
_MONOTONE = "monotone-floats"
_DIAGONAL = "p-s-and-c-diagonal-layers"
_MATRICES = "p0-powers-el-matrices-that-never-lengthen"
_BLOCKS = "blocks-lags-means"
_PAPERS = "from-papers"

THEOREMS = (
    Theorem(
        "monotone floats",
        "every channel's step keeps the order of floats, and such maps, any number of layers of them, have no groups",
        "its monoid has a group", "derived; compare 2405.17394", _MONOTONE, FLOATS, 0,
        _elementwise, lambda t, s, n: s.about.aperiodic is False,
    ),
    Theorem(
        "monotone floats with signs",
        "every channel's step keeps or turns round the order of floats, and layers of them have 2-groups only",
        "its monoid has a group whose order is no power of two", "derived; compare 2411.12537", _MONOTONE, FLOATS, 0,
        _elementwise_signed, _orders_other_than_two,
    ),
    Theorem(
        "parity",
        "diagonal layers that no token changes, or that are not negative, mixed at any depth, cannot do parity",
        "words of one length make a group of even order", "2508.07395", _PAPERS, "finite precision", 0,
        lambda t: (t.alike and t.kind == "complex") or (t.clocked and t.kind == "positive"),
        lambda t, s, n: any(p % 2 == 0 for p in same_length_periods(s.monoid)),
    ),
    Theorem(
        "abelian factors",
        "layers of a complex diagonal, which tokens choose, make groups from abelian ones, one a layer",
        "its monoid has a group that is not solvable, or whose derived series is longer than the number of layers",
        "2603.01959", _PAPERS, "finite precision", 0, lambda t: t.kind == "complex", _longer_series,
    ),
    Theorem(
        "means forget single letters",
        "soft attention moves by O(1/n) when one of n letters changes; in fixed precision, without positions, it does "
        "R-trivial languages only",
        "words of one length make a group", "1906.06755, 2505.23623", _BLOCKS, REALS, 0,
        lambda t: t.kind == "mean" and not t.forgets, lambda t, s, n: any(p > 1 for p in same_length_periods(s.monoid)),
    ),
    Theorem(
        "P", "a positive diagonal layer is a sum of memories that letters leave alone or wash out",
        "letters before an idempotent word of them still matter, whatever stands between",
        "derived", _DIAGONAL, REALS, 1,
        lambda t: _elementwise(t) and t.window == 1, lambda t, s, n: s.about.P is False,
    ),
    Theorem(
        "S", "in a signed diagonal layer letters that are not washed out hold or mirror, each channel about one centre",
        "letters before an idempotent word of them matter by more than an even count", "derived", _DIAGONAL, REALS, 1,
        lambda t: _elementwise_signed(t) and t.window == 1, lambda t, s, n: s.about.S is False,
    ),
    Theorem(
        "C", "in a complex diagonal layer letters that are not washed out turn each channel about one centre",
        "the order of letters before an idempotent word of them matters", "derived", _DIAGONAL, REALS, 1,
        _one_token("complex"), lambda t, s, n: s.about.C is False,
    ),
    Theorem(
        "P, S, C with windows", "the same for loops of windows, where a convolution lets gates see several letters",
        "loops of letters do not act as a diagonal layer's", "derived", _DIAGONAL, REALS, 1,
        lambda t: t.window > 1 and (_of_kind("positive", "signed", "complex")(t)),
        lambda t, s, n: loops_break(s.monoid, t.window, t.kind),
    ),
    Theorem(
        "alike", "a diagonal layer that no token changes keeps nothing but the length, and what was last",
        "which of two letters came matters after an idempotent word", "derived", _DIAGONAL, REALS, 1,
        lambda t: t.kind == "complex" and t.alike and t.window == 1, lambda t, s, n: alike_breaks(s.monoid),
    ),
    Theorem(
        "clocks", "where all letters turn alike, letters that are not washed out only count the length",
        "which of two letters of an idempotent word came before it matters", "derived", _DIAGONAL, REALS, 1,
        lambda t: t.kind == "positive" and t.clocked and t.window == 1, lambda t, s, n: alike_within_breaks(s.monoid),
    ),
    Theorem(
        "P0", "products of matrices that shrink whatever they do not fix wash out all that their letters do not fix",
        "letters directly before an idempotent word of them matter", "derived", _MATRICES, REALS, 1,
        _one_token("fixing"), lambda t, s, n: s.about.P0 is False,
    ),
    Theorem(
        "powers converge", "powers of a product of matrices that shrink whatever they do not fix converge",
        "its monoid has a group", "derived", _MATRICES, REALS, 1,
        _of_kind("fixing"), lambda t, s, n: s.about.aperiodic is False,
    ),
    Theorem(
        "EL", "maps that never lengthen have limits that project, and projections generate a J-trivial monoid",
        "its idempotents reach one another by multiplying from the left", "derived", _MATRICES, REALS, 1,
        lambda t: t.kind in ("contraction", "fixing") and t.window == 1, lambda t, s, n: s.about.EL is False,
    ),
    Theorem(
        "one letter's powers", "powers of a matrix with real eigenvalues in [-1, 1] come to a period of two, or of one",
        "some letter repeated has a longer period", "derived; compare 2411.12537", _MATRICES, REALS, 1,
        lambda t: t.spectrum is not None and t.kind != "mean" and not t.clocked, _letter_periods,
    ),
    Theorem(
        "block sizes", "blocks that lose nothing permute their entries, up to signs where there are some",
        "it has a group that divides no power of the permutations of so few points",
        "docs/certificates.md", _BLOCKS, REALS, 1,
        lambda t: t.kind in ("rows", "signed rows") and not t.alike and t.m is not None, _too_small_blocks,
    ),
    Theorem(
        "lags", "of two letters some word makes all that is left in rows of lags such that both move it on alike",
        "no word of two letters makes these two alike before one of them comes for ever", "derived", _BLOCKS, REALS, 1,
        lambda t: t.kind == "lags" and not t.alike, lambda t, s, n: lags_break(s.monoid),
    ),
    Theorem(
        "counts", "without positions a mean does not see in which order letters came, but for the last one",
        "the order of earlier letters matters", "derived", _BLOCKS, EXACT, 1,
        lambda t: t.kind == "mean" and t.window == 1 and not t.clocked and not t.forgets,
        lambda t, s, n: order_matters(s.monoid),
    ),
    Theorem(
        "means", "a mean over a word repeated for ever forgets what came before, or nothing of the word is in it",
        "letters directly before an idempotent word of them matter", "derived", _BLOCKS, REALS, 1,
        lambda t: t.kind == "mean" and t.window == 1 and not t.clocked, lambda t, s, n: s.about.P0 is False,
    ),
)  # fmt: skip
