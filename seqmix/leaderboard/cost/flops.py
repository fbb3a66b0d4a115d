"""Floating point operations of a forward pass: torch's counter, and a formula for each of our own ops.

`torch.utils.flop_counter` counts matrix products, convolutions and attention, two operations for a multiply-add, and
nothing for what works element by element, exponentials and norms included. It sees one opaque op where a layer calls
one of our kernels; here stands what that one does, by the recurrence as written, not by how a kernel computes it (a
chunked one does more). Per token, in the letters of the kernels (N blocks of m; H heads of K keys and V values):

    op                             operations                      mixers
    diagonal_scan                  2 D, complex 8 D                lru, rg-lru, min-gru, min-lstm, s4d, s5, aussm,
                                                                   mesa (of K^2 numbers for each head)
    selected_gather_scan           2 K N^2 + 8 N                   pd-ssm, of K matrices in its dictionary
    block_scan                     2 N m^2, gated 2 N m (m + 1)    bd-lru, dense, slice
    higher_order_scan              2 N m, gated 2 N (m + 1)        h-lru
    selective_scan                 6 D N + 2 D                     mamba
    gated_linear_attention         5 H K V                         gla, hgrn-2, mamba-2, mamba-3, retnet,
                                                                   linear-attention, gateloop, mlstm, mesa
    delta_rule                     7 H K V for each reflection     deltanet
    dplr_delta_rule                9 H K V                         kda, gated-deltanet-2, rwkv-7
    causal_conv1d                  2 W D                           mamba, mamba-2, rg-lru, deltanet; others by option
    selective_rotary               13 for each pair of channels    retnet, gateloop; gla, attention, deltanet by option
    lstm                           8 N (D + N) + 4 N               lstm
    gru                            6 N (D + N) + 6 N               gru
    slstm                          H N (8 N + 7)                   slstm, of N units in a head
    m2rnn                          H K V (2 V + 7)                 m2rnn
    fixed_point_scan               I (2 R N + mixing + 3 N)        fp-rnn
    fixed_point_selective_scan     I (2 R D + mixing + 6 D N)      fp-mamba

Of each number of a matrix state a decay is one operation, an outer product with its sum two, a read-out two, and a
discretised decay one more. I counts applications of the fixed-point map (one where it is solved directly), R gates
that see the state, and `mixing` is 4 rank D for low-rank and 2 D (n1 + n2), n1 n2 = D, for Kronecker mixing.
Attention is counted as torch does on a GPU, and does not on a CPU: all T x T scores, masked or not; path and log-linear
are, too. A system of n equations takes 2/3 n^3 + 2 n^2 (mesa), a triangular one n^2 for each right-hand side (path).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seqmix.models import SequenceModel

__all__ = ["flops_per_token", "mean_iterations"]


def flops_per_token(model: SequenceModel, length: int, *, iterations: float = 1.0) -> float:
    """Of one forward pass over `length` tokens, head included, divided by them.

    Nothing is computed: shapes alone are followed, on a CPU whatever device the model is on.

    Args:
        model: its config is used, its numbers are not.
        length: tokens of the sequence; only attention's count for each depends on it.
        iterations: I of fixed-point layers, see `mean_iterations`.

    Raises:
        ValueError: `length` is below one.
        NotImplementedError: a layer of the model needs numbers or a device, not shapes alone.

    Example:
        >>> from seqmix.models import SequenceModel
        >>> mixer = {"name": "bd-lru", "block_size": 2}
        >>> flops_per_token(SequenceModel(mixer, vocab_size=3, d_model=16, mlp_ratio=0), 8)
        2752.0
    """
    if length < 1:
        raise ValueError(f"flops_per_token: length must be at least 1, got {length!r}")
    # Constructors compute with numbers, so the copy is a real one; its forward pass is not.
    copy = type(model)(**model.config).eval()
    mapping: dict[Any, Any] = _mapping(iterations)
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), counter:
            x = copy.norm(_through(copy.blocks, torch.empty(1, length, copy.d_model)))
            if copy.head_name != "language" and copy.head is not None:
                copy.head(x, None, None)
            else:
                x @ torch.empty(copy.d_model, copy.vocab_size)
    except Exception as error:  # whatever a layer that is not ours says to tensors without numbers
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise NotImplementedError(
            f"flops_per_token: shapes are not enough for {model.config['mixer']}: {reason}"
        ) from error
    return counter.get_total_flops() / length


def mean_iterations(model: SequenceModel, length: int) -> float:
    """I of fixed-point layers, mean over layers, as the model is now, on 4 sequences of random tokens; 1 without any.

    Before training it is lower than after; records say what it was then.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (4, length), generator=generator)
    with torch.no_grad():
        model(tokens)
    found = [getattr(module, "last_solve", None) for module in model.modules()]
    solves = [solve[:, 0] for solve in found if isinstance(solve, torch.Tensor)]
    return float(torch.cat(solves).float().clamp_min(1).mean()) if solves else 1.0


def _through(blocks: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        x, _ = block(x, None, None, None)
    return x


def _mapping(iterations: float) -> dict[Any, Callable[..., int]]:
    ops = torch.ops.seqmix

    def fixed_point_scan(p: Size, weight: Size, initial: Size, cu_seqlens: Any, mixing: str, rank: int, *_: Any,
                         out_shape: Any = None, **__: Any) -> int:  # fmt: skip
        width = weight[1]
        once = 2 * math.prod(weight) + _mixing(mixing, rank, width) + 3 * width
        return round(iterations * math.prod(p[:-1]) * once)

    def fixed_point_selective_scan(u: Size, dt: Size, p: Size, A: Size, D: Size, weight: Size, norm: Size, s0: Size,
                                   y0: Size, cu_seqlens: Any, mixing: str, rank: int, *_: Any,
                                   out_shape: Any = None, **__: Any) -> int:  # fmt: skip
        once = 2 * math.prod(weight) + _mixing(mixing, rank, u[-1]) + 6 * math.prod(A)
        return round(iterations * math.prod(u[:-1]) * once)

    counts: dict[str, Callable[..., int]] = {
        "diagonal_scan": _diagonal_scan,
        "selected_gather_scan": lambda weights, dictionary, d, *_, **__: (
            2 * math.prod(weights) * math.prod(dictionary[1:]) + 8 * math.prod(d)
        ),
        "block_scan": lambda a, *_, **__: 2 * math.prod(a),
        "higher_order_scan": lambda a, *_, **__: 2 * math.prod(a),
        "selective_scan": lambda x, dt, A, *_, **__: math.prod(x) * (6 * A[-1] + 2),
        "gated_linear_attention": lambda q, k, v, *_, **__: 5 * math.prod(k) * v[-1],
        "delta_rule": lambda q, k, v, *_, **__: 7 * math.prod(k) * v[-1],
        "dplr_delta_rule": lambda q, k, v, *_, **__: 9 * math.prod(k) * v[-1],
        "causal_conv1d": lambda x, weight, *_, **__: 2 * math.prod(x) * weight[-1],
        "selective_rotary": lambda q, k, increment, *_, **__: 13 * math.prod(increment),
        "lstm": lambda x, h0, *_, **__: math.prod(x[:-1]) * h0[-1] * (8 * (x[-1] + h0[-1]) + 4),
        "gru": lambda x, h0, *_, **__: math.prod(x[:-1]) * h0[-1] * (6 * (x[-1] + h0[-1]) + 6),
        "slstm": lambda p, R, *_, **__: math.prod(p[:-2]) * p[-1] * (8 * p[-1] + 7),
        "m2rnn": lambda q, k, v, *_, **__: math.prod(k) * v[-1] * (2 * v[-1] + 7),
        "fixed_point_scan": fixed_point_scan,
        "fixed_point_selective_scan": fixed_point_selective_scan,
    }
    # Ops are registered when a layer that calls them is built.
    found = {getattr(ops, name): count for name, count in counts.items() if hasattr(ops, name)}
    aten = torch.ops.aten
    solves = {
        aten._linalg_solve_ex: lambda a, b, *_, **__: math.prod(a[:-1]) * (2 * a[-1] ** 2 // 3 + 2 * b[-1] * a[-1]),
        aten.linalg_solve_triangular: lambda a, b, *_, **__: math.prod(b) * a[-1],
    }
    return {aten._scaled_dot_product_flash_attention_for_cpu: _attention, **solves, **found}


def _diagonal_scan(a: Any, x: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    return (8 if x.is_complex() else 2) * x.numel()


_diagonal_scan._get_raw = True  # type: ignore[attr-defined]  # tensors instead of shapes: their type matters


def _attention(q: Size, k: Size, v: Size, *_: Any, **__: Any) -> int:
    return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _mixing(kind: str, rank: int, width: int) -> int:
    if not kind.startswith("kronecker"):
        return 4 * rank * width
    first = next(n for n in range(math.isqrt(width), 0, -1) if width % n == 0)
    return 2 * width * (first + width // first)
