"""The model around a written layer: tokens in, vectors of a state out, and a linear read-out.

The embedding of token x is (e_x, -e_x, 0, 0): its mean is zero, so that the norm makes c (e_x, -e_x, 0, 0) of it with
c = (2 / D + 1e-5)^(-1/2), and a projection that is F / c on the first V columns gives the column x of F. What a layer
says, y (R,), comes out as (0, 0, y, -y), so that the last norm only scales. The head is G y + beta.

Letters: V tokens, R numbers that are read, D = 2 V + 2 R (and more, where heads must divide it).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqmix.models import SequenceModel

__all__ = ["Frame", "Place", "inverse_silu", "placed"]

_NEVER = -1e4  # logit of a token that is no answer, in units of those that are


class Place(NamedTuple):
    """Where a layer of a deeper model finds its tokens and says what it says: D, the first columns of both, the size of
    what is said, and c."""

    width: int
    tokens: int
    outputs: int
    size: float
    scale: float


def placed(vocab_size: int, reads: int, multiple: int = 1) -> Place:
    """The place of an only layer, as above; D is a multiple."""
    width = -(-2 * (vocab_size + reads) // multiple) * multiple
    return Place(width, 0, 2 * vocab_size, 1.0, (2 / width + 1e-5) ** -0.5)


class Frame:
    """Sizes and projections; see above.

    Args:
        vocab_size: V.
        reads: R.
        place: where they stand.
    """

    def __init__(self, vocab_size: int, reads: int, place: Place) -> None:
        self.vocab_size, self.reads = vocab_size, reads
        self.place, self.width, self.scale = place, place.width, place.scale

    def tokens(self, table: Any) -> Tensor:
        """The weight (n, D) of a projection that gives the column x of `table` (n, V) for token x."""
        weight = torch.zeros(len(table), self.width, dtype=torch.float64)
        begin = self.place.tokens
        weight[:, begin : begin + self.vocab_size] = torch.as_tensor(np.asarray(table, dtype=np.float64)) / self.scale
        return weight

    def outputs(self, table: Any) -> Tensor:
        """The weight (D, n) of a projection that says y = `table` (R, n) times a state (n,)."""
        rows = torch.as_tensor(np.asarray(table, dtype=np.float64)) * self.place.size
        weight = torch.zeros(self.width, rows.shape[1], dtype=torch.float64)
        begin = self.place.outputs
        weight[begin : begin + self.reads], weight[begin + self.reads : begin + 2 * self.reads] = rows, -rows
        return weight

    def model(self, mixer: dict[str, Any], logits: Any, constants: Any, letters: Any = None) -> SequenceModel:
        """A model of one layer, all of whose mixer's parameters are zero, norms apart.

        logits (V, R) and constants (V,) are G and beta, with -inf where a token is no answer; letters (V, V) are
        added to the logits, by answer and last token.
        """
        model = SequenceModel(mixer, self.vocab_size, self.width, 1, mlp_ratio=0)
        v, r, (_, first, said, size, _) = self.vocab_size, self.reads, self.place
        with torch.no_grad():
            for parameter in model.mixers[0].parameters():
                parameter.zero_()
            parts: Any = (model.embedding.weight, getattr(model.head, "weight", None))
            embedding, head = (part.zero_() for part in parts)
            embedding[:, first : first + v], embedding[:, first + v : first + 2 * v] = torch.eye(v), -torch.eye(v)
            g = torch.as_tensor(np.asarray(logits, dtype=np.float64)) / (2 * size)
            head[:, said : said + r], head[:, said + r : said + 2 * r] = g, -g
            told = np.asarray(constants, dtype=np.float64)
            biggest = max(
                1.0, float(g.abs().max()) * size if r else 0.0, float(np.abs(told[np.isfinite(told)]).max(initial=0))
            )
            table = np.where(np.isfinite(told), told, _NEVER * biggest)[:, None] + np.zeros((v, v))
            if letters is not None:
                table = table + np.asarray(letters)
            head[:, first : first + v] = torch.as_tensor(table)
        return model.eval()


def write(parameter: Any, values: Any) -> None:
    """Put numbers into a parameter."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.asarray(values, dtype=np.float64)).reshape(parameter.shape))


def inverse_silu(values: Any) -> NDArray[np.float64]:
    """p with p sigmoid(p) = values, each at least -0.27, on the branch where silu increases."""
    target = np.asarray(values, dtype=np.float64)
    low, high = np.full(target.shape, -1.278), np.maximum(target, 0) + 1.3
    for _ in range(200):
        middle = (low + high) / 2
        below = middle / (1 + np.exp(-middle)) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(target == 0, 0.0, (low + high) / 2)


def last_tap(weight: Any) -> None:
    """A causal convolution (C, ..., W), whose taps are zero, that hands on the last token alone."""
    write(weight[..., -1], np.ones(weight.shape[:-1]))


def ones(norm: nn.Parameter) -> None:
    """A norm's weight back to one."""
    write(norm, np.ones(norm.shape))
