"""Follow any finite automaton: a named one, one from a table, a random one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from seqmix.tasks.automata import Automaton, from_table, named_automaton, read_table
from seqmix.tasks.automata.sampling import AutomatonExamples, RepeatedExamples
from seqmix.tasks.base import EvalSet, Task
from seqmix.tasks.loading import Loading, merge
from seqmix.tasks.registry import register_task

__all__ = ["AutomatonTask"]


@register_task(
    "automaton",
    description="Follow a finite automaton: flip-flop, clip-3, dyck-1-3, random-5-2-0, Z6, or a table of one's own.",
    source="2210.10749",
)
class AutomatonTask(Task):
    """The answer of a finite automaton after every letter (Liu et al. 2022, 2210.10749).

    The metric is the accuracy at the last position. Chance is the share of the most frequent answer after 64 letters;
    `seqmix.tasks.automata.sampling.baseline` says how far the last letters alone lead.

    Args:
        automaton: a name such as `flip-flop`, `counter-3-reset` or `random-5-2-0`, the path of a YAML file with a table
            (a name that ends in `.yaml`), or the table itself.
        sampling: `"uniform"` letters, `"balanced"` last states, or `"held"`, letter 0 with probability `hold`.
        hold: that probability.
        test_holds: with `"held"`, further test sets at the training length, named `hold=P`, with these probabilities.
        repeated: length of one more test set, named `repeated`, of words u v v v ... with short u and v; None for none.
        bos: start every sequence with a token of its own, which counts in no length; a table says so itself.

    Raises:
        ValueError: an unknown automaton, a table that is none, sizes that are not positive.

    Example:
        >>> from seqmix.tasks import create_task
        >>> create_task("automaton", automaton="clip-2", sampling="balanced").vocab_size
        4
    """

    metric = "last_accuracy"
    loading = Loading(train_length=40, min_length=3, eval_lengths=(64, 256, 1024))

    def __init__(
        self,
        automaton: str | dict[str, Any] = "flip-flop",
        sampling: str = "uniform",
        hold: float | None = None,
        test_holds: tuple[float, ...] = (),
        repeated: int | None = None,
        bos: bool = True,
        **loading: Unpack[Loading],
    ) -> None:
        chosen = _automaton(automaton, bos)
        examples = AutomatonExamples(chosen, sampling, hold)
        sizes = merge(self.loading, loading)
        sets = []
        for share in test_holds:
            held = AutomatonExamples(chosen, "held", share)
            sets.append(EvalSet(f"hold={share:g}", held, sizes["train_length"], sizes["eval_size"]))
        if repeated is not None:
            sets.append(EvalSet("repeated", RepeatedExamples(chosen), repeated, sizes["eval_size"]))
        super().__init__(examples, further_sets=sets, **loading)


def _automaton(given: Any, bos: bool) -> Automaton:
    if isinstance(given, Mapping):
        return from_table(given)
    if isinstance(given, str) and given.endswith((".yaml", ".yml")):
        return read_table(Path(given))
    return named_automaton(given, bos)
