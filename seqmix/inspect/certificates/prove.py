"""`certify`: is a model with hard gates right on every word of a finite-state task?"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix._checks import positive
from seqmix.inspect.certificates.bounds import Array
from seqmix.inspect.certificates.loose import Loose, loose_intervals
from seqmix.inspect.certificates.machine import Machine
from seqmix.inspect.certificates.merge import Blocks
from seqmix.inspect.certificates.network import Network, Undecided, weights_fingerprint
from seqmix.inspect.certificates.record import Certificate, CounterExample, Proof
from seqmix.inspect.certificates.representations import BlockReport, block_reports, letters_of
from seqmix.inspect.certificates.search import Points, Reached, explore, parts
from seqmix.inspect.certificates.soft import FOREVER, drift_of, longest
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton

__all__ = ["automaton_of", "certify"]

_CELLS = 1 << 21  # numbers in one batch of read-outs
_SEARCHES = 6  # states over all searches, in units of max_states
_SPARE = 1e-9  # of the drift: whoever checks a safe length may sum in another order


class Outcome(NamedTuple):
    """A search to its end, with the smallest margins (P,) of its points less every doubt."""

    machine: Machine
    reached: Reached
    points: Points
    loose: Loose
    low: Array


class Refuted(NamedTuple):
    counterexample: CounterExample | None
    reason: str
    states: int


def certify(model: SequenceModel, task: Any, *, max_states: int = 20_000, shortest_length: int = 1) -> Certificate:
    """Replace every row of gates by its largest, and check the finite automaton that the model then is.

    Blocks on which letters act as permutations are tracked exactly; of the others intervals are enough as long as no
    read-out depends on more. Where that does not suffice all blocks are tracked, which also finds a shortest word that
    is answered wrongly, and where these have too many states, with values that are near taken for one.

    Args:
        model: of BD-LRU and H-LRU layers.
        task: with a method `automaton()`, or an `Automaton`.
        max_states: reachable states after which a search is given up.
        shortest_length: answers to shorter words do not matter.

    Raises:
        ValueError: a model that is no finite automaton, or too few tokens for the task.
        NotImplementedError: a task that is none, or parts of a model that are not treated.

    Example:
        >>> from seqmix import SequenceModel
        >>> from seqmix.inspect import certify
        >>> from seqmix.tasks import WordProblemExamples
        >>> model = SequenceModel({"name": "bd-lru", "block_size": 2}, vocab_size=3, d_model=8)
        >>> certify(model, WordProblemExamples("Z2")).certified
        False
    """
    positive("certify", "max_states", max_states)
    plain = automaton_of(task)
    automaton = plain.from_length(shortest_length)
    network = Network.of(model)
    if automaton.vocab_size > len(network.embedding):
        raise ValueError(
            f"certify: model must know the {automaton.vocab_size} tokens of {plain.name}, "
            f"got vocab_size = {len(network.embedding)}"
        )
    tokens = np.flatnonzero((automaton.step >= 0).any(0))
    # What overflows in float64 has an infinite radius.
    with torch.no_grad(), np.errstate(over="ignore", invalid="ignore"):
        try:
            machine = Machine(network, tokens)
            letters = letters_of(plain)
            blocks = () if letters is None else block_reports(machine, letters)
            found = _search(machine, automaton, blocks, max_states, model)
        except Undecided as undecided:
            blocks, found = (), Refuted(None, f"{undecided}, at token {undecided.place}", 0)
    common: dict[str, Any] = {
        "blocks": blocks,
        "shortest_length": shortest_length,
        "task": plain.name,
        "task_fingerprint": plain.fingerprint(),
        "weights_fingerprint": weights_fingerprint(model),
    }
    if isinstance(found, Refuted):
        return Certificate(
            certified=False, reason=found.reason, counterexample=found.counterexample, states=found.states,
            tracked_blocks=network.layers[-1].n_blocks, margin=None, gap=None, safe_length=None, **common,
        )  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        gap, safe_length = _soft(found, automaton)
    return Certificate(
        certified=True, reason=None, counterexample=None, states=len(found.reached.states),
        tracked_blocks=len(_tracked(found.machine)), margin=float(found.low.min(initial=np.inf)), gap=gap,
        safe_length=safe_length, proof=_proof(found), **common,
    )  # fmt: skip


def automaton_of(task: Any) -> Automaton:
    """The automaton of a task or of its examples, or itself."""
    if isinstance(task, Automaton):
        return task
    if not callable(getattr(task, "automaton", None)):
        raise NotImplementedError(f"certify: {type(task).__name__} does not say what finite automaton it is")
    return task.automaton()


def _search(
    everything: Machine, automaton: Automaton, blocks: tuple[BlockReport, ...], max_states: int, model: SequenceModel
) -> Outcome | Refuted:
    network = everything.network
    n = network.layers[-1].n_blocks
    tracked = np.zeros(n, dtype=bool)
    if len(network.layers) > 1:
        return _exact(everything, automaton, max_states, model) or Refuted(None, _too_many(max_states), max_states)
    tracked[[report.block for report in blocks if report.carries]] = True
    outcome = _bounded(Machine(network, everything.tokens, tracked), automaton, max_states)
    if outcome is not None and (outcome.low > 0).all():
        return outcome
    exact = _exact(everything, automaton, max_states, model)
    return exact or _merged(everything, automaton, tracked, max_states)


def _merged(everything: Machine, automaton: Automaton, tracked: NDArray[np.bool_], limit: int) -> Outcome | Refuted:
    """Tell ever more written values apart, in those blocks first that move the read-outs most, until all are right."""
    blocks, budget = Blocks(everything, tracked), _SEARCHES * limit
    while budget > 0 and blocks.refine():
        machine = Machine(everything.network, everything.tokens, *blocks.merged())
        outcome = _bounded(machine, automaton, limit)
        if outcome is None:
            blocks.undo()
        elif (outcome.low > 0).all():
            return outcome
        budget -= limit if outcome is None else len(outcome.reached.states)
    return Refuted(None, _too_many(limit), limit)


def _too_many(limit: int) -> str:
    return f"more than {limit:,} states"


def _bounded(machine: Machine, automaton: Automaton, limit: int) -> Outcome | None:
    """All states of the tracked blocks, and read-outs under intervals for the others; None beyond the limit."""
    levels = list(explore(machine, automaton, limit))
    if not levels[-1].finished:
        return None
    points = Points(*map(np.concatenate, zip(*(level.points for level in levels), strict=True)))
    loose = loose_intervals(machine, levels[-1].inputs, levels[-1].first_inputs)
    outcome = Outcome(machine, levels[-1], points, loose, np.empty(0))
    return outcome._replace(low=_lowest(outcome, np.arange(len(points.after))))


def _lowest(outcome: Outcome, rows: NDArray[np.int64], drift: Any = None) -> Array:
    """Smallest margins (P,) of some points, less every doubt."""
    machine, states, points = outcome.machine, outcome.reached.states, outcome.points
    low = [np.empty(0)]
    for part in parts(rows, len(machine.network.head) + machine.network.layers[-1].size, _CELLS):
        value, radius = machine.read(
            states[points.after[part]],
            points.tokens[part],
            points.answers[part],
            outcome.loose.around(points.inputs[part]),
            drift,
        )
        low.append((value - radius).min(1))
    return np.concatenate(low)


def _exact(machine: Machine, automaton: Automaton, limit: int, model: SequenceModel) -> Outcome | Refuted | None:
    """All states of all blocks, read level by level; None beyond the limit without a wrong answer."""
    kept, lows = [], []
    for reached in explore(machine, automaton, limit):
        points = reached.points
        none = loose_intervals(machine, reached.inputs, reached.first_inputs)
        outcome = Outcome(machine, reached, points, none, np.empty(0))
        low = _lowest(outcome, np.arange(len(points.after)))
        if not (low > 0).all():
            return _refute(outcome, low, model)
        kept.append(points)
        lows.append(low)
    if not reached.finished:
        return None
    return Outcome(machine, reached, Points(*map(np.concatenate, zip(*kept, strict=True))), none, np.concatenate(lows))


def _refute(outcome: Outcome, low: Array, model: SequenceModel) -> Refuted:
    """The first wrong read-out of a level, or the first that is within rounding error."""
    machine, reached, points = outcome.machine, outcome.reached, outcome.points
    rows = np.flatnonzero(~(low > 0))
    states, tokens, answers = reached.states[points.after[rows]], points.tokens[rows], points.answers[rows]
    value, radius = machine.read(states, tokens, answers)
    wrong = np.flatnonzero((value + radius < 0).any(1))
    which = wrong[0] if len(wrong) else 0
    row = rows[which]
    word = [*reached.word(int(points.before[row])), int(points.tokens[row])]
    if not len(wrong):
        return Refuted(None, f"after the word {word} two answers are equal within rounding error", len(reached.states))
    parameter = next(model.parameters())
    training = model.training
    logits = model.eval()(torch.tensor([word], device=parameter.device))[0][0, -1]
    model.train(training)
    says, right = int(value[which].argmin()), int(answers[which])
    counterexample = CounterExample(word, says, right, int(logits.argmax()), shortest=True)
    return Refuted(counterexample, f"after the word {word} it answers {says} instead of {right}", len(reached.states))


def _soft(outcome: Outcome, automaton: Automaton) -> tuple[float | None, float | int | None]:
    """The largest gap between soft and hard gates, and the length up to which soft gates are proved right."""
    if len(outcome.machine.network.layers) > 1:
        return None, None  # a deeper layer's gates move with the error of the layers below: not derived
    network, reached = outcome.machine.network, outcome.reached
    choices = outcome.machine.known[0].choices
    drift = drift_of(network.layers[0], choices, network.rounding, reached.inputs, reached.first_inputs)
    if not len(outcome.low):
        return drift.gap, float("inf")

    def holds(steps: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return _lowest(outcome, rows, drift.after(steps, _SPARE)) > 0

    steps = longest(holds, len(outcome.low), _CELLS // network.layers[0].size)
    if steps == FOREVER and drift.none:
        return drift.gap, float("inf")
    # 1 + steps tokens, of which a BOS counts in no length; below zero not even the first token is safe.
    return drift.gap, max(0, steps + 1 - (automaton.bos is not None))


def _tracked(machine: Machine) -> list[int]:
    layer = machine.network.layers[-1]
    return sorted({int(column) // layer.m for column in machine.columns[-1]})


def _proof(outcome: Outcome) -> Proof:
    machine, reached, classes = outcome.machine, outcome.reached, outcome.machine.classes
    states = np.concatenate([reached.task[:, None], reached.states], 1)
    origins = [rows.tolist() for rows in machine.origins]
    low, high = outcome.loose.low.tolist(), outcome.loose.high.tolist()
    tracked = _tracked(machine)
    if classes is None:
        return Proof(tracked, states.tolist(), origins, low, high)
    number, ends = classes.number[:, machine.columns[-1]].tolist(), [classes.low.tolist(), classes.high.tolist()]
    return Proof(tracked, states.tolist(), origins, low, high, number, ends)
