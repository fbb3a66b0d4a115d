"""State tracking: follow a finite automaton along the sequence. Word problems of groups, and formal languages."""

from collections.abc import Sequence
from typing import Unpack

from seqmix.tasks.base import EvalSet, Task
from seqmix.tasks.formal_languages import (
    BracketArithmeticExamples,
    CycleNavigationExamples,
    EvenPairsExamples,
    MixedLengths,
    ModularArithmeticExamples,
    OneAnswer,
    SingleParityExamples,
)
from seqmix.tasks.loading import Loading, merge
from seqmix.tasks.registry import register_task
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = [
    "BracketArithmetic",
    "CycleNavigation",
    "EvenPairs",
    "ModularArithmetic",
    "Parity",
    "SingleParity",
    "WordProblem",
]


@register_task(
    "word-problem", description="Running product in a finite group (Z60, S5, A5, D4, A4xZ5, ...).", source="2404.08819"
)
class WordProblem(Task):
    """The running product of random elements of a group: y_t = y_{t-1} then x_t (Merrill et al. 2024, 2404.08819).

    Chance is 1 / |G|; the metric is the share of sequences right at every position.

    Args:
        group: name of the group: `Z60`, `S5`, `A5`, `D4`, `Q8`, or a product such as `A4xZ5`.
        generators: elements that words are made of: None for all of them, their number, or a list.
        bos: start every sequence with a token of its own, which counts in no length.

    Raises:
        ValueError: an unknown group (with the nearest names), generators that are none, sizes that are not positive.

    Example:
        >>> from seqmix.tasks.state_tracking import WordProblem
        >>> task = WordProblem("A5", train_length=16)
        >>> next(iter(task.train_dataloader()))["tokens"].shape, task.vocab_size
        (torch.Size([128, 17]), 61)
    """

    loading = Loading(train_length=16, eval_lengths=(16, 64, 256, 1024))

    def __init__(
        self, group: str = "A5", generators: int | list[int] | None = None, bos: bool = True, **loading: Unpack[Loading]
    ) -> None:
        super().__init__(WordProblemExamples(group, generators, bos), **loading)


@register_task("parity", description="Is the number of ones so far odd: the word problem of Z2.", source="2404.08819")
class Parity(WordProblem):
    """Is the number of ones so far odd: the word problem of Z2. Arguments as in `WordProblem`.

    The metric is the accuracy at the last position; parity has chance 1/2, so a whole sequence is rarely right by luck
    but every single position often is.
    """

    metric = "last_accuracy"
    loading = Loading(train_length=40, min_length=3, eval_lengths=(40, 80, 160, 256))

    def __init__(self, bos: bool = True, **loading: Unpack[Loading]) -> None:
        super().__init__("Z2", None, bos, **loading)
        self.hparams.update(group="Z2", generators=None)  # records name the group


class FormalLanguage(Task):
    """Words of a formal language with one answer, at the end; subclasses say which. The metric is its accuracy.

    Args:
        eval_range: one more test set, named `LOW-HIGH`, with lengths uniform between the two: the published 40 to 256.

    Raises:
        ValueError: sizes that are not positive, lengths too short for a word.
    """

    metric = "last_accuracy"
    loading = Loading(train_length=40, min_length=3, eval_lengths=(40, 80, 160, 256))
    language: type[OneAnswer]

    def __init__(self, eval_range: tuple[int, int] | None = (40, 256), **loading: Unpack[Loading]) -> None:
        self._build(self.language(), eval_range, loading)

    def _build(self, examples: OneAnswer, eval_range: Sequence[int] | None, loading: Loading) -> None:
        if eval_range is not None and not (len(eval_range) == 2 and 1 <= eval_range[0] <= eval_range[1]):
            raise ValueError(f"{type(self).__name__}: eval_range must be null or [low, high], got {eval_range!r}")
        sizes = merge(self.loading, loading)
        sets = []
        if eval_range is not None:
            low, high = eval_range
            sets.append(EvalSet(f"{low}-{high}", MixedLengths(examples, low, high), high, sizes["eval_size"]))
        super().__init__(examples, further_sets=sets, **loading)


@register_task("single-parity", description="Is the number of ones odd, asked once at the end.", source="2411.12537")
class SingleParity(FormalLanguage):
    """Is the number of ones odd, asked once at the end of the word. Arguments as in `FormalLanguage`."""

    language = SingleParityExamples


@register_task("even-pairs", description="Do the first and the last symbol agree.", source="2207.02098")
class EvenPairs(FormalLanguage):
    """Do the first and the last symbol agree: is the number of changes even. Arguments as in `FormalLanguage`."""

    language = EvenPairsExamples


@register_task("cycle-navigation", description="Where a walk on a cycle of five ends.", source="2207.02098")
class CycleNavigation(FormalLanguage):
    """Where a walk on a cycle of five ends. Arguments as in `FormalLanguage`."""

    language = CycleNavigationExamples


@register_task(
    "modular-arithmetic", description="Value modulo 5 of an expression with + - * and no brackets.", source="2207.02098"
)
class ModularArithmetic(FormalLanguage):
    """The value modulo 5 of a sum of products without brackets. Arguments as in `FormalLanguage`."""

    language = ModularArithmeticExamples


@register_task(
    "bracket-arithmetic",
    description="Value modulo 5 of an expression with brackets, with or without multiplication.",
    source="2207.02098",
)
class BracketArithmetic(FormalLanguage):
    """The value modulo 5 of an expression with brackets. Arguments as in `FormalLanguage`, and `multiplication`.

    Args:
        multiplication: operators + - *; false, the other published variant, has + and - only.
    """

    def __init__(
        self, multiplication: bool = False, eval_range: tuple[int, int] | None = (40, 256), **loading: Unpack[Loading]
    ) -> None:
        self._build(BracketArithmeticExamples(multiplication), eval_range, loading)
