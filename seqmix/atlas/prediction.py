"""`predict`: what theorems and constructions say of a mixer and an automaton."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seqmix._checks import positive
from seqmix.atlas.constructions import plan
from seqmix.atlas.theorems import THEOREMS, Subject
from seqmix.atlas.traits import Mixer, Traits, mixer_of, traits_of
from seqmix.tasks.automata import IGNORE, Automaton, describe, named_automaton
from seqmix.tasks.automata.describe import core_monoid
from seqmix.tasks.automata.monoid import TooLargeError

__all__ = ["Prediction", "automaton_of", "predict"]

_TURNING = ("gla", "gateloop")  # layers that turn without decaying
_SUBJECTS: dict[str, Subject | None] = {}  # by fingerprint


class Prediction(NamedTuple):
    """What is known of one cell.

    verdict: `cannot`, `can` or `open`. theorem, says, source: what it follows from. hypotheses: what was found of this
    layer and this automaton, so that it applies. precision: in which arithmetic.
    """

    verdict: str
    theorem: str | None
    says: str
    source: str
    hypotheses: tuple[str, ...]
    precision: str


def automaton_of(task: Any) -> Automaton:
    """An automaton by name, of a task, or itself; one without a BOS gets one in front."""
    if isinstance(task, str):
        return named_automaton(task)
    plain = task if isinstance(task, Automaton) else task.automaton()
    if plain.bos is not None:
        return plain
    q, v = plain.step.shape
    step, output = np.full((q + 1, v + 1), -1), np.full((q + 1, v + 1), IGNORE)
    step[:q, :v], output[:q, :v], step[q, v] = plain.step, plain.output, plain.start
    return Automaton(plain.name, q, step, output, v)


def predict(mixer: str | Mapping[str, Any], automaton: Any, n_layers: int = 1) -> Prediction:
    """Whether a stack of a mixer's layers can follow an automaton, for words of every length.

    `cannot` is said where the hypotheses of a theorem hold, which are computed of the automaton's transition monoid,
    `can` where `construct` has weights for it, of one layer or two, or a paper says so of several, else `open`. What is
    not said of the mixer are the defaults of its constructor, but sizes are as large as is needed. In a layer an MLP
    changes nothing; two with written weights have one between them.

    Args:
        mixer: a registered name, or `{"name": ..., arguments}`.
        automaton: a name such as `"flip-flop"` or `"S3"`, an `Automaton`, or a task that is one.
        n_layers: how many layers.

    Raises:
        ValueError: an unknown mixer, argument or automaton.

    Example:
        >>> from seqmix.atlas import predict
        >>> predict("mamba", "Z2").verdict, predict("bd-lru", "S5").verdict
        ('cannot', 'can')
    """
    positive("predict", "n_layers", n_layers)
    chosen, task = mixer_of(mixer), automaton_of(automaton)
    traits, subject = traits_of(chosen), _subject(task)
    if subject is not None:
        for theorem in THEOREMS:
            if (
                theorem.layers in (0, n_layers)
                and theorem.applies(traits)
                and _breaks(theorem, traits, subject, n_layers)
            ):
                about = f"{chosen.title}: {traits.kind}" + (f", windows of {traits.window}" * (traits.window > 1))
                return Prediction(
                    "cannot", theorem.name, theorem.says, theorem.source, (about, theorem.condition), theorem.precision
                )
    found = plan(chosen, task, n_layers)
    if found is not None:
        needed = ("one layer does it", "two layers do it")[found.layers - 1]
        more = (f"{needed}, the others add nothing",) * (n_layers > found.layers)
        return Prediction("can", found.name, found.says, "construction", (found.states, *more), found.precision)
    if _turns_by_any_angle(chosen, traits) and subject is not None and _is_group(subject):
        length = subject.about.derived_length
        if length is not None and length <= n_layers:
            says = "layers of a complex diagonal, which tokens choose, make groups from abelian ones, one a layer"
            of = f"its letters are a group with a derived series of {length}, and there are {n_layers} layers"
            return Prediction("can", "abelian factors", says, "2603.01959", (of,), "finite precision")
    return Prediction("open", None, "no theorem that is implemented decides it", "", (), "")


def _breaks(theorem: Any, traits: Any, subject: Subject, n_layers: int) -> bool:
    try:
        return theorem.breaks(traits, subject, n_layers)
    except TooLargeError:
        return False


def _turns_by_any_angle(mixer: Mixer, traits: Traits) -> bool:
    """Whether a letter's angle may be any, and nothing that was given bounds how many there are."""
    other = (mixer.options.get("rope_options") or {}).keys() - {"d_conv", "bias"}
    return mixer.name in _TURNING and traits.kind == "complex" and not other and not mixer.sizes


def _is_group(subject: Subject) -> bool:
    letters = subject.monoid.letters
    return bool((np.sort(letters, 1) == np.arange(letters.shape[1])).all())


def _subject(automaton: Automaton) -> Subject | None:
    key = automaton.fingerprint()
    if key not in _SUBJECTS:
        found = core_monoid(automaton)
        _SUBJECTS[key] = None if found is None else Subject(describe(automaton), found[1])
    return _SUBJECTS[key]
