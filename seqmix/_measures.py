"""What a test measures, once: names in logs, keys in records, words in tables and on pages, and which way is better.

A new measure is an entry here, and what computes it in `seqmix.training.metrics`.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

__all__ = ["DECIDING", "MEASURES", "Measure", "at", "keys", "named", "of_text"]

Kind = Literal["share", "bits", "loss"]


@dataclass(frozen=True)
class Measure:
    """One measure of a test set.

    Attributes:
        name: as tasks, logs and results call it.
        key: as records, criteria and heads of columns call it.
        kind: `share`, from 0 to 1, more is better; `bits` or `loss`, from 0, less is better.
        place: among the columns of the table after a test; 0 for what is not shown there.
        title: above that column.
        phrase: in a sentence.
        answers, text: whether runs on tasks with answers, and runs on text, have it.
        always: they all have it; else those that asked for it.
        decides: a task may be decided by it.
    """

    name: str
    key: str
    kind: Kind
    place: int
    title: str
    phrase: str
    answers: bool = True
    text: bool = False
    always: bool = True
    decides: bool = False

    @property
    def less(self) -> bool:
        """Whether less is better."""
        return self.kind != "share"


# In the order of a record's keys.
MEASURES = (
    Measure("last_accuracy", "last", "share", 2, "last position", "last-position accuracy", decides=True),
    Measure("sequence_accuracy", "seq", "share", 1, "whole sequence", "whole-sequence accuracy", decides=True),
    Measure("token_accuracy", "tok", "share", 5, "every position", "per-position accuracy", text=True, decides=True),
    Measure("loss", "loss", "loss", 0, "loss", "loss", text=True),
    Measure("bits_per_byte", "bpb", "bits", 3, "bits per byte", "bits per byte", False, True, decides=True),
    Measure("perplexity", "ppl", "loss", 4, "perplexity", "perplexity", False, True),
    Measure(
        "bits_per_byte_bound", "bpb_bound", "bits", 9, "bits per byte (bound)", "an upper bound on bits per byte",
        False, True, always=False,
    ),
    Measure(
        "free_sequence_accuracy", "free_seq", "share", 7, "whole, free-running",
        "whole-sequence accuracy of answers that the model continues by itself", always=False,
    ),
    Measure(
        "free_token_accuracy", "free_tok", "share", 8, "every, free-running",
        "per-position accuracy of answers that the model continues by itself", always=False,
    ),
    Measure(
        "macro_accuracy", "macro", "share", 6, "class-balanced", "class-balanced accuracy", always=False, decides=True
    ),
)  # fmt: skip
DECIDING = tuple(measure.name for measure in MEASURES if measure.decides)
_BY_NAME = {measure.name: measure for measure in MEASURES}
_BY_KEY = {measure.key: measure for measure in MEASURES}


def named(name: str) -> Measure:
    """The measure that logs and tasks call so."""
    return _BY_NAME[name]


def at(key: str) -> Measure:
    """The measure that records call so."""
    return _BY_KEY[key]


def of_text(name: str | None) -> bool:
    """Whether a task decided by this measure is text: its runs have no answers that are right or wrong as a whole."""
    return name in _BY_NAME and not _BY_NAME[name].answers


@cache
def keys(*, text: bool, always: bool) -> tuple[str, ...]:
    """Keys in records of what all runs on text, or on tasks with answers, have, or of what some have besides."""
    return tuple(m.key for m in MEASURES if (m.text if text else m.answers) and m.always is always)
