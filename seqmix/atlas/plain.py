"""Models about which safe lengths are proved: one layer, and around it nothing that proofs do not know."""

from typing import Any

import torch
from torch import Tensor, nn

from seqmix.models import SequenceModel

__all__ = ["is_plain", "words_through"]


def is_plain(model: SequenceModel) -> bool:
    """Whether a model is one layer without MLP, GLU or hooks, of one type of floats, between an embedding of tokens,
    layer norms without bias and a head that answers at every token."""
    block: Any = model.blocks[0]
    alone = model.n_layers == 1 and block.mlp is None and block.glu is None and not model.bidirectional
    norms = all(type(norm) is nn.LayerNorm and norm.bias is None for norm in (block.mixer_norm, model.norm))
    ends = model.head_name == "language" and type(model.embedding) is nn.Embedding
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return alone and norms and ends and not hooked and dtypes in ({torch.float32}, {torch.float64})


def words_through(mixer: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Words of 40 random letters (8, 40), as rows of `inputs` (L + 1, D), whose last is the BOS, and what a layer says
    at each of their letters behind a BOS, (8, 40, D): what maps that were found of its single letters must say, too."""
    random = torch.Generator().manual_seed(0)
    words = torch.randint(len(inputs) - 1, (8, 40), generator=random)
    begun = torch.cat([words.new_full((8, 1), len(inputs) - 1), words], 1)
    return words, mixer(inputs[begun])[0][:, 1:]
