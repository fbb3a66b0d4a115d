"""How far back a gradient reaches: the norm of d y_T / d x_{T-k} for every lag k."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seqmix.kernels.checks import describe
from seqmix.mixers.base import TokenMixer
from seqmix.models import SequenceModel

__all__ = ["gradient_norms"]

_NUMBERS = 1 << 24  # in the copies of x that go through a layer at once


def gradient_norms(module: nn.Module, x: Tensor) -> Tensor:
    """The norm (B, T) of the Jacobian d y_T / d x_{T-k} at lag k = 0 .. T - 1, through values and gates alike.

    The norm is the largest singular value: by how much a small change of x_{T-k} can change y_T. It is exact, one row
    of the Jacobian for each number of y_T; rows go through the layer side by side, as sequences of one batch.

    Args:
        module: a `TokenMixer` with x (B, T, d_model), or a `SequenceModel` with tokens x (B, T): y are its logits then
            (at the last position, or the answer of its head), and x the embeddings.
        x: floating, or int64 tokens.

    Raises:
        ValueError: another module, or an x that does not fit.

    Example:
        >>> import torch
        >>> from seqmix import LRU
        >>> from seqmix.inspect import gradient_norms
        >>> gradient_norms(LRU(16), torch.randn(3, 50, 16)).shape
        torch.Size([3, 50])
    """
    if isinstance(module, SequenceModel):
        function, x = _of_embeddings(module, x)
    elif isinstance(module, TokenMixer):
        if not isinstance(x, Tensor) or x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"gradient_norms: x must have shape (B, T, d_model) and hold a token, got {describe(x)}")
        layer = module
        function = lambda x: layer(x)[0][:, -1]  # noqa: E731
    else:
        raise ValueError(f"gradient_norms: module must be a TokenMixer or SequenceModel, got {type(module).__name__}")
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        return torch.cat([_norms(function, sequence) for sequence in x.detach().split(1)])
    finally:
        for part, mode in training.items():
            part.training = mode


def _norms(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Of one sequence, (1, T)."""
    with torch.no_grad():
        outputs = function(x).shape[-1]
    at_once = max(1, min(outputs, _NUMBERS // x.numel()))
    gram = x.new_zeros(*x.shape[1:], x.shape[2], dtype=torch.float64 if x.device.type != "mps" else torch.float32)
    for rows in torch.arange(outputs, device=x.device).split(at_once):
        copies = x.expand(len(rows), -1, -1).clone().requires_grad_()
        with torch.enable_grad():
            chosen = function(copies).gather(1, rows[:, None]).sum()
        (jacobian,) = torch.autograd.grad(chosen, copies, materialize_grads=True)  # (rows, T, d)
        jacobian = jacobian.to(gram.dtype)
        gram = gram + torch.einsum("rti,rtj->tij", jacobian, jacobian)
    # The largest eigenvalue of J^T J is as exact as from J; the rounding error of a zero may be negative.
    squared = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0)
    return squared.sqrt().flip(0).to(x.dtype).unsqueeze(0)


def _of_embeddings(model: SequenceModel, tokens: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The last answer as a function of embeddings, and the embeddings (B, T, d_model)."""
    with torch.no_grad():
        model(tokens)  # tells what is wrong with tokens
        embeddings = model.embedding(tokens)

    def answer(x: Tensor) -> Tensor:
        hook = model.embedding.register_forward_hook(lambda module, args, output: x)
        try:
            return model(tokens.new_zeros(x.shape[:2]))[0][:, -1]
        finally:
            hook.remove()

    return answer, embeddings
