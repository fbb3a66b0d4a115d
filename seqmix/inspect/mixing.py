"""`mixing_matrix` and `linear_form`, for every layer whose form is known."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from seqmix.kernels.checks import describe
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.forms import LinearForm

__all__ = ["linear_form", "mixing_matrix", "register_linear_form"]

F = TypeVar("F", bound=Callable[[Any, Tensor], LinearForm])


def linear_form(layer: TokenMixer, x: Tensor) -> LinearForm:
    """The linear map that `layer` is on x (B, T, d_model), its gates given: values, matrix, and what is made of it.

    The parts are those of `seqmix.mixers.forms`, where the terms are explained; it starts from an empty state.
    A mixer of your own defines `linear_form(x)`; that of somebody else is given one by `register_linear_form`.

    Raises:
        ValueError: a layer that is not linear in its values (`lstm`), an x that does not fit.

    Example:
        >>> import torch
        >>> from seqmix import Attention
        >>> from seqmix.inspect import linear_form
        >>> layer, x = Attention(16, n_heads=2), torch.randn(3, 5, 16)
        >>> form = linear_form(layer, x)
        >>> torch.allclose(form.output(form.read()), layer(x)[0], atol=1e-5)
        True
    """
    if not isinstance(layer, TokenMixer):
        raise ValueError(f"linear_form: layer must be a TokenMixer, got a {type(layer).__name__}")
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[-1] != layer.d_model or 0 in x.shape:
        raise ValueError(
            f"linear_form: x must have shape (B, T, d_model = {layer.d_model}) and hold a token, got {describe(x)}"
        )
    return layer.linear_form(x)


def register_linear_form(mixer: type[TokenMixer]) -> Callable[[F], F]:
    """`@register_linear_form(TheirMixer)` over a function of (layer, x (B, T, d_model)) that returns a `LinearForm`.

    It becomes the method `linear_form` of that class, and of the classes beneath it that have none of their own.
    """

    def register(form: F) -> F:
        mixer.linear_form = form  # type: ignore[assignment, method-assign]
        return form

    return register


def mixing_matrix(layer: TokenMixer, x: Tensor) -> Tensor:
    """M of `layer` on x (B, T, d_model), with o_t = sum_{s <= t} M[t, s] v_s for its values v.

    Exact, from an empty state: norms and output gates are not in it; input gates, positions and the direct path of a
    state space (D u_t) are. It takes one pass over time and memory for T^2 blocks. See `linear_form` for v and for
    what becomes of o.

    Returns:
        (B, H, T, T) where values are multiplied by numbers: a matrix for each head of `attention`, `gla`, `mamba-2`,
        `mamba-3` and `deltanet`, for each channel of `lru` (complex), `rg-lru` and `mamba`.
        (B, H, T, T, O, I) where they are multiplied by O x I blocks: m x m in each block of `bd-lru`; m x 1 in each
        channel of `h-lru`, a row for each lag that is read; 1 x n in each head of `deltanet` with n Householder steps;
        N x N in `dense` and `fp-rnn` and d_inner x d_inner in `fp-mamba`, all with H = 1. Gates of fp layers, and the
        deviations of `fp-mamba`'s norms, are those at the fixed point.

    Raises:
        ValueError: a layer that is not linear in its values (`lstm`), an x that does not fit.

    Example:
        >>> import torch
        >>> from seqmix import BDLRU, Attention
        >>> from seqmix.inspect import mixing_matrix
        >>> mixing_matrix(Attention(16, n_heads=2), torch.randn(3, 5, 16)).shape
        torch.Size([3, 2, 5, 5])
        >>> mixing_matrix(BDLRU(16, block_size=4), torch.randn(3, 5, 16)).shape
        torch.Size([3, 4, 5, 5, 4, 4])
    """
    matrix = linear_form(layer, x).matrix()
    return matrix[..., 0, 0] if matrix.shape[-2:] == (1, 1) else matrix
