"""Log-linear Mamba-2: a state for each scale of the past, and a read-out that weighs scales (Guo et al. 2025,
2506.04761).

Everything is as in `mamba-2` (decay a_t = e^{dt_t A}, keys B, queries C, values dt u), but for the state. At token t,
counted from 0, with j the lowest bit that is set in t:

    S^(j+1) += S^(0) + ... + S^(j),  S^(0) = ... = S^(j) = 0         before token t > 0
    S^(l) = a_t S^(l) for all l,  S^(0) = B_t (dt_t u_t)^T
    o_t = sum over l of lambda_t^(l) (S^(l))^T C_t + D u_t,    lambda_t = softplus(L * W_l x_t)     one for each level

so that level l > 0 holds at most 2^(l-1) tokens, the nearer past in finer parts. Token s lies at time t in the level
that is the number of bits of t XOR s, which is the parallel form: a mask of levels over T x T scores, whole and exact.
The last level takes all that is older, so that nothing has to end. Eigenvalues are a_t in (0, 1): no parity. State: S
of all levels, the number of tokens read, and the window of the convolution. Plain torch, quadratic in T.
"""

from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu, softplus

from seqmix._checks import positive
from seqmix.kernels.checks import check_offsets
from seqmix.mixers._padding import in_one_row, out_of_the_row, without_padding
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import recurrent_dtype
from seqmix.mixers.forms import Direct
from seqmix.mixers.mamba2 import Mamba2
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_shapes, mixer_state


@mixer_state
class LogLinearState(NamedTuple):
    conv: Tensor  # (S, d_conv - 1, d_inner + 2 G N), oldest first, in the type of the activations
    S: Tensor  # (S, levels, H, N, P), float32 or float64
    length: Tensor  # (S,) int64, tokens read


def bits(number: Tensor, most: int) -> Tensor:
    """How many bits numbers >= 0 have, at most `most`."""
    return torch.bucketize(number, 2 ** torch.arange(most, device=number.device), right=True)


def weights(q: Tensor, k: Tensor, log_g: Tensor, level: Tensor, start: Tensor) -> Tensor:
    """M (B, H, T, T) for q, k (B, T, H, N), log_g (B, T, H), lambda (B, T, H, levels), after `start` (B,) tokens."""
    time = torch.arange(q.shape[1], device=q.device)
    place = start[:, None] + time  # (B, T)
    apart = bits(place[:, :, None] ^ place[:, None, :], level.shape[-1] - 1)  # (B, T, T)
    sums = log_g.cumsum(1).mT  # (B, H, T)
    past = time[:, None] >= time
    decay = (sums[..., None] - sums[..., None, :]).masked_fill(~past, -torch.inf).exp()
    levels = rearrange(level, "b t h l -> b h t l")
    chosen = levels.gather(3, repeat(apart, "b t s -> b h t s", h=q.shape[2]))  # (B, H, T, T)
    return torch.einsum("bthn,bshn->bhts", q, k) * decay * chosen


def scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_g: Tensor,
    level: Tensor,
    S: Tensor,
    start: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, P) and the last S (B, levels, H, N, P), for v (B, T, H, P), the S before, others as in `weights`.

    The last token is that after `lengths` (B,) ones, if not T.
    """
    levels, time = level.shape[-1], torch.arange(q.shape[1], device=q.device)
    place, count = start[:, None] + time, torch.full_like(start, q.shape[1]) if lengths is None else lengths
    o = torch.einsum("bhts,bshp->bthp", weights(q, k, log_g, level, start), v)
    # What was in level l before lies in the larger one of l and the bits of t XOR the last token that was read.
    since = bits(place ^ (start[:, None] - 1).clamp_min(0), levels - 1)  # (B, T)
    moved = torch.maximum(since[..., None], torch.arange(levels, device=q.device))  # (B, T, levels)
    sums = log_g.cumsum(1)  # (B, T, H)
    old = level.gather(3, moved[:, :, None].expand_as(level)) * sums.exp()[..., None]  # (B, T, H, levels)
    o = o + torch.einsum("bthln,blhnp->bthp", old[..., None] * q[..., None, :], S)
    end = (count - 1)[:, None]
    total = sums.gather(1, end[..., None].expand(-1, 1, sums.shape[2]))  # (B, 1, H)
    left = (total - sums).masked_fill((time > end)[..., None], -torch.inf).exp()
    ends = one_hot(bits(place ^ (start[:, None] + end), levels - 1), levels).to(q.dtype)  # (B, T, levels)
    new = torch.einsum("bthln,bthp->blhnp", ends[:, :, None, :, None] * (k * left[..., None])[..., None, :], v)
    S = S * total.exp()[..., None, None]
    here, into = (t[..., None, None, None] for t in (torch.arange(levels, device=q.device), since.gather(1, end)))
    merged = S.masked_fill(here > into, 0).sum(1, keepdim=True)
    return o, new + S.masked_fill(here <= into, 0) + merged.masked_fill(here != into, 0)


@register_mixer("log-linear", description="Mamba-2 with a state for each scale of the past.", source="2506.04761")
class LogLinear(Mamba2):
    """Log-linear Mamba-2.

    Packed sequences are treated one by one, and `cu_seqlens` is read on the host.

    Args:
        d_model: width of input and output.
        d_state: N, width of B and C.
        n_levels: levels of the state: all are used after 2^(n_levels - 2) tokens. 15 as published.
        d_conv, expand, n_heads, n_groups: as in `Mamba2`.

    Shapes: x (B, T, d_model), y (B, T, d_model), state S (S, n_levels, H, N, P), length (S,), and the window conv.

    Raises:
        ValueError: fewer than two levels, and as in `Mamba2`.

    Example:
        >>> import torch
        >>> from seqmix import LogLinear
        >>> y, state = LogLinear(d_model=64, d_state=16, n_levels=8)(torch.randn(2, 10, 64))
        >>> y.shape, state.S.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 8, 2, 16, 64]))
    """

    State: ClassVar[Any] = LogLinearState
    only_scans = False
    varies_when_cut = "sums within a part are taken over all of its tokens at once"
    _no_weight_decay = (*Mamba2._no_weight_decay, "L")  # type: ignore[assignment]

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        n_levels: int = 15,
        d_conv: int = 4,
        expand: int = 2,
        n_heads: int | None = None,
        n_groups: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if positive("LogLinear", "n_levels", n_levels) < 2:
            raise ValueError(f"LogLinear: n_levels must be at least 2, got {n_levels}")
        super().__init__(d_model, d_state, d_conv, expand, n_heads, n_groups, device=device, dtype=dtype)
        self.n_levels = n_levels
        self.level_proj = WideLinear(d_model, self.n_heads * n_levels, bias=False, device=device, dtype=dtype)
        self.L = nn.Parameter(torch.ones(self.n_heads, n_levels, device=device, dtype=dtype))

    def levels(self, x: Tensor) -> Tensor:
        """lambda (B, T, H, levels) in at least float32."""
        z = self.level_proj(x).unflatten(-1, (self.n_heads, self.n_levels))  # (B, T, H, levels)
        return softplus(self.L.to(z.dtype) * z)

    def _parts(
        self, x: Tensor, window: Tensor | None, cu_seqlens: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
        """C, B, dt u, log a and lambda in at least float32, u, z, and the new window."""
        z, ubc, dt, window = self._project(x, window, cu_seqlens)
        wide = self.n_groups * self.d_state
        u, B, C = ubc.to(recurrent_dtype(x.dtype)).split((self.d_inner, wide, wide), dim=-1)
        u = u.unflatten(-1, (self.n_heads, -1))  # (B, T, H, P)
        with torch.autocast(x.device.type, enabled=False):
            parts = (self._to_heads(C), self._to_heads(B), dt[..., None] * u, self.log_decay(dt), self.levels(x))
        return parts, u, z, window

    def _output(self, o: Tensor, u: Tensor, z: Tensor) -> Tensor:
        """y (B, T, d_model) of what is read, o (B, T, H, P)."""
        o = o + self.D.to(o.dtype)[:, None] * u
        return self.out_proj(self.norm(o.flatten(2).to(z.dtype) * silu(z)))  # over (B, T, d_inner)

    def mix(  # type: ignore[override]
        self, x: Tensor, state: LogLinearState, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, LogLinearState]:
        parts, u, z, window = self._parts(x, state.conv, cu_seqlens)
        S, length = state.S.to(u.dtype), state.length
        with torch.autocast(x.device.type, enabled=False):
            o, S = self._scan(parts, S, length, cu_seqlens)
        length = length + (x.shape[1] if cu_seqlens is None else cu_seqlens.diff())
        return self._output(o, u, z), LogLinearState(window, S, length)

    def mix_padded(self, x: Tensor, state: LogLinearState, lengths: Tensor) -> tuple[Tensor, LogLinearState]:
        """`mix` of a padded batch: the convolution is packed, the rest goes on as one."""
        row, offsets, twice = in_one_row(without_padding(x, lengths), lengths)
        parts, u, z, window = self._parts(row, state.conv[twice], offsets)
        *parts, u, z = (out_of_the_row(t, len(x)) for t in (*parts, u, z))  # type: ignore[assignment]
        with torch.autocast(x.device.type, enabled=False):
            o, S = scan(*parts, state.S.to(u.dtype), state.length, lengths)  # type: ignore[call-arg]
        return self._output(o, u, z), LogLinearState(window[::2].clone(), S, state.length + lengths)

    def _scan(
        self, parts: tuple[Tensor, ...], S: Tensor, length: Tensor, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if cu_seqlens is None:
            return scan(*parts, S, length)  # type: ignore[call-arg]
        check_offsets("LogLinear", cu_seqlens, parts[0].shape[1])
        outputs, finals = [], []
        for s, (first, last) in enumerate(pairwise(cu_seqlens.tolist())):
            final = S[s : s + 1]
            if last > first:
                rows = (part[:, first:last] for part in parts)
                o, final = scan(*rows, final, length[s : s + 1])  # type: ignore[call-arg]
                outputs.append(o)
            finals.append(final)
        return torch.cat(outputs, 1), torch.cat(finals)

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        inner = self.n_heads, self.d_state, self.d_inner // self.n_heads
        check_shapes("LogLinear", state, S=(self.n_levels, *inner))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> LogLinearState:  # type: ignore[override]
        """Zeros, no token read."""
        conv, S = super().init_state(batch_size, device=device, dtype=dtype)
        shape = (batch_size, self.n_levels, *S.shape[1:])
        return LogLinearState(conv, S.new_zeros(shape), S.new_zeros(batch_size, dtype=torch.int64))

    def state_size(self, sequence_length: int = 1) -> int:
        """d_inner N for each level, and the window of the convolution."""
        return super().state_size() + (self.n_levels - 1) * self.d_inner * self.d_state

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`decays` a_t (B, T, H) of all levels, and the weights of `levels` (B, T, H, levels), from an empty window.

        Levels merge, so that no transition belongs to a token alone.
        """
        (_, _, _, log_a, level), _, _, _ = self._parts(x, None, None)
        return {"decays": log_a.exp(), "levels": level}

    def linear_form(self, x: Tensor) -> Direct:  # type: ignore[override]
        """Values dt_t u_t, P for each head; M[t, s] = lambda_t of their level, decay, C_t . B_s. D comes after it."""
        (q, k, v, log_g, level), u, z, _ = self._parts(x, None, None)
        start = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Direct(
            v.unsqueeze(-2),
            lambda o: self._output(o.squeeze(-2), u, z),
            weights(q, k, log_g, level, start)[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_levels={self.n_levels}"
