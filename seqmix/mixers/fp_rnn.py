"""FP-RNN: a dense selective RNN as the fixed point of a diagonal one (Movahedi et al. 2025, 2503.10799).

With s = rms(h_{t-1}), the normalised state of the token before:

    lambda_t = sigmoid(W_l x_t),  b_t = silu(W_b x_t),  v_t = W_v x_t,  c_t = silu(W_c [x_t, s])
    Q_t = I - K(W_k [x_t, s])                                    Householder product, DPLR or Kronecker
    h_t = lambda_t h_{t-1} + (1 - lambda_t) (Q_t b_t v_t + (I - Q_t) h_t)      eq. 6, at its fixed point
    y_t = W_o RMSNorm(silu(W_z x_t) c_t h_t)

so h_t = M_t^-1 (Lambda_t h_{t-1} + (I - Lambda_t) Q_t b_t v_t) with M_t = Lambda_t + (I - Lambda_t) Q_t: the state
mixes over all channels. Parallel form: sweeps, h^l = scan(lambda, (1 - lambda) (Q b v + (I - Q) h^{l-1})), which
contract where the spectral radius of (I - Lambda_t)(I - Q_t) is below one. Since gates see the token before only, each
token is one linear system, of size r for a mixing of rank r (Woodbury): that is the sequential mode and the decode,
exact everywhere. Without hidden dependence the recurrence is linear, and chunks of it are solved at once.
State: h, N numbers.

Paper, released code (dr-faustus/fp-rnn, models/fp_rnn_block.py) and this layer, line by line:

- v: the code's "x", half of its first projection; width 2 d_model there, N here. Without it (`write="b"`) not a
  linear but a gated RNN is left when the mixing is switched off and b sees the state.
- lambda, b, c, z and the mixing: of that x in the code, of the layer's input here, which is the same function where
  2 d_model numbers hold all of the input. Biases: lambda and alpha in the code, all here; at first zero.
- hidden dependence: Q and c, in both and here; the code's b is that of the token. Others are options here.
- s: h_{t-1} itself in paper and code (`normalize_hidden=False`); h / sqrt(mean h^2 + 1/16) here, which keeps gates in
  range, and gradients over zero tokens.
- strength of the mixing: alpha = sigmoid(.) in the paper, so that |I - Q| < 1 (here, `strength=1`); 2 sigmoid(.) in the
  code (`strength=2`), with which most tokens have an eigenvalue above one at first and sweeps need not contract.
- a product's factors, Kronecker factors: see `low_rank`, `kronecker` and `kronecker_released`.
- projections of the mixing have weight normalisation in the code, a reparametrisation, and not here.
- convolutions: off by default in the code, none here.
- sweeps: the code stops at a residual of 0.1, nine sequences of ten in training; here at `tolerance`, each sequence.
- gradient: through one application in both (`gradient="phantom"`), exact here by default.
- decode: the code has none.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from seqmix._checks import positive
from seqmix.kernels.fixed_point.mixing import MIXINGS
from seqmix.kernels.fixed_point.rows import previous_token
from seqmix.kernels.fixed_point.scan.api import cell, fixed_point_scan
from seqmix.kernels.fixed_point.scan.cell import PARTS
from seqmix.mixers._fixed_point_options import Reporting, SolverOptions, bits_of, kept, names_of, strength_of
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state

_HIDDEN = ("lambda", "mixing", "b", "c")


@mixer_state
class FixedPointRNNState(NamedTuple):
    h: Tensor  # (S, N), float32 or float64


@register_mixer("fp-rnn", description="Dense selective RNN as the fixed point of a diagonal one.", source="2503.10799")
class FixedPointRNN(Reporting):
    """Fixed-point RNN.

    Args:
        d_model: width of input and output.
        d_state: N, channels of the state; d_model if None.
        mixing: `"householder"`, `"dplr"` (both of rank `rank`), `"kronecker"` or `"kronecker-released"`, whose factors
            are not symmetric.
        rank: r, at most N; 0 switches the mixing off: Q = I, and h_t = lambda_t h_{t-1} + (1 - lambda_t) b_t v_t.
        max_iterations: cap on the sweeps over a sequence; None for no cap.
        tolerance: sweeps of a sequence end when max |h^l - h^{l-1}| is this small beside max |h^l|; None for 16
            rounding errors.
        hidden_dependence: which of `"lambda"`, `"mixing"`, `"b"` and `"c"` see the state of the token before; None for
            mixing, and for c where there is an output gate.
        solver: `"sequential"`, exact, one token after the other; `"direct"`, exact, in parallel chunks, only without
            hidden dependence of lambda, mixing and b; `"sweeps"`, to the tolerance. `"auto"` is sequential on a CPU
            (there 3 to 5 times as fast as direct and 10 to 60 times as fast as sweeps) and for single tokens;
            else it is direct where that is possible (on a CPU for Kronecker mixing only, on a GPU for that up to 128
            channels) and otherwise sweeps.
        output_gate: whether h is multiplied by silu(W_z x_t) c_t; without it y_t = W_o RMSNorm(h_t), and there is no c.
        write: `"b*v"`, or `"b"`, without v.
        strength: in (0, 2], that of the mixing. One keeps the eigenvalues of (I - Lambda)(I - Q) below one for rank 1
            and Kronecker mixing; two makes a factor a reflection.
        normalize_hidden: whether gates see h over its root mean square, or h.
        gradient: `"implicit"`, exact, or `"phantom"`, through one application at the fixed point (the paper's).
        damping: in (0, 1], how much of a sweep's step is taken.
        fallback: solve the sequences whose sweeps diverge sequentially; without it they keep their last iterate.
        max_radius: below 1, bounds the spectral radius of (I - Lambda)(I - Q) by construction, so that sweeps always
            contract. None leaves it free.

    Tolerance, cap and damping belong to sweeps. A sequence that has not converged at the cap diverges if a token of it
    has a radius of one or more; else it is slow and keeps its last iterate. `last_solve` (S, 4) tells after every call:
    iterations, residual, converged, solved sequentially.

    Shapes: x (B, T, d_model), y (B, T, d_model), state h (S, N).

    Raises:
        ValueError: a size below one, a rank above N or 0 with Kronecker mixing, an unknown name, a tolerance of 0 with
            no cap.

    Example:
        >>> import torch
        >>> from seqmix import FixedPointRNN
        >>> layer = FixedPointRNN(d_model=64, d_state=24, rank=2)
        >>> y, state = layer(torch.randn(2, 10, 64))
        >>> y.shape, state.h.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 24]))
    """

    State = FixedPointRNNState

    def __init__(
        self,
        d_model: int,
        d_state: int | None = None,
        mixing: Literal["householder", "dplr", "kronecker", "kronecker-released"] = "householder",
        rank: int = 2,
        max_iterations: int | None = 100,
        tolerance: float | None = None,
        hidden_dependence: Sequence[str] | None = None,
        solver: Literal["auto", "sweeps", "sequential", "direct"] = "auto",
        *,
        output_gate: bool = True,
        write: Literal["b*v", "b"] = "b*v",
        strength: float = 1.0,
        normalize_hidden: bool = True,
        gradient: Literal["implicit", "phantom"] = "implicit",
        damping: float = 1.0,
        fallback: bool = True,
        max_radius: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        name = "FixedPointRNN"
        n = self.d_state = positive(name, "d_state", d_model if d_state is None else d_state)
        self.mixing = one_of(name, "mixing", mixing, MIXINGS)
        low_rank = not self.mixing.startswith("kronecker")
        unmixed = type(rank) is int and rank == 0 and low_rank
        self.rank = 0 if unmixed else positive(name, "rank", rank)
        if low_rank and rank > n:
            raise ValueError(f"{name}: rank must be at most d_state = {n}, got {rank}")
        self.output_gate = one_of(name, "output_gate", output_gate, (True, False))
        if hidden_dependence is None:
            hidden_dependence = ("mixing", "c") if output_gate else ("mixing",)
        self.hidden_dependence = names_of(name, "hidden_dependence", hidden_dependence, _HIDDEN)
        self.hidden_gates = " ".join(
            part for part in PARTS if part in self.hidden_dependence and not (unmixed and part == "mixing")
        )
        self.write = one_of(name, "write", write, ("b*v", "b"))
        self.normalize_hidden = one_of(name, "normalize_hidden", normalize_hidden, (True, False))
        self.solver = one_of(name, "solver", solver, ("auto", "sweeps", "sequential", "direct"))
        kronecker, hidden = mixing.startswith("kronecker"), self.hidden_gates != ""
        self.varies_when_cut, self.varies_in_batch = bits_of(solver, kronecker, kronecker and hidden)
        if solver == "direct" and self.hidden_gates:
            raise ValueError(
                f"{name}: solver 'direct' needs a hidden_dependence without lambda, mixing and b, "
                f"got {self.hidden_dependence}"
            )
        if "c" in self.hidden_dependence and not output_gate:
            raise ValueError(
                f"{name}: hidden_dependence must not name c with output_gate=False, got {self.hidden_dependence}"
            )
        self.options = SolverOptions.checked(name, max_iterations, tolerance, damping, fallback, gradient)
        self.max_radius = max_radius
        self.strength = strength_of(name, strength, mixing, rank, max_radius)

        self.cell = cell(mixing, n, rank, self.strength, self.hidden_gates, write == "b*v", normalize_hidden)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        # Rows: lambda, b, v and mixing, then c and z.
        self.proj_in = WideLinear(d_model, self.cell.size + 2 * n * self.output_gate, **where)
        self.weight_hidden = nn.Parameter(torch.empty(self.cell.recurrent, n, **where))
        self.weight_c = nn.Parameter(torch.empty(n, n, **where)) if "c" in self.hidden_dependence else None
        self.weight_norm = nn.Parameter(torch.empty(n, **where))
        self.proj_out = nn.Linear(n, d_model, bias=False, **where)
        self._no_weight_decay = ("weight_norm",)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Unit-variance gates from x, hidden gates at half of that; lambda starts at 0.5, alpha at the middle."""
        nn.init.normal_(self.proj_in.weight, std=self.d_model**-0.5)
        nn.init.zeros_(self.proj_in.bias)
        nn.init.normal_(self.weight_hidden, std=0.5 * self.d_state**-0.5)
        if self.weight_c is not None:
            nn.init.normal_(self.weight_c, std=0.5 * self.d_state**-0.5)
        nn.init.ones_(self.weight_norm)
        nn.init.normal_(self.proj_out.weight, std=self.d_state**-0.5)

    def solver_for(self, x: Tensor) -> str:
        """What `"auto"` stands for with x (B, T, d_model)."""
        if self.solver != "auto":
            return self.solver
        kronecker = self.mixing.startswith("kronecker")
        if x.shape[1] == 1 or (x.device.type == "cpu" and (self.hidden_gates or not kronecker)):
            return "sequential"
        # A Kronecker mixing is solved directly by a dense block scan, which on a GPU has blocks of at most 128.
        dense = kronecker and self.d_state > 128 and x.device.type == "cuda"
        return "sweeps" if self.hidden_gates or dense else "direct"

    def scan(self, p: Tensor, h0: Tensor, cu_seqlens: Tensor | None, solver: str) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, T, N), the final states (S, N) and the report (S, 4)."""
        return fixed_point_scan(
            p,
            self.weight_hidden.to(p.dtype),
            h0,
            mixing=self.mixing,
            rank=self.rank,
            strength=self.strength,
            hidden=self.hidden_gates,
            gated=self.cell.gated,
            normed=self.cell.normed,
            solver=solver,
            cu_seqlens=cu_seqlens,
            **self.options.arguments(p.dtype),
        )

    def mix(self, x: Tensor, state: FixedPointRNNState, cu_seqlens: Tensor | None) -> tuple[Tensor, FixedPointRNNState]:
        with torch.autocast(x.device.type, enabled=False):
            p, gates = self.proj_in(x).tensor_split([self.cell.size], -1)
            h, final, report = self.scan(p, state.h, cu_seqlens, self.solver_for(x))
            out = self._read(h, gates, None if self.weight_c is None else previous_token(h, state.h, cu_seqlens))
        self.last_solve = kept(report)
        return self.proj_out(out.to(x.dtype)), FixedPointRNNState(final)

    def _read(self, h: Tensor, gates: Tensor, before: Tensor | None) -> Tensor:
        """What W_o sees of h (B, T, N): gates (B, T, 2 N) are those of c and z from the token, if there are any."""
        if self.output_gate:
            c, z = gates.chunk(2, dim=-1)
            if self.weight_c is not None and before is not None:
                c = c + self.cell.seen(before) @ self.weight_c.to(c.dtype).mT
            h = silu(z) * silu(c) * h
        return rms_norm(h, (self.d_state,), self.weight_norm.to(h.dtype), 1e-5)

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> FixedPointRNNState:
        """h = 0."""
        device, dtype = self._like(device, dtype)
        return FixedPointRNNState(torch.zeros(batch_size, self.d_state, device=device, dtype=recurrent_dtype(dtype)))

    def state_size(self, sequence_length: int = 1) -> int:
        """N."""
        return self.d_state

    @torch.no_grad()
    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """What a solve of x (B, T, d_model) from h = 0 did, and what it solved.

        `iterations`, `residual`, `converged`, `sequential` (B,); `radius` (B, T), where sweeps contract if below one;
        `eigenvalues` (B, T, N), complex, of M_t^-1 Lambda_t.
        """
        h, before, g, report, _ = self._solved(x)
        error = (g.decay * before + g.write * self.cell.target(g, h) - h).abs().amax((1, 2))
        return {
            "iterations": report[:, 0],
            "residual": torch.maximum(report[:, 1], error / h.abs().amax((1, 2)).clamp_min(1e-30)),
            "converged": report[:, 2].bool(),
            "sequential": report[:, 3].bool(),
            "radius": self.cell.radius(g),
            "eigenvalues": torch.linalg.eigvals(self._dense(g)[0] * g.decay.unsqueeze(-2)),
        }

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values e_t (N,), what is written; h_t = M^-1 Lambda h_{t-1} + M^-1 (I - Lambda) Q e_t. Gates see the token
        before; here they are what they are at the solution."""
        _, before, g, _, gates = self._solved(x)
        inverse, q = self._dense(g)
        return Recurrence(
            g.e[:, :, None, :, None],
            lambda o: self.proj_out(self._read(o.flatten(2), gates, before).to(x.dtype)),
            (inverse * g.decay.unsqueeze(-2)).unsqueeze(2),
            (inverse * g.write.unsqueeze(-2) @ q).unsqueeze(2),
        )

    def _solved(self, x: Tensor) -> tuple[Tensor, Tensor, Any, Tensor, Tensor]:
        """h and the h before each token of x from h = 0, the gates there, the report, and those of c and z."""
        p, gates = self.proj_in(x).tensor_split([self.cell.size], -1)
        h0 = self.init_state(len(x), device=x.device, dtype=x.dtype).h
        h, _, report = self.scan(p, h0, None, self.solver_for(x))
        before = previous_token(h, h0, None)
        return h, before, self.cell.gates(p, self.weight_hidden.to(p.dtype), before), report, gates

    def _dense(self, g: Any) -> tuple[Tensor, Tensor]:
        """M^-1 = (I - (I - Lambda)(I - Q))^-1 and Q, (B, T, N, N)."""
        k, eye = self.cell.mixing.dense(g.factors), torch.eye(self.d_state, dtype=g.e.dtype, device=g.e.device)
        return torch.linalg.inv_ex(eye - g.write.unsqueeze(-1) * k)[0], eye - k

    def extra_repr(self) -> str:
        rank = "" if self.mixing.startswith("kronecker") else f", rank={self.rank}"
        return (
            f"d_state={self.d_state}, mixing={self.mixing!r}{rank}, strength={self.strength}, write={self.write!r}, "
            f"hidden_dependence={self.hidden_dependence}, solver={self.solver!r}"
        )
