"""`dplr_delta_rule`: the recurrence under KDA, RWKV-7 and Gated DeltaNet-2."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._matrix_state import matrix_op, run
from seqmix.kernels.dplr_delta_rule import reference

OP = "dplr_delta_rule"


@handed_on
def dplr_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    log_w: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = (Diag(e^{w_t}) + a_t b_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, for every head on its own.

    A decay of every key's own, and a change of rank one: b reads the state as it was before the decay, a writes what
    was read. Nothing is scaled or normalised. `delta_rule` is the case a = -beta k, b = e^{g} k, k = beta k with one
    decay for each head, and the faster one there. A transition contracts where a = -beta k and b = e^{w} k with
    |k| = 1, beta in [0, 2] and w <= 0; with other pairs states may grow.

    Args:
        q, k: queries and keys (B, T, H, K).
        v: values (B, T, H, V).
        a, b: what is written along and what is read along (B, T, H, K).
        log_w: logarithm of the decay of each key (B, T, H, K). It, a and b may be float32 beside low-precision values.
        initial_state: S_0 (S, H, K, V), zeros if None; its leading size is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        o (B, T, H, V) in the type of v, and the final state (S, H, K, V) in float32, float64 for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Peng et al. 2025 (2503.14456), eq. 15-17; Kimi Team 2025 (2510.26692), eq. 1.

    Example:
        >>> import torch
        >>> from seqmix.kernels import dplr_delta_rule
        >>> one = torch.ones(1, 3, 1, 1)
        >>> o, _ = dplr_delta_rule(one, one, one, -0.5 * one, one, 0 * one)
        >>> o.flatten().tolist()  # each step keeps 1 - .5 of the state
        [1.0, 1.5, 1.75]
    """
    given = {"q": q, "k": k, "v": v, "a": a, "b": b, "log_w": log_w}
    for name, tensor in given.items():
        checks.check_tensor(OP, name, tensor, "B T H V" if name == "v" else "B T H K")
        if name == "v":
            checks.check_shape(OP, "v", v, (*q.shape[:3], v.shape[3]), "batch, time and heads of q")
        else:
            checks.check_shape(OP, name, tensor, q.shape, "as q")
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{OP}: {name} must hold at least one head of width 1, got shape {tuple(tensor.shape)}")
    return run(OP, __package__, reference.dplr_delta_rule, _dplr_delta_rule, given, initial_state, cu_seqlens, backend)


_dplr_delta_rule = matrix_op(OP, __package__, "q k v a b log_w")
