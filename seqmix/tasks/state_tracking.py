"""State tracking: follow a finite automaton along the sequence. Word problems of groups, and formal languages."""

from collections.abc import Sequence

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


class WordProblem(Task):
    """The running product of random elements of a group: y_t = y_{t-1} then x_t (Merrill et al. 2024, 2404.08819).

    Chance is 1 / |G|; the metric is the share of sequences right at every position.

    Args:
        group: name of the group: `Z60`, `S5`, `A5`, `D4`, `Q8`, or a product such as `A4xZ5`.
        train_length: length of the training sequences, or their largest length.
        min_length: smallest length of training sequences, one length to the batch; None trains at the largest only.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_size: sequences in the validation set and in each test set.
        generators: elements that words are made of: None for all of them, their number, or a list.
        bos: start every sequence with a token of its own, which counts in no length.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches; 0 is fastest unless the model runs on a GPU.
        packed: pack the sequences of a training batch in one row, each with a length of its own.

    Raises:
        ValueError: an unknown group (with the nearest names), generators that are none, sizes that are not positive.

    Example:
        >>> from seqmix.tasks.state_tracking import WordProblem
        >>> task = WordProblem("A5", train_length=16)
        >>> next(iter(task.train_dataloader()))["tokens"].shape, task.vocab_size
        (torch.Size([128, 17]), 61)
    """

    def __init__(
        self,
        group: str = "A5",
        train_length: int = 16,
        min_length: int | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (16, 64, 256, 1024),
        eval_size: int = 512,
        generators: int | list[int] | None = None,
        bos: bool = True,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            WordProblemExamples(group, generators, bos),
            train_length=train_length,
            min_length=min_length,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=eval_lengths,
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            packed=packed,
        )
        self.save_hyperparameters()


class Parity(WordProblem):
    """Is the number of ones so far odd: the word problem of Z2. Arguments as in `WordProblem`.

    The metric is the accuracy at the last position; parity has chance 1/2, so a whole sequence is rarely right by luck
    but every single position often is.
    """

    metric = "last_accuracy"

    def __init__(
        self,
        train_length: int = 40,
        min_length: int | None = 3,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (40, 80, 160, 256),
        eval_size: int = 512,
        bos: bool = True,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            "Z2", train_length, min_length, batch_size, train_size, eval_lengths, eval_size, None, bos, seed, eval_seed,
            num_workers, packed,
        )  # fmt: skip


class FormalLanguage(Task):
    """Words of a formal language with one answer, at the end; subclasses say which. The metric is its accuracy.

    Args:
        train_length: largest length of the training words, the published 40.
        min_length: smallest length of training words, one length to the batch; None trains at the largest only.
        batch_size: words in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_range: one more test set, named `LOW-HIGH`, with lengths uniform between the two: the published 40 to 256.
        eval_size: words in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches; 0 is fastest unless the model runs on a GPU.
        packed: pack the words of a training batch in one row, each with a length of its own.

    Raises:
        ValueError: sizes that are not positive, lengths too short for a word.
    """

    metric = "last_accuracy"
    language: type[OneAnswer]

    def __init__(
        self,
        train_length: int = 40,
        min_length: int | None = 3,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (40, 80, 160, 256),
        eval_range: tuple[int, int] | None = (40, 256),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        self._build(
            self.language(), train_length, min_length, batch_size, train_size, eval_lengths, eval_range, eval_size,
            seed, eval_seed, num_workers, packed,
        )  # fmt: skip
        self.save_hyperparameters()

    def _build(
        self,
        examples: OneAnswer,
        train_length: int,
        min_length: int | None,
        batch_size: int,
        train_size: int | None,
        eval_lengths: Sequence[int],
        eval_range: Sequence[int] | None,
        eval_size: int,
        seed: int,
        eval_seed: int,
        num_workers: int,
        packed: bool,
    ) -> None:
        if eval_range is not None and not (len(eval_range) == 2 and 1 <= eval_range[0] <= eval_range[1]):
            raise ValueError(f"{type(self).__name__}: eval_range must be null or [low, high], got {eval_range!r}")
        sets = [EvalSet(str(length), examples, length, eval_size) for length in sorted(set(eval_lengths))]
        if eval_range is not None:
            low, high = eval_range
            sets.append(EvalSet(f"{low}-{high}", MixedLengths(examples, low, high), high, eval_size))
        super().__init__(
            examples,
            train_length=train_length,
            min_length=min_length,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=eval_lengths,
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            packed=packed,
            test_sets=sets,
        )


class SingleParity(FormalLanguage):
    """Is the number of ones odd, asked once at the end of the word. Arguments as in `FormalLanguage`."""

    language = SingleParityExamples


class EvenPairs(FormalLanguage):
    """Do the first and the last symbol agree: is the number of changes even. Arguments as in `FormalLanguage`."""

    language = EvenPairsExamples


class CycleNavigation(FormalLanguage):
    """Where a walk on a cycle of five ends. Arguments as in `FormalLanguage`."""

    language = CycleNavigationExamples


class ModularArithmetic(FormalLanguage):
    """The value modulo 5 of a sum of products without brackets. Arguments as in `FormalLanguage`."""

    language = ModularArithmeticExamples


class BracketArithmetic(FormalLanguage):
    """The value modulo 5 of an expression with brackets. Arguments as in `FormalLanguage`, and `multiplication`.

    Args:
        multiplication: operators + - *; false, the other published variant, has + and - only.
    """

    def __init__(
        self,
        multiplication: bool = False,
        train_length: int = 40,
        min_length: int | None = 3,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (40, 80, 160, 256),
        eval_range: tuple[int, int] | None = (40, 256),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        self._build(
            BracketArithmeticExamples(multiplication), train_length, min_length, batch_size, train_size, eval_lengths,
            eval_range, eval_size, seed, eval_seed, num_workers, packed,
        )  # fmt: skip
        self.save_hyperparameters()
