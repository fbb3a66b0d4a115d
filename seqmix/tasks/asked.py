"""What training asks of a task, beyond Lightning's data module; what a task does not say has the value it has here."""

from typing import Any, Protocol, cast

__all__ = ["Asked", "asked_of"]


class Asked(Protocol):
    """The answers of a task. `Task` gives them all; of another data module those are taken that it has.

    Attributes:
        metric: the measure that decides, see `Task`.
        chance: accuracy of guessing; None where nobody knows.
        free_running: test the answers once more with the model's own answers as input.
        n_classes: classes of the one answer to a sequence; None where there is an answer at each position.
        predicts_next: targets are tokens to come, which a model must not see.
        reconstructs: targets are the tokens themselves, which must have gone through one vector.
        mask_token: a token that stands in no example, for pretraining on masked input.
        train_length: of training sequences.
        current_length: what a curriculum has come to; None without one.
        eval_size: sequences of an evaluation set.
        validation_sets, test_sets: what the loaders give, in their order, each with a `name`.
        title: what a figure is called, behind the name of the class.
        hparams: the arguments that it was built with.
    """

    metric: str = "sequence_accuracy"
    chance: float | None = None
    free_running: bool = False
    n_classes: int | None = None
    predicts_next: bool = False
    reconstructs: bool = False
    mask_token: int | None = None
    train_length: int | None = None
    current_length: int | None = None
    eval_size: int | None = None
    validation_sets: Any = None
    test_sets: Any = None
    title: str = ""
    hparams: Any = None


class _Filled:
    """A task with what it does not say."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name, getattr(Asked, name))


def asked_of(task: Any) -> Asked:
    """What a task, or any data module, answers; of None the defaults."""
    return cast(Asked, _Filled(task))
