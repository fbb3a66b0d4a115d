"""What tables call Gated DeltaNet (2412.06464) and DeltaProduct (2502.10297): `deltanet` with the options of each.

Gated DeltaNet decays the state of each head once a token and gates what it reads; DeltaProduct takes two Householder
steps a token. Equations, parallel form and state: `deltanet`.
"""

import torch

from seqmix.mixers.deltanet import DeltaNet
from seqmix.mixers.registry import register_mixer


@register_mixer("gated-deltanet", description="Delta rule with a decay for each head.", source="2412.06464")
class GatedDeltaNet(DeltaNet):
    """`DeltaNet` that decays and gates what it reads; published widths are `expand_k=0.75` and `expand_v=1.5`.

    Arguments, shapes and errors as `DeltaNet`.

    Example:
        >>> from seqmix import GatedDeltaNet
        >>> GatedDeltaNet(d_model=64, eigenvalues="signed").gated
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        eigenvalues: str = "positive",
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        output_gate: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            d_model, n_heads, 1, eigenvalues, gated=True, expand_k=expand_k, expand_v=expand_v, d_conv=d_conv,
            output_gate=output_gate, device=device, dtype=dtype,
        )  # fmt: skip


@register_mixer("deltaproduct", description="Two signed Householder steps a token.", source="2502.10297")
class DeltaProduct(DeltaNet):
    """`DeltaNet` with `n_householder` steps a token, signed by default.

    Arguments, shapes and errors as `DeltaNet`.

    Example:
        >>> from seqmix import DeltaProduct
        >>> DeltaProduct(d_model=64, n_householder=3).eigenvalues
        'signed'
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        n_householder: int = 2,
        eigenvalues: str = "signed",
        gated: bool = False,
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        output_gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            d_model, n_heads, n_householder, eigenvalues, gated=gated, expand_k=expand_k, expand_v=expand_v,
            d_conv=d_conv, output_gate=output_gate, device=device, dtype=dtype,
        )  # fmt: skip
