"""`gated_linear_attention`: the recurrence under GLA, Mamba-2, Mamba-3, retention and plain linear attention."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._matrix_state import check_heads, matrix_op, run
from seqmix.kernels.gated_linear_attention import reference

OP = "gated_linear_attention"


@handed_on
def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, for every head on its own.

    Nothing is scaled or normalised. Decays of any strength are exact: no cumulative product is ever divided by. The
    backward pass recomputes the states from a few that the forward pass keeps.

    Args:
        q, k: queries and keys (B, T, H, K).
        v: values (B, T, H, V).
        log_g: logarithm of the decay, for every key channel (B, T, H, K) or for every head (B, T, H); no decay if
            None. It may be float32 beside low-precision values.
        initial_state: S_0 (S, H, K, V), zeros if None; its leading size is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        o (B, T, H, V) in the type of v, and the final state (S, H, K, V) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Yang et al. 2023 (2312.06635), eq. 3; Katharopoulos et al. 2020 (2006.16236) without decay.

    Example:
        >>> import torch
        >>> from seqmix.kernels import gated_linear_attention
        >>> one = torch.ones(1, 3, 1, 1)
        >>> o, _ = gated_linear_attention(one, one, one, torch.full((1, 3, 1), 0.5).log())
        >>> [round(value, 4) for value in o.flatten().tolist()]
        [1.0, 1.5, 1.75]
    """
    check_heads(OP, q, k, v)
    if log_g is not None:
        per_head = isinstance(log_g, Tensor) and log_g.ndim == 3
        checks.check_tensor(OP, "log_g", log_g, "B T H" if per_head else "B T H K")
        checks.check_shape(OP, "log_g", log_g, q.shape[: log_g.ndim], "as q, the last axis optional")
    tensors = {"q": q, "k": k, "v": v, "log_g": log_g}
    return run(
        OP, __package__, reference.gated_linear_attention, _gated_linear_attention, tensors, initial_state, cu_seqlens,
        backend, _with_decays,
    )  # fmt: skip


def _with_decays(q: Tensor, k: Tensor, v: Tensor, log_g: Tensor | None) -> tuple[Tensor, ...]:
    """One form for the kernels: (B, T, H, G) with G = K, 1, or 0 where nothing decays."""
    decays = q.new_empty(*q.shape[:3], 0) if log_g is None else log_g if log_g.ndim == 4 else log_g[..., None]
    return q, k, v, decays


_gated_linear_attention = matrix_op(OP, __package__, "q k v log_g")
