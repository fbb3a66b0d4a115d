"""FP-Mamba: Mamba whose input is mixed over channels until the output stays the same (Movahedi et al., 2503.10799).

    u_t, dt_t, A, D as in Mamba, without a convolution u_t = W_u x_t;  z_t = W_z x_t + V_z y_{t-1}
    b_t = unit(W_b u_t + V_b y_{t-1}),  c_t = unit(W_c u_t + V_c y_{t-1}),  Q_t = I - K(W_k u_t + V_k y_{t-1})
    s_t = exp(dt_t A) * s_{t-1} + dt_t (Q_t u_t + (I - Q_t) y_t) b_t^T          (d_inner, N)
    y_t = LayerNorm(s_t c_t + D * (Q_t u_t + (I - Q_t) y_t))                    at its fixed point
    out_t = W_out (y_t * silu(z_t))

Parallel form: sweeps y^l = LayerNorm(selective_scan(Q u + (I - Q) y^{l-1})) from y^0 = 0, their gates formed from
y^{l-1}_{t-1}. Sequential form, and decode: token by token. For a given deviation of its argument the LayerNorm is
linear, so a token is a root of one number, found by bracketing, and a system of size r for a mixing of rank r; there
is a solution for every token, also where sweeps circle or diverge. A strong mixing has several. The one that counts
is on the branch that grows out of Q = I; a sequence whose sweeps end elsewhere is solved again, token by token. On a
CPU that is one compiled pass over time, forward and backward, for mixings of rank 1 and 2, and plain torch for others.
State: s, y of the last token, and the last d_conv - 1 inputs of the convolution.

Paper, released code (dr-faustus/fp-rnn, models/fp_mamba_block.py) and this layer, line by line:

- u: without a convolution, the code's default and ours (`d_conv=None`), u has no silu; with one, that of Mamba.
- dt, A, D and their initialisation: Mamba's, in all; dt sees the token only.
- b, c: of unit length in code and here, which the paper leaves open; both see y_{t-1}, as do Q and z.
- mixing: of u_t and y_{t-1} in paper and code (`mixing_input="u"`); before the convolution with `"x"`.
- strength: alpha = sigmoid(.) in the paper, 2 sigmoid(.) in the code (`strength`, 2 by default here); at first half of
  it in the code (`initial_strength=0.5`).
- LayerNorm: with weight and bias in code and here (`norm_bias`), inside the loop in both; the eps is 1e-5, so y has
  unit size after a zero token too, and gradients through b, c and Q, which see it, grow over runs of zeros.
- gate: silu(z) times y, outside the loop; the code's `glu_in_loop`, inside it, is not here.
- factors of a product, Kronecker factors: see `low_rank`, `kronecker` (the paper's) and `kronecker_released`, here
  without its spectral norm, as in the code. Weight normalisation of the projections of y and of the mixing: not here.
- sweeps: the code damps by 0.99, less after 15 steps without gain, and stops at a residual of 0.1 for three sequences
  of four in training; here `damping` and `tolerance`, each sequence.
- gradient: through one application in both (`gradient="phantom"`), exact here by default.
- decode: the code's `step` is that of plain Mamba; this one's is the layer.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu, softplus

from seqmix._checks import is_number, positive
from seqmix.kernels.fixed_point.mixing import MIXINGS
from seqmix.kernels.fixed_point.rows import previous_token
from seqmix.kernels.fixed_point.selective_scan.api import cell, fixed_point_selective_scan
from seqmix.kernels.fixed_point.selective_scan.tokens import Inputs
from seqmix.mixers._dense_token import dense_form
from seqmix.mixers._fixed_point_options import Reporting, SolverOptions, bits_of, kept, names_of, strength_of
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state

_HIDDEN = ("mixing", "b", "c", "gate")


@mixer_state
class FixedPointMambaState(NamedTuple):
    conv: Tensor  # (S, d_conv - 1, d_inner), oldest first; like the others float32 or float64
    ssm: Tensor  # (S, d_inner, N)
    y: Tensor  # (S, d_inner), the normalised output of the last token


@register_mixer(
    "fp-mamba", description="Selective state space inside a fixed point over channels.", source="2503.10799"
)
class FixedPointMamba(Reporting, Mamba):
    """Fixed-point Mamba. Parameters that Mamba has keep their names and shapes.

    Args:
        d_model: width of input and output.
        d_state: N, states for each inner channel.
        mixing: `"householder"`, `"dplr"` (both of rank `rank`), `"kronecker"` or `"kronecker-released"`, over the
            d_inner channels.
        rank: r, at most d_inner.
        max_iterations: cap on the sweeps over a sequence, or on the root's steps in sequential mode; None for none.
        tolerance: when they end: max |y^l - y^{l-1}| beside max |y^l|; None for 16 rounding errors.
        hidden_dependence: which of `"mixing"`, `"b"`, `"c"` and `"gate"` see y of the token before.
        solver: `"sequential"`, `"sweeps"` or `"auto"`: sequential on a CPU and for single tokens, sweeps elsewhere.
        d_conv: width of the convolution on u, with silu after it; None for neither.
        expand: d_inner over d_model.
        dt_rank: rank of the step's projection; d_model / 16, rounded up, if None.
        gradient: `"implicit"`, exact, or `"phantom"`, through one application at the fixed point (the paper's).
        damping: in (0, 1], how much of a sweep's step is taken.
        fallback: solve the sequences whose sweeps diverge, or end on another branch, sequentially; without it they keep
            their last iterate.
        strength: in (0, 2], that of the mixing.
        initial_strength: in (0, 1), the share of the strength that alpha has at first; the smaller, the sooner sweeps
            contract. Only for mixings of a rank.
        mixing_input: `"u"` or `"x"`, what the mixing sees of the token.
        norm_bias: whether the norm has a bias.
        max_radius: below 1, bounds the norm of I - Q; None leaves it to the strength. The norm may still stretch; in
            practice 0.2 makes sweeps contract, which full strength does not.
        dt_min, dt_max: range of the steps at initialisation, log-uniform.

    `last_solve` (S, 4) tells after every call: iterations, residual, converged, solved sequentially. An unconverged
    sequence whose sweeps have a token of spectral radius one or more counts as diverging.

    Shapes: x (B, T, d_model), y (B, T, d_model), state conv (S, d_conv - 1, d_inner), ssm (S, d_inner, N) and
    y (S, d_inner).

    Raises:
        ValueError: a size below one, a rank above d_inner, an unknown name, a tolerance of 0 with no cap.

    Example:
        >>> import torch
        >>> from seqmix import FixedPointMamba
        >>> y, state = FixedPointMamba(d_model=32)(torch.randn(2, 10, 32))
        >>> y.shape, state.ssm.shape
        (torch.Size([2, 10, 32]), torch.Size([2, 64, 16]))
    """

    State: ClassVar[Any] = FixedPointMambaState
    only_scans = False
    projection = WideLinear
    _no_weight_decay = ("A_log", "D", "norm_weight", "norm_bias")  # type: ignore[assignment]

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        mixing: Literal["householder", "dplr", "kronecker", "kronecker-released"] = "householder",
        rank: int = 2,
        max_iterations: int | None = 100,
        tolerance: float | None = None,
        hidden_dependence: Sequence[str] = _HIDDEN,
        solver: Literal["auto", "sweeps", "sequential"] = "auto",
        *,
        d_conv: int | None = None,
        expand: int = 2,
        dt_rank: int | None = None,
        strength: float = 2.0,
        initial_strength: float = 0.5,
        mixing_input: Literal["u", "x"] = "u",
        norm_bias: bool = True,
        gradient: Literal["implicit", "phantom"] = "implicit",
        damping: float = 1.0,
        fallback: bool = True,
        max_radius: float | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        width = 1 if d_conv is None else d_conv
        super().__init__(d_model, d_state, width, expand, dt_rank, dt_min=dt_min, dt_max=dt_max, **where)
        name = "FixedPointMamba"
        if d_conv is None:
            self.conv1d = None  # type: ignore[assignment]
        self.mixing = one_of(name, "mixing", mixing, MIXINGS)
        self.rank = positive(name, "rank", rank)
        if not mixing.startswith("kronecker") and rank > self.d_inner:
            raise ValueError(f"{name}: rank must be at most d_inner = {self.d_inner}, got {rank}")
        self.hidden_dependence = names_of(name, "hidden_dependence", hidden_dependence, _HIDDEN)
        self.hidden_gates = " ".join(part for part in self.hidden_dependence if part != "gate")
        self.solver = one_of(name, "solver", solver, ("auto", "sweeps", "sequential"))
        dense = mixing.startswith("kronecker") or rank > 2
        self.varies_when_cut, self.varies_in_batch = bits_of(solver, False, dense)
        self.options = SolverOptions.checked(name, max_iterations, tolerance, damping, fallback, gradient)
        self.max_radius = max_radius
        self.strength = strength_of(name, strength, mixing, rank, max_radius)
        if not is_number(initial_strength) or not 0 < initial_strength < 1:
            raise ValueError(f"{name}: initial_strength must be in (0, 1), got {initial_strength!r}")
        self.initial_strength = float(initial_strength)
        self.mixing_input = one_of(name, "mixing_input", mixing_input, ("u", "x"))
        one_of(name, "norm_bias", norm_bias, (True, False))

        self.cell = cell(mixing, self.d_inner, d_state, rank, self.strength, self.hidden_gates)
        seen = self.d_inner if mixing_input == "u" else d_model
        self.mixing_proj = WideLinear(seen, self.cell.mixing.size, **where)
        self.weight_hidden = nn.Parameter(torch.empty(self.cell.recurrent, self.d_inner, **where))
        gate = "gate" in self.hidden_dependence
        self.weight_gate = nn.Parameter(torch.empty(self.d_inner, self.d_inner, **where)) if gate else None
        self.norm_weight = nn.Parameter(torch.empty(self.d_inner, **where))
        self.norm_bias = nn.Parameter(torch.empty(self.d_inner, **where)) if norm_bias else None
        self.reset_mixing()

    @torch.no_grad()
    def reset_mixing(self) -> None:
        """Unit-variance numbers from a token of unit variance, half of that from y; alpha at its initial strength."""
        nn.init.normal_(self.mixing_proj.weight, std=self.mixing_proj.in_features**-0.5)
        nn.init.zeros_(self.mixing_proj.bias)
        if not self.mixing.startswith("kronecker"):
            self.mixing_proj.bias[-self.rank :] = math.log(self.initial_strength / (1 - self.initial_strength))
        nn.init.normal_(self.weight_hidden, std=0.5 * self.d_inner**-0.5)
        if self.weight_gate is not None:
            nn.init.normal_(self.weight_gate, std=0.5 * self.d_inner**-0.5)
        nn.init.ones_(self.norm_weight)
        if self.norm_bias is not None:
            nn.init.zeros_(self.norm_bias)

    def solver_for(self, x: Tensor) -> str:
        """What `"auto"` stands for with x (B, T, d_model)."""
        if self.solver != "auto":
            return self.solver
        return "sequential" if x.device.type == "cpu" or x.shape[1] == 1 else "sweeps"

    def inputs(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Inputs, Tensor, Tensor]:
        """What the recurrence sees of x (B, T, d_model), z before it sees y, and the new window, in its type."""
        real = recurrent_dtype(x.dtype)
        u, z = self.in_proj(x).chunk(2, dim=-1)
        window = conv.to(real)
        if self.conv1d is not None:
            u, window = self.conv1d(u, window, cu_seqlens)
        r, bc = self.x_proj(u).split((self.dt_rank, 2 * self.d_state), dim=-1)
        bias = torch.zeros_like(self.norm_weight) if self.norm_bias is None else self.norm_bias
        inputs = Inputs(
            u,
            softplus(self.dt_proj(r)),
            torch.cat((bc, self.mixing_proj(u if self.mixing_input == "u" else x)), -1),
            -self.A_log.to(real).exp(),
            self.D.to(real),
            self.weight_hidden.to(real),
            torch.stack((self.norm_weight, bias)).to(real),
        )
        return inputs, z, window

    def solve(
        self, x: Tensor, state: FixedPointMambaState, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor, FixedPointMambaState, Tensor]:
        """y and z (B, T, d_inner), the new state and the report (S, 4); in the type of the recurrence throughout."""
        inputs, z, window = self.inputs(x, state.conv, cu_seqlens)
        y, (s, last), report = fixed_point_selective_scan(
            *inputs,
            (state.ssm, state.y),
            mixing=self.mixing,
            rank=self.rank,
            strength=self.strength,
            hidden=self.hidden_gates,
            solver=self.solver_for(x),
            cu_seqlens=cu_seqlens,
            **self.options.arguments(z.dtype),
        )
        if self.weight_gate is not None:
            z = z + linear(previous_token(y, state.y, cu_seqlens), self.weight_gate.to(z.dtype))
        return y, z, FixedPointMambaState(window, s, last), report

    def mix(self, x: Tensor, state: Any, cu_seqlens: Tensor | None) -> tuple[Tensor, Any]:
        with torch.autocast(x.device.type, enabled=False):
            y, z, state, report = self.solve(x, state, cu_seqlens)
            out = y * silu(z)
        self.last_solve = kept(report)
        return self.out_proj(out.to(x.dtype)), state

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> FixedPointMambaState:  # type: ignore[override]
        """Zeros."""
        device, dtype = self._like(device, dtype)
        where: dict[str, Any] = {"device": device, "dtype": recurrent_dtype(dtype)}
        return FixedPointMambaState(
            torch.zeros(batch_size, self.d_conv - 1, self.d_inner, **where),
            torch.zeros(batch_size, self.d_inner, self.d_state, **where),
            torch.zeros(batch_size, self.d_inner, **where),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """d_inner (N + d_conv)."""
        return self.d_inner * (self.d_state + self.d_conv)

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values u_t (d_inner,) and one, states s_t (d_inner N,), read is y_t, all in one block."""
        return dense_form(self, x)

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """What a solve of x (B, T, d_model) from a zero state did: `iterations`, `residual`, `converged` and
        `sequential` (B,). `seqmix.inspect.eigenvalues` has those of the transition, which has (d_inner N)^2 entries."""
        *_, report = self.solve(x, self.init_state(len(x), device=x.device, dtype=x.dtype), None)
        return {
            "iterations": report[:, 0],
            "residual": report[:, 1],
            "converged": report[:, 2].bool(),
            "sequential": report[:, 3].bool(),
        }

    def extra_repr(self) -> str:
        rank = "" if self.mixing.startswith("kronecker") else f", rank={self.rank}"
        return f"{super().extra_repr()}, mixing={self.mixing!r}{rank}, solver={self.solver!r}"
