"""`delta_rule`: the recurrence under DeltaNet, Gated DeltaNet and DeltaProduct."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._matrix_state import check_heads, matrix_op, run
from seqmix.kernels.delta_rule import reference

OP = "delta_rule"


@handed_on
def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_g: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) e^{g_t} S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t, for every head on its own.

    Nothing is scaled or normalised: with keys of length one the transition contracts for beta in [0, 2], projects at
    1 and reflects at 2; with longer keys it may grow.

    Args:
        q, k: queries and keys (B, T, H, K).
        v: values (B, T, H, V).
        beta: strength of the write (B, T, H).
        log_g: logarithm of a decay of the whole state (B, T, H), applied before the write; none if None. It and beta
            may be float32 beside low-precision values.
        initial_state: S_0 (S, H, K, V), zeros if None; its leading size is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        o (B, T, H, V) in the type of v, and the final state (S, H, K, V) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Yang et al. 2024 (2406.06484), eq. 2; with a decay Yang et al. 2024 (2412.06464), eq. 10.

    Example:
        >>> import torch
        >>> from seqmix.kernels import delta_rule
        >>> one = torch.ones(1, 3, 1, 1)
        >>> o, _ = delta_rule(one, one, torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1), torch.ones(1, 3, 1))
        >>> o.flatten().tolist()  # at beta = 1 a value replaces the one before
        [1.0, 2.0, 3.0]
    """
    check_heads(OP, q, k, v)
    checks.check_tensor(OP, "beta", beta, "B T H")
    checks.check_shape(OP, "beta", beta, q.shape[:3], "batch, time and heads of q")
    if log_g is not None:
        checks.check_tensor(OP, "log_g", log_g, "B T H")
        checks.check_shape(OP, "log_g", log_g, q.shape[:3], "batch, time and heads of q")
    tensors = {"q": q, "k": k, "v": v, "beta": beta, "log_g": log_g}
    return run(
        OP, __package__, reference.delta_rule, _delta_rule, tensors, initial_state, cu_seqlens, backend, _with_decays
    )


def _with_decays(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None) -> tuple[Tensor, ...]:
    """One form for the kernels: (B, T, H, G) with G = 1, or 0 where nothing decays."""
    return q, k, v, beta, q.new_empty(*q.shape[:3], 0) if log_g is None else log_g[..., None]


_delta_rule = matrix_op(OP, __package__, "q k v beta log_g")
