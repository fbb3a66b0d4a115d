"""The atlas: what a layer cannot do, what it can, with written weights, what it learns, and what is proved.

Each name loads its module when first used.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.atlas.cells import AUTOMATA, MIXERS, cell
    from seqmix.atlas.prediction import Prediction, predict
    from seqmix.atlas.written import Check, Construction, check, construct

__all__ = ["AUTOMATA", "MIXERS", "Check", "Construction", "Prediction", "cell", "check", "construct", "predict"]

__getattr__, __dir__ = lazy(__name__)
