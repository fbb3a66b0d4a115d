"""What every task made of examples takes beside arguments of its own: how long, how many, from which seed.

A task's constructor ends in `**loading`, and its class says which values are its own in `loading`; `Task` puts them
together, and shows all of them in the constructor's signature and docstring, where the command line reads them.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, get_type_hints

__all__ = ["Loading", "merge", "show"]


class Loading(TypedDict, total=False):
    """Arguments that tasks share, by name; a task's own values are in its constructor's signature."""

    train_length: int
    min_length: int | None
    batch_size: int
    train_size: int | None
    eval_lengths: Sequence[int]
    eval_size: int
    seed: int
    eval_seed: int
    num_workers: int
    packed: bool


_DEFAULTS = Loading(
    min_length=None, batch_size=128, train_size=None, eval_size=512, seed=0, eval_seed=0, num_workers=0, packed=False
)
MEANING = {
    "train_length": "length of the training sequences, or their largest length.",
    "min_length": "smallest length of training sequences, one length to the batch; None trains at the largest only.",
    "batch_size": "sequences in a batch, over all ranks.",
    "train_size": "number of different training examples; None for a stream that never repeats.",
    "eval_lengths": "lengths of the test sets.",
    "eval_size": "sequences in the validation set and in each test set.",
    "seed": "of the training stream.",
    "eval_seed": "of the validation and test sets.",
    "num_workers": "processes that make training batches; 0 is fastest unless the model runs on a GPU.",
    "packed": "pack the sequences of a training batch in one row, each with a length of its own.",
}


def merge(own: Loading, given: Loading) -> Loading:
    """`given` over a task's `own` values over those of all tasks."""
    return Loading(**{**_DEFAULTS, **own, **given})  # type: ignore[typeddict-item]


def show(constructor: Callable[..., None], own: Loading, withheld: Sequence[str]) -> inspect.Signature:
    """The signature of a constructor that ends in `**loading`, with what that holds but for the names `withheld`."""
    mine = [p for p in inspect.signature(constructor).parameters.values() if p.kind is not p.VAR_KEYWORD]
    hints, values = get_type_hints(Loading), merge(own, Loading())
    names = [name for name in hints if name not in withheld and name not in {p.name for p in mine}]
    empty, keyword = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        mine + [inspect.Parameter(n, keyword, default=values.get(n, empty), annotation=hints[n]) for n in names],
        return_annotation=None,
    )


def explain(docstring: str, signature: inspect.Signature) -> str:
    """`docstring` with a line for each argument of the signature that it does not name, at the end of its `Args:`."""
    named = {line.split(":")[0].strip() for line in docstring.splitlines() if ":" in line}
    lines = [f"        {name}: {MEANING[name]}" for name in signature.parameters if name in MEANING.keys() - named]
    if not lines:
        return docstring
    parts = docstring.rstrip().split("\n\n")
    at = next((i for i, part in enumerate(parts) if part.strip().startswith("Args:")), None)
    if at is None:
        at = len(parts)
        parts.append("    Args:")
    parts[at] = "\n".join([parts[at], *lines])
    return "\n\n".join(parts) + "\n    "


def arguments_of(constructor: Callable[..., None], given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name, those that were not given too."""
    bound = inspect.signature(constructor).bind_partial(None, *given, **named)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])
