"""DeltaNet: linear attention that overwrites (Schlag et al. 2021, 2102.11174; Yang et al. 2024, 2406.06484).

For each head, and for n Householder steps i = 1, ..., n a token (DeltaProduct, Siems et al. 2025, 2502.10297):

    q_t; k_{t,i}, v_{t,i}; b_{t,i} = W x_t           short convolution and silu on q, k, v
    beta_{t,i} = sigmoid(b_{t,i})                    in (0, 1); signed: twice that, in (0, 2)
    S <- e^{g_t} S                                   gated only (2412.06464), once a token; g_t = -A softplus(a_t + c)
    S <- (I - beta_i k_i k_i^T) S + beta_i k_i v_i^T k_i and q_t of length one: x / sqrt(|x|^2 + 1e-6)
    o_t = S^T q_t / sqrt(K)
    y_t = W_o rmsnorm(o_t)                           times silu(W_z x_t) inside, with an output gate

Eigenvalues of a step are 1 and 1 - beta: signed ones reach -1, a reflection (Grazzi et al. 2024, 2411.12537), and n
reflections make any permutation of n + 1 things. With positions, q and every k turn by the token's angle first.
Parallel form: products of Householder matrices as triangular systems in chunks; on a CPU the recurrence itself. State:
S (K, V) for each head, the window of the convolution, and what the positions keep.
"""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d, delta_rule
from seqmix.mixers._heads import head_sizes, init_taps, rms_norm, unit
from seqmix.mixers._make_position import make_position
from seqmix.mixers._positions import turn_back
from seqmix.mixers._starts import step_bias
from seqmix.mixers.base import TokenMixer, one_of, recurrent_dtype
from seqmix.mixers.forms import Recurrence
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, mixer_state


@mixer_state
class DeltaNetState(NamedTuple):
    S: Tensor  # (S, H, K, V), float32 or float64
    conv: Tensor  # (S, d_conv - 1, H (K + n (K + V))), in the type of the activations
    window: Tensor  # (S, W - 1, H K/2) of Selective RoPE's convolution, empty without
    angle: Tensor  # (S, H, K/2), empty without positions


@register_mixer(
    "deltanet", description="Delta rule: n Householder steps a token, signed or gated.", source="2406.06484, 2502.10297"
)
class DeltaNet(TokenMixer):
    """DeltaNet, Gated DeltaNet and DeltaProduct.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        n_householder: n, steps a token.
        eigenvalues: `"positive"`, in [0, 1], or `"signed"`, in [-1, 1].
        position: None, `"rope"` or `"selective-rope"`.
        gated: whether the state decays, by a factor for each head, once a token.
        expand_k, expand_v: widths of all keys and of all values over `d_model`.
        d_conv: width of the depthwise convolution on q, k and v; 1 for none.
        output_gate: whether what is read is multiplied by silu(W_z x_t).
        rope_options: arguments of `SelectiveRoPE`, or `{"base": ...}` with `"rope"`.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, H, K, V) beside the small ones.

    Raises:
        ValueError: `n_heads` that does not divide a width, an odd K with positions, an unknown option, or a size
            below one.

    Example:
        >>> import torch
        >>> from seqmix import DeltaNet
        >>> y, state = DeltaNet(d_model=64, n_householder=2, eigenvalues="signed")(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 4, 16, 16]))
    """

    State = DeltaNetState
    only_scans = True
    _no_weight_decay = ("norm_weight", "conv_weight", "A_log", "dt_bias")
    conv_weight: Tensor | None
    A_log: Tensor
    dt_bias: Tensor

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        n_householder: int = 1,
        eigenvalues: str = "positive",
        position: str | None = None,
        gated: bool = False,
        *,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        d_conv: int = 4,
        output_gate: bool = False,
        rope_options: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads, self.d_key, self.d_value = head_sizes("DeltaNet", d_model, n_heads, expand_k, expand_v)
        self.n_householder = positive("DeltaNet", "n_householder", n_householder)
        self.eigenvalues = one_of("DeltaNet", "eigenvalues", eigenvalues, ("positive", "signed"))
        self.d_conv = positive("DeltaNet", "d_conv", d_conv)
        self.gated, self.position_name = bool(gated), position
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.position = make_position("DeltaNet", position, d_model, n_heads, self.d_key, rope_options, **where)
        keys, values, n = n_heads * self.d_key, n_heads * self.d_value, n_householder
        self._widths = (keys, n * keys, n * values)
        self.in_proj = nn.Linear(d_model, sum(self._widths), bias=False, **where)
        conv_weight = nn.Parameter(torch.empty(sum(self._widths), d_conv, **where)) if d_conv > 1 else None
        self.register_parameter("conv_weight", conv_weight)
        self.beta_proj = nn.Linear(d_model, n_heads * n, bias=False, **where)
        self.decay_proj = nn.Linear(d_model, n_heads, bias=False, **where) if gated else None
        self.register_parameter("A_log", nn.Parameter(torch.empty(n_heads, **where)) if gated else None)
        self.register_parameter("dt_bias", nn.Parameter(torch.empty(n_heads, **where)) if gated else None)
        self.gate_proj = nn.Linear(d_model, values, bias=False, **where) if output_gate else None
        self.norm_weight = nn.Parameter(torch.empty(self.d_value, **where))
        self.out_proj = nn.Linear(values, d_model, bias=False, **where)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Linear maps as in `nn.Linear`, the convolution near identity.

        The decay starts as in Mamba: A uniform in [0, 16], steps log-uniform in [1e-3, 0.1].
        """
        for module in (self.in_proj, self.beta_proj, self.decay_proj, self.gate_proj, self.out_proj):
            if module is not None:
                module.reset_parameters()
        if self.conv_weight is not None:
            init_taps(self.conv_weight)
        if self.gated:
            u = torch.rand(2, self.n_heads, dtype=torch.float64, device=self.norm_weight.device)
            self.A_log.copy_((16 * u[0]).clamp_min(1e-4).log())
            self.dt_bias.copy_(step_bias(u[1]))
        nn.init.ones_(self.norm_weight)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """beta (B, T, H, n) and the log decay (B, T, H) or None for x (B, T, d_model), at least float32."""
        real = recurrent_dtype(x.dtype)
        b = self.beta_proj(x)
        a = None if self.decay_proj is None else self.decay_proj(x)
        # Outside autocast: decays above 0.99 do not survive bf16.
        with torch.autocast(x.device.type, enabled=False):
            beta = b.to(real).sigmoid().unflatten(-1, (self.n_heads, self.n_householder))  # (B, T, H, n)
            if self.eigenvalues == "signed":
                beta = 2 * beta
            if a is None:
                return beta, None
            return beta, -self.A_log.to(real).exp() * softplus(a.to(real) + self.dt_bias.to(real))

    def split(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """q (B, T, H, K) and n keys like it before they turn, of any length, v (B, T, H, n, V), and the new window."""
        qkv = self.in_proj(x)
        if self.conv_weight is not None:
            qkv, conv = causal_conv1d(qkv, self.conv_weight, None, "silu", initial_state=conv, cu_seqlens=cu_seqlens)
        else:
            qkv = silu(qkv)
        q, k, v = qkv.split(self._widths, dim=-1)
        heads = (self.n_heads, -1)
        keys = [part.unflatten(-1, heads) for part in k.chunk(self.n_householder, dim=-1)]  # n of (B, T, H, K)
        v = rearrange(v, "b t (n h v) -> b t h n v", n=self.n_householder, h=self.n_heads)
        return q.unflatten(-1, heads), keys, v, conv

    def _project(
        self, x: Tensor, state: DeltaNetState, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, list[Tensor], Tensor, tuple[Tensor, Tensor, Tensor]]:
        """q (B, T, H, K), n keys like it, v (B, T, H, n, V), and what the state keeps beside S."""
        q, keys, v, conv = self.split(x, state.conv, cu_seqlens)
        (q, *keys), window, angle = self.position.rotate(x, [q, *keys], (state.window, state.angle), cu_seqlens)
        return unit(q), [unit(k) for k in keys], v, (conv, window, angle)

    def transition(self, x: Tensor, keys: list[Tensor], beta: Tensor) -> Tensor:
        """A_t (B, T, H, K, K): decay, turn back by the token's angle, then the n steps; for keys that do not turn."""
        _, log_g = self.gates(x)
        product = torch.eye(self.d_key, device=x.device, dtype=beta.dtype).expand(*beta.shape[:3], -1, -1)
        if self.position.n_angles:
            window, _ = self.position.init_state(x.shape[0], x.device, x.dtype)
            product = turn_back(self.position.increments(x, window, None)[0].to(beta.dtype))
        for i, k in enumerate(keys):
            k = unit(k).to(beta.dtype)[..., None]
            # Not a product of matrices, which autocast would round.
            product = product - beta[..., i, None, None] * k * (k * product).sum(-2, keepdim=True)
        return product if log_g is None else log_g.exp()[..., None, None] * product

    def mix(self, x: Tensor, state: DeltaNetState, cu_seqlens: Tensor | None) -> tuple[Tensor, DeltaNetState]:
        q, keys, v, kept = self._project(x, state, cu_seqlens)
        beta, log_g = self.gates(x)
        n = self.n_householder

        def steps(first: list[Tensor]) -> Tensor:
            """n tensors (B, T, H, ...), one for each step of a token, as one (B, T n, H, ...)."""
            # Not by einops, whose calls would be 3 % of a decoded token.
            return first[0] if n == 1 else torch.stack(first, dim=2).flatten(1, 2)

        idle = [torch.zeros_like(q)] * (n - 1)  # only a token's last step is read
        if log_g is not None:
            log_g = steps([log_g, *[torch.zeros_like(log_g)] * (n - 1)])
        o, S = delta_rule(
            steps([*idle, q * self.d_key**-0.5]),
            steps(keys),
            steps(list(v.unbind(3))),
            steps(list(beta.unbind(3))),
            log_g,
            initial_state=state.S,
            cu_seqlens=None if cu_seqlens is None else cu_seqlens * n,
        )
        if n > 1:
            o = rearrange(o, "b (t n) h v -> b t n h v", n=n)[:, :, -1]
        return self._output(o, x), DeltaNetState(S, *kept)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, V)."""
        y = rms_norm(o, self.norm_weight).flatten(2)  # (B, T, H V)
        return self.out_proj(y if self.gate_proj is None else y * silu(self.gate_proj(x)))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> DeltaNetState:
        """Zeros."""
        device, dtype = self._like(device, dtype)
        S = (batch_size, self.n_heads, self.d_key, self.d_value)
        channels = sum(self._widths) if self.d_conv > 1 else 0
        return DeltaNetState(
            torch.zeros(S, device=device, dtype=recurrent_dtype(dtype)),
            torch.zeros(batch_size, self.d_conv - 1, channels, device=device, dtype=dtype),
            *self.position.init_state(batch_size, device, dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """H K V, the convolution's window, and the position's window and angles."""
        window = (self.d_conv - 1) * sum(self._widths)
        return self.n_heads * self.d_key * self.d_value + window + self.position.state_size()

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`eigenvalues` (B, T, H, K) of a token's transition, decay, turn and all steps together, from an empty window
        (complex for n > 1 or with positions), and `beta` (B, T, H, n)."""
        _, keys, _, _ = self.split(x, self.init_state(x.shape[0], device=x.device, dtype=x.dtype).conv, None)
        beta, _ = self.gates(x)
        a = self.transition(x, keys, beta)
        symmetric = self.n_householder == 1 and not self.position.n_angles
        return {"eigenvalues": torch.linalg.eigvalsh(a) if symmetric else torch.linalg.eigvals(a), "beta": beta}

    def linear_form(self, x: Tensor) -> Recurrence:
        """Values v_{t,i}, n of V numbers for each head: step i writes beta_i k_i, and what later steps leave of it.

        The state turns with the angle, so that R(-omega_t) is part of the transition and nothing else turns.
        """
        state = self.init_state(len(x), device=x.device, dtype=x.dtype)
        q, keys, v, _ = self.split(x, state.conv, None)
        beta, _ = self.gates(x)
        columns: list[Tensor] = []
        for i, key in enumerate(keys):
            k = unit(key).to(beta.dtype)
            step = beta[..., i, None] * k
            columns = [column - step * (k * column).sum(-1, keepdim=True) for column in columns]
            columns.append(step)
        return Recurrence(
            v.to(beta.dtype),
            lambda o: self._output(o.squeeze(-2).to(x.dtype), x),
            self.transition(x, keys, beta),
            torch.stack(columns, dim=-1),
            unit(q).to(beta.dtype).unsqueeze(-2) * self.d_key**-0.5,
        )

    def extra_repr(self) -> str:
        return (
            f"n_heads={self.n_heads}, n_householder={self.n_householder}, eigenvalues={self.eigenvalues!r}, "
            f"position={self.position_name!r}, gated={self.gated}"
        )
