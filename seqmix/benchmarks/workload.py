"""What `seqmix bench training` trains."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """A model, its batch, and for how many steps it is trained."""

    n_layers: int = 12
    d_model: int = 768
    batch: int = 8
    length: int = 2048
    steps: int = 200
    vocab_size: int = 256

    @classmethod
    def on_cpu(cls) -> "Workload":
        """Two layers, for a step of some tenths of a second."""
        return cls(n_layers=2, d_model=256, batch=4, length=512, steps=10)

    def with_sizes(self, sizes: Mapping[str, int | None]) -> "Workload":
        """The same but for sizes that are given."""
        return replace(self, **{name: size for name, size in sizes.items() if size is not None})
