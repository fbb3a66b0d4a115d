"""`block_scan` and `gated_block_scan`: recurrences with a small dense matrix per block (BD-LRU, dense RNNs)."""

from collections.abc import Callable

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._gated_scan import gated_op, gated_scan
from seqmix.kernels._handing import handed_on
from seqmix.kernels.block_scan import reference


@handed_on
def block_scan(
    a: Tensor,
    x: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = A_t h_{t-1} + x_t, with A_t block-diagonal: N blocks of size m x m.

    Args:
        a: transitions (B, T, N, m, m); row i of a block makes output i.
        x: input (B, T, N, m).
        initial_state: h_0 (S, N, m), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        h (B, T, N, m) in the type of x, and the final state (S, N, m) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Dubinin, Orvieto, Effenberger 2026 (2602.12021); adjoint s_t = dh_t + A_{t+1}^T s_{t+1}.

    Example:
        >>> import torch
        >>> from seqmix.kernels import block_scan
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 1, 2, 2)
        >>> h, _ = block_scan(swap, torch.zeros(1, 3, 1, 2), initial_state=torch.tensor([[[1.0, 2.0]]]))
        >>> h[0, :, 0].tolist()
        [[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]]
    """
    checks.check_tensor("block_scan", "x", x, "B T N m")
    checks.check_tensor("block_scan", "a", a, "B T N m m")
    checks.check_shape("block_scan", "a", a, (*x.shape, x.shape[-1]), "as x, and the block size m")
    return _scan("block_scan", reference.block_scan, {"a": a, "x": x}, initial_state, cu_seqlens, backend)


@handed_on
def gated_block_scan(
    logits: Tensor,
    v: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """[A_t, g_t] = softmax(logits_t), h_t = A_t h_{t-1} + g_t v_t; A is never written to memory.

    Args:
        logits: (B, T, N, m, m + 1): for every row of a block m recurrent slots and, last, its input gate.
        v: values (B, T, N, m).
        initial_state: h_0 (S, N, m), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        h (B, T, N, m) in the type of v, and the final state (S, N, m) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: BD-LRU, Dubinin, Orvieto, Effenberger 2026 (2602.12021).

    Example:
        >>> import torch
        >>> from seqmix.kernels import gated_block_scan
        >>> h, _ = gated_block_scan(torch.zeros(1, 2, 1, 1, 2), torch.ones(1, 2, 1, 1))
        >>> h.flatten().tolist()
        [0.5, 0.75]
    """
    checks.check_tensor("gated_block_scan", "v", v, "B T N m")
    checks.check_tensor("gated_block_scan", "logits", logits, "B T N m m+1")
    expected = (*v.shape, v.shape[-1] + 1)
    checks.check_shape("gated_block_scan", "logits", logits, expected, "as v, and m + 1 slots")
    tensors = {"logits": logits, "v": v}
    return _scan("gated_block_scan", reference.gated_block_scan, tensors, initial_state, cu_seqlens, backend)


def _scan(
    op: str, reference: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor],
    initial_state: Tensor | None, cu_seqlens: Tensor | None, backend: str | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _, (name, values) = tensors.items()
    if 0 in values.shape[2:]:
        raise ValueError(f"{op}: {name} must hold at least one block of size m >= 1, got {tuple(values.shape)}")
    shape = tuple(values.shape[2:])
    return gated_scan(
        op, __package__, reference, _block_scan, tensors, "S N m", shape, initial_state, cu_seqlens, backend
    )


_block_scan = gated_op("block_scan", __package__)
