"""seqmix: token mixers for sequence models, exact, fast on a laptop and on a GPU, compared honestly.

Everything public is imported from here; each name loads its module when first used, so that `import seqmix` costs
next to nothing beyond `import torch`.
"""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seqmix.mixers import ModuleMixer, SelectiveRoPE, TokenMixer, create_mixer, list_mixers, register_mixer
    from seqmix.models import SequenceModel
    from seqmix.optim import parameter_groups

__getattr__, __dir__ = lazy(
    __name__,
    (
        "atlas",
        "benchmarks",
        "inspect",
        "kernels",
        "leaderboard",
        "mixers",
        "models",
        "optim",
        "tasks",
        "testing",
        "training",
    ),
)
