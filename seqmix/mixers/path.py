"""PaTH attention: softmax attention whose positions are products of Householder maps of the tokens between (Yang et al.
2025, 2505.16381).

For each head, with K = d_model / H:

    q_t, k_t, v_t = W x_t
    w_t = silu(conv(W_2 W_1 x_t)), of length one;  beta_t = 2 sigmoid(W_b x_t + b) in (0, 2)
    H_t = I - beta_t w_t w_t^T                       (K, K): a reflection where beta is 2
    a_tj = k_j^T H_{j+1} ... H_t q_t / sqrt(K) + sum_{j < s <= t} logsigmoid(w_f . x_s + c)    the sum with forget_gate
    o_t = sum_{j <= t} softmax_j(a_tj) v_j
    y_t = W_o o_t

Seen the other way round a new token changes every key that is kept, k_j <- H_t k_j, and queries meet keys as they are:
so it decodes, at 2 d T numbers a token. For C tokens at once the changes of a key solve a triangular system of size C,
the same for all keys; here C is 64, or all tokens in a compiled graph, which has no loop. Plain torch, quadratic in T.
State: the keys, changed by all that was read since, and the values, both in at least float32 because keys change at
every token, and the window of the convolution.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from seqmix._checks import positive
from seqmix.kernels import causal_conv1d
from seqmix.kernels.checks import check_offsets
from seqmix.mixers._heads import init_taps, unit
from seqmix.mixers._key_rows import moved_to_the_end, right_aligned
from seqmix.mixers._padding import in_one_row, out_of_the_row, padding_of, without_padding
from seqmix.mixers._projections import WideLinear
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.forms import Direct
from seqmix.mixers.registry import register_mixer
from seqmix.mixers.state import Device, DType, check_shapes, mixer_state

CHUNK = 64


@mixer_state
class PaTHState(NamedTuple):
    k: Tensor  # (S, M, H, K), right-aligned as v: the last `length` rows count; float32 or float64
    v: Tensor
    forget: Tensor  # (S, M, H), the log forget gates after each key, summed; (S, M, 0) without
    length: Tensor  # (S,) int64
    conv: Tensor  # (S, d_conv - 1, d_model), in the type of the activations


class Tokens(NamedTuple):
    """What every token brings, heads first: q, k, v, w (B, H, T, K), beta (B, H, T, 1), log_f (B, H, T) or zeros."""

    q: Tensor
    k: Tensor
    v: Tensor
    w: Tensor
    beta: Tensor
    log_f: Tensor


def attend(new: Tokens, k: Tensor, forget: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax weights (B, H, T, M + T), all keys as the last token leaves them (B, H, M + T, K), and what was forgotten
    of each (B, H, M + T); from old keys (B, H, M, K), forget (B, H, M) and which of these count, `seen` (B, M)."""
    length, cached = new.q.shape[2], k.shape[2]
    keys = torch.cat((k, new.k), 2)
    age = torch.arange(length, device=k.device)[:, None] - torch.arange(-cached, length, device=k.device)  # (T, M + T)
    gram = (new.beta * (new.w @ new.w.mT)).tril(-1)
    pull = (new.beta * (new.w @ keys.mT)).masked_fill(age <= 0, 0)
    # Row t: by how much token t moves each key along w_t, after what the tokens before it did.
    pull = torch.linalg.solve_triangular(gram, pull, upper=False, unitriangular=True)
    scores = (new.q @ keys.mT - (new.q @ new.w.mT).tril() @ pull) / math.sqrt(k.shape[-1])
    sums = new.log_f.cumsum(-1)
    forget = torch.cat((forget, -sums), -1)
    hidden = (age < 0) | torch.cat((~seen, seen.new_zeros(len(seen), length)), 1)[:, None, None]  # (B, 1, T, M + T)
    weights = (scores + sums.unsqueeze(-1) + forget.unsqueeze(-2)).masked_fill(hidden, -math.inf).softmax(-1)
    return weights, keys - pull.mT @ new.w, forget + sums[..., -1:]


@register_mixer("path", description="Softmax attention with Householder products for positions.", source="2505.16381")
class PaTH(TokenMixer):
    """PaTH attention.

    Packed sequences are attended to one by one, and `cu_seqlens` is read on the host.

    Args:
        d_model: width of input and output.
        n_heads: H, a divisor of `d_model`.
        w_rank: width between the two maps that make w.
        d_conv: width of the depthwise convolution on w.
        forget_gate: whether scores lose the forget gates between key and query.

    Shapes: x and y (B, T, d_model); state k, v (S, M, H, K), M after M tokens, and small ones.

    Raises:
        ValueError: `n_heads` that does not divide `d_model`, or a size below one.

    Example:
        >>> import torch
        >>> from seqmix import PaTH
        >>> y, state = PaTH(d_model=64)(torch.randn(2, 10, 64))
        >>> y.shape, state.k.shape
        (torch.Size([2, 10, 64]), torch.Size([2, 10, 4, 16]))
    """

    State = PaTHState
    varies_when_cut = "softmax sums over as many keys as there are"
    _no_weight_decay = ("conv_weight",)

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        w_rank: int = 32,
        d_conv: int = 3,
        forget_gate: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(d_model)
        self.n_heads = positive("PaTH", "n_heads", n_heads)
        if d_model % n_heads:
            raise ValueError(f"PaTH: n_heads must divide d_model = {d_model}, got {n_heads}")
        self.w_rank = positive("PaTH", "w_rank", w_rank)
        self.d_conv = positive("PaTH", "d_conv", d_conv)
        self.forget_gate = bool(forget_gate)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.qkv_proj = nn.Linear(d_model, 3 * d_model, bias=False, **where)
        self.w_down = nn.Linear(d_model, w_rank, bias=False, **where)
        self.w_up = nn.Linear(w_rank, d_model, bias=False, **where)
        self.conv_weight = nn.Parameter(torch.empty(d_model, d_conv, **where))
        self.beta_proj = WideLinear(d_model, n_heads, **where)
        self.forget_proj = WideLinear(d_model, n_heads, **where) if forget_gate else None
        self.out_proj = nn.Linear(d_model, d_model, bias=False, **where)
        with torch.no_grad():
            init_taps(self.conv_weight)

    def _tokens(self, x: Tensor, conv: Tensor, cu_seqlens: Tensor | None) -> tuple[Tokens, Tensor]:
        """What every token brings, (B, T, H, ...) in at least float32, and the new window."""
        w, conv = causal_conv1d(
            self.w_up(self.w_down(x)), self.conv_weight, None, "silu", initial_state=conv, cu_seqlens=cu_seqlens
        )
        parts = (*self.qkv_proj(x).chunk(3, -1), w)
        # (B, T, H, K) each
        q, k, v, w = (t.unflatten(-1, (self.n_heads, -1)).to(recurrent_dtype(x.dtype)) for t in parts)
        beta = 2 * self.beta_proj(x).sigmoid()
        log_f = torch.zeros_like(beta) if self.forget_proj is None else logsigmoid(self.forget_proj(x))
        return Tokens(q, k, v, unit(w), beta[..., None], log_f), conv

    def _attend(self, tokens: Tokens, state: PaTHState) -> tuple[Tensor, PaTHState]:
        """o (B, T, d_model) for what `_tokens` gives, and the state but for the window."""
        length, cached = tokens.q.shape[1], state.k.shape[1]
        seen = torch.arange(cached, device=state.k.device) >= cached - state.length[:, None]  # (B, M)
        k, v = (rows.transpose(1, 2).to(tokens.q.dtype) for rows in (state.k, state.v))  # (B, H, M, K)
        forget = state.forget.mT if self.forget_gate else torch.zeros_like(k[..., 0])  # (B, H, M)
        size, outputs = length if torch.compiler.is_compiling() else CHUNK, []
        heads = Tokens(*(t.transpose(1, 2) for t in tokens))
        with torch.autocast(k.device.type, enabled=False):
            for part in zip(*(t.split(size, 2) for t in heads), strict=True) if size < length else [heads]:
                new = Tokens(*part)
                weights, k, forget = attend(new, k, forget, seen)
                v = torch.cat((v, new.v), 2)
                seen = torch.cat((seen, seen.new_ones(len(seen), new.q.shape[2])), 1)
                outputs.append(weights @ v)
        o = torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0]
        k, v = k.transpose(1, 2).contiguous(), v.transpose(1, 2).contiguous()
        forget = forget.mT.contiguous()  # (B, M + T, H)
        if not self.forget_gate:
            forget = torch.cat((state.forget, forget[:, :length, :0]), 1)
        return rearrange(o, "b h t k -> b t (h k)"), PaTHState(k, v, forget, state.length + length, state.conv)

    def mix(self, x: Tensor, state: PaTHState, cu_seqlens: Tensor | None) -> tuple[Tensor, PaTHState]:
        tokens, conv = self._tokens(x, state.conv, cu_seqlens)
        if cu_seqlens is None:
            o, state = self._attend(tokens, state)
        else:
            o, state = self._attend_packed(tokens, state, cu_seqlens)
        return self.out_proj(o.to(x.dtype)), state._replace(conv=conv)

    def mix_padded(self, x: Tensor, state: PaTHState, lengths: Tensor) -> tuple[Tensor, PaTHState]:
        """`mix` of a padded batch: the convolution is packed, the batch is attended to as one."""
        row, offsets, twice = in_one_row(without_padding(x, lengths), lengths)
        tokens, conv = self._tokens(row, state.conv[twice], offsets)
        tokens = Tokens(*(out_of_the_row(t, len(x)) for t in tokens))  # (B, T, H, ...)
        padding = padding_of(x, lengths)  # (B, T, 1)
        # Padding changes no key, and leaves the state.
        beta, log_f = tokens.beta.masked_fill(padding[..., None], 0), tokens.log_f.masked_fill(padding, 0)
        o, after = self._attend(tokens._replace(beta=beta, log_f=log_f), state)
        k, v, forget = (moved_to_the_end(rows, x.shape[1] - lengths) for rows in after[:3])
        state = PaTHState(k, v, forget, state.length + lengths, conv[::2].clone())
        return self.out_proj(o.to(x.dtype)), state

    def _attend_packed(self, tokens: Tokens, state: PaTHState, cu_seqlens: Tensor) -> tuple[Tensor, PaTHState]:
        check_offsets("PaTH", cu_seqlens, tokens.q.shape[1])
        cached, outputs, states = state.k.shape[1], [], []
        for s, (first, last) in enumerate(pairwise(cu_seqlens.tolist())):
            row = state.select(slice(s, s + 1))  # type: ignore[attr-defined]
            kept = {name: getattr(row, name)[:, cached - int(row.length) :] for name in ("k", "v", "forget")}
            row = row._replace(**kept)
            if last > first:
                o, row = self._attend(Tokens(*(t[:, first:last] for t in tokens)), row)
                outputs.append(o)
            states.append(row)
        k, v, forget = (right_aligned(list(rows), rows[0].dtype) for rows in zip(*(s[:3] for s in states), strict=True))
        return torch.cat(outputs, 1), PaTHState(k, v, forget, torch.cat([s.length for s in states]), state.conv)

    def _check_state(self, state: Any, sequences: int, device: torch.device) -> None:
        super()._check_state(state, sequences, device)
        keys = (state.k.shape[1] if state.k.ndim > 1 else 0, self.n_heads)
        head = (*keys, self.d_model // self.n_heads)
        check_shapes("PaTH", state, k=head, v=head, forget=keys if self.forget_gate else (keys[0], 0))

    def init_state(self, batch_size: int, *, device: Device = None, dtype: DType = None) -> PaTHState:
        """No keys yet (M = 0)."""
        device, dtype = self._like(device, dtype)
        where: dict[str, Any] = {"device": device, "dtype": recurrent_dtype(dtype)}
        k, v = (torch.empty(batch_size, 0, self.n_heads, self.d_model // self.n_heads, **where) for _ in range(2))
        return PaTHState(
            k,
            v,
            torch.empty(batch_size, 0, self.n_heads if self.forget_gate else 0, **where),
            torch.zeros(batch_size, device=device, dtype=torch.int64),
            torch.zeros(batch_size, self.d_conv - 1, self.d_model, device=device, dtype=dtype),
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """2 d_model for each token, H more with forget gates, and the convolution's window."""
        kept = 2 * self.d_model + (self.n_heads if self.forget_gate else 0)
        return kept * sequence_length + (self.d_conv - 1) * self.d_model

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """`strength` beta_t (B, T, H): 1 - beta is the eigenvalue of H_t along w_t."""
        return {"strength": 2 * self.beta_proj(x).sigmoid()}

    def linear_form(self, x: Tensor) -> Direct:
        """Values v_t, K for each head; M is the softmax over the keys in sight."""
        state = self.init_state(len(x), device=x.device, dtype=x.dtype)
        tokens = self._tokens(x, state.conv, None)[0]
        k = rearrange(state.k, "b m h k -> b h m k")
        seen = torch.ones(len(x), 0, dtype=torch.bool, device=x.device)
        weights, _, _ = attend(Tokens(*(t.transpose(1, 2) for t in tokens)), k, torch.zeros_like(k[..., 0]), seen)
        return Direct(
            tokens.v.unsqueeze(-2),
            lambda o: self.out_proj(rearrange(o, "b t h 1 k -> b t (h k)").to(x.dtype)),
            weights[..., None, None],
        )

    def extra_repr(self) -> str:
        return f"{self.d_model}, n_heads={self.n_heads}, forget_gate={self.forget_gate}"
