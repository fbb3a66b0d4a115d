"""Models around mixers: embedding, residual blocks, head."""

from seqmix.models.block import Block, SwiGLU
from seqmix.models.generation import generate
from seqmix.models.sequence_model import SequenceModel, SequenceModelState

__all__ = ["Block", "SequenceModel", "SequenceModelState", "SwiGLU", "generate"]
