"""A small language model by bytes, trained in seconds: what studies of optimizers compare on.

The text is Python's own reference (`corpus: pydoc`), topic after topic; the last tenth is kept for validation. Two
layers of any mixer, d_model 48, sequences of 64 bytes; AdamW unless told, gradients clipped at 1, losses in nats.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.kernels import backend
from seqmix.models import SequenceModel
from seqmix.studies.computations._descent import descend
from seqmix.studies.computations._hessian import hessian_trace, largest_eigenvalue
from seqmix.tasks.documents import corpus_documents

__all__ = ["LENGTH", "curvature", "evaluate", "loss_of", "pieces", "small_model", "train", "validation_batch"]

LENGTH = 64


@cache
def _text() -> tuple[Tensor, Tensor]:
    text = "\n\n".join(document.text for document in corpus_documents("pydoc")).encode()
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]


def small_model(seed: int, mixer: str | Mapping[str, Any] = "attention", **arguments: Any) -> SequenceModel:
    """A model whose weights are those of the seed."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 256, "d_model": 48, "n_layers": 2} | arguments
    # Heads of 16, or four of 12.
    spec = {"name": "attention", "n_heads": max(4, sizes["d_model"] // 16)} if mixer == "attention" else mixer
    return SequenceModel(spec, **sizes)


def loss_of(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean loss of the next byte, nats; rows (B, LENGTH + 1)."""
    logits = model(rows[:, :-1])
    logits = logits[0] if isinstance(logits, tuple) else logits
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, seed: int, batch: int = 16, **arguments: Any
) -> None:
    """`descend` on random pieces of the text."""
    generator = torch.Generator().manual_seed(seed)
    descend(model, optimizer, lambda step: loss_of(model, pieces(batch, generator)), steps=steps, **arguments)


def pieces(batch: int, generator: torch.Generator) -> Tensor:
    """Random rows of the training text, (batch, LENGTH + 1)."""
    data = _text()[0]
    starts = torch.randint(len(data) - LENGTH, (batch, 1), generator=generator)
    return data[starts + torch.arange(LENGTH + 1)]


def validation_batch(count: int = 256) -> Tensor:
    """The same rows of the validation text at every call, (count, LENGTH + 1)."""
    data = _text()[1]
    starts = torch.linspace(0, len(data) - LENGTH - 2, count).long()[:, None]
    return data[starts + torch.arange(LENGTH + 1)]


def evaluate(model: nn.Module) -> float:
    """Validation loss, nats a byte."""
    with torch.no_grad():
        return float(loss_of(model, validation_batch()))


def curvature(model: nn.Module, power_steps: int, draws: int = 0) -> dict[str, float]:
    """Of the loss of two fixed batches: the largest `eigenvalue` of the Hessian, and its `trace` if there are draws."""
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(p.shape, generator=generator) for p in parameters]
    # SDPA's fused kernels have no second derivative, nor have compiled scans.
    with backend("reference"):
        gradients = torch.autograd.grad(loss_of(model, validation_batch(16)), parameters, create_graph=True)
        found = {"eigenvalue": largest_eigenvalue(gradients, parameters, start, power_steps)}
        return found | ({"trace": hessian_trace(gradients, parameters, 0, draws)} if draws else {})
