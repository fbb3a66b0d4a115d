"""Training with Lightning: the module, callbacks, and the command line. Needs `pip install 'seqmix[train]'`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqmix.training.module import SequenceLearner

__all__ = ["SequenceLearner"]


def __getattr__(name: str) -> Any:
    # Lazy, because config files are listed and read without Lightning.
    if name == "SequenceLearner":
        from seqmix.training.module import SequenceLearner

        return SequenceLearner
    raise AttributeError(f"module 'seqmix.training' has no attribute {name!r}")
