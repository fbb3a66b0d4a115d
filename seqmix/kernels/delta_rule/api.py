"""`delta_rule`: the recurrence under DeltaNet, Gated DeltaNet and DeltaProduct."""

from functools import partial

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import in_chunks
from seqmix.kernels._chunked import matrix_recurrence
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, with_borders
from seqmix.kernels._sequences import over_sequences
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
    checks.check_tensor(OP, "q", q, "B T H K")
    checks.check_tensor(OP, "k", k, "B T H K")
    checks.check_tensor(OP, "v", v, "B T H V")
    checks.check_tensor(OP, "beta", beta, "B T H")
    checks.check_shape(OP, "k", k, q.shape, "as q")
    checks.check_shape(OP, "v", v, (*q.shape[:3], v.shape[3]), "batch, time and heads of q")
    checks.check_shape(OP, "beta", beta, q.shape[:3], "batch, time and heads of q")
    for name, tensor in (("q", q), ("v", v)):
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{OP}: {name} must hold at least one head of width 1, got shape {tuple(tensor.shape)}")
    if log_g is not None:
        checks.check_tensor(OP, "log_g", log_g, "B T H")
        checks.check_shape(OP, "log_g", log_g, q.shape[:3], "batch, time and heads of q")
    given, result = {"q": q, "k": k, "v": v, "beta": beta, "log_g": log_g}, v.dtype
    backend, (q, k, v, beta, log_g), S0 = prepare(
        OP, __package__, given, "v", "S H K V", (*q.shape[2:], v.shape[3]), initial_state, cu_seqlens, backend
    )
    if backend == "reference":
        chunked = in_chunks(__package__, v.device)
        step = partial(matrix_recurrence, reference.delta_rule, chunked=chunked)
        gates = (beta,) if log_g is None else (beta, log_g)
        o, final = over_sequences(OP, step, (q, k, v, *gates), S0, cu_seqlens)
    else:
        # One form for the kernels: (B, T, H, G) with G = 1, or 0 where nothing decays.
        decays = q.new_empty(*q.shape[:3], 0) if log_g is None else log_g[..., None]
        o, final, _ = _delta_rule(q, k, v, beta, decays, S0, cu_seqlens, backend)
    return o.to(result), final


_delta_rule = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="q k v beta log_g initial_state",
    outputs="o final",
    extra="borders",
    fakes=with_borders(__package__, "v"),
    kept="q k v beta log_g initial_state borders",
)
