"""The atlas: what a layer cannot do, what it can, with written weights, what it learns, and what is proved.

Each name loads its module when first used.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.atlas.brackets import Bracket, horizon
    from seqmix.atlas.brackets_check import verify_bracket
    from seqmix.atlas.cells import AUTOMATA, MIXERS, cell
    from seqmix.atlas.prediction import Prediction, predict
    from seqmix.atlas.written import Check, Construction, check, closed, construct

__all__ = [
    "AUTOMATA",
    "MIXERS",
    "Bracket",
    "Check",
    "Construction",
    "Prediction",
    "cell",
    "check",
    "closed",
    "construct",
    "horizon",
    "predict",
    "verify_bracket",
]

__getattr__, __dir__ = lazy(__name__)
