"""Training with Lightning: the module, callbacks, and the command line. Needs `pip install 'seqmix[train]'`.

`SequenceLearner` loads when first used, because config files are listed and read without Lightning.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.training.module import SequenceLearner

__all__ = ["SequenceLearner"]  # the reference reads it, too

__getattr__, __dir__ = lazy(__name__)
