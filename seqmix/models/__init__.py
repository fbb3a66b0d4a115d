"""Models around mixers: embedding, residual blocks, head."""

from typing import TYPE_CHECKING

from seqmix._lazy import lazy

if TYPE_CHECKING:
    from seqmix.models.autoencoder import AutoencoderHead
    from seqmix.models.bidirectional import Bidirectional
    from seqmix.models.block import Block, SwiGLU
    from seqmix.models.classification import ClassificationHead
    from seqmix.models.denoiser import Denoiser
    from seqmix.models.diffusion import GIDD
    from seqmix.models.generation import generate
    from seqmix.models.intensity import IntensityEmbedding
    from seqmix.models.sequence_model import SequenceModel, SequenceModelState

__all__ = [  # the reference reads it, too
    "GIDD",
    "AutoencoderHead",
    "Bidirectional",
    "Block",
    "ClassificationHead",
    "Denoiser",
    "IntensityEmbedding",
    "SequenceModel",
    "SequenceModelState",
    "SwiGLU",
    "generate",
]

__getattr__, __dir__ = lazy(__name__)
