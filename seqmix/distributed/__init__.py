"""Models whose sequences are longer than one process holds."""

from seqmix.distributed.parallel import sequence_parallel
from seqmix.distributed.split import split_sequences

__all__ = ["sequence_parallel", "split_sequences"]
