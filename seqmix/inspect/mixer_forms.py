"""The linear forms of layers without a fixed point: each reads like the equations on top of its mixer's file.

Shapes as in `seqmix.inspect.forms`: values (B, T, H, I, V), A_t (B, H, n[, n]), W (B, T, H, n, I),
R (B, T, H, O, n). Where queries and keys turn, states are seen in the frame that turns with them, in which
R(-omega_t) is part of the transition and nothing else turns.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, pad, silu

from seqmix.inspect.forms import Direct, Recurrence, register_linear_form
from seqmix.kernels import causal_conv1d
from seqmix.mixers import (
    BDLRU,
    HLRU,
    LRU,
    RGLRU,
    Attention,
    DeltaNet,
    DenseRNN,
    GatedLinearAttention,
    Mamba,
    Mamba2,
    Mamba3,
)
from seqmix.mixers._heads import rms_norm, unit
from seqmix.mixers._positions import table, turn, turn_back
from seqmix.mixers.base import recurrent_dtype


@register_linear_form(LRU)
def lru(layer: LRU, x: Tensor) -> Recurrence:
    """Values B x_t in C^N; M[t, s] = lambda^(t - s) gamma."""
    a, real = layer.eigenvalues(), recurrent_dtype(x.dtype)
    v = torch.complex(linear(x, layer.B_re).to(real), linear(x, layer.B_im).to(real))
    gamma = layer.gamma_log.to(real).exp().to(a.dtype)

    def output(o: Tensor) -> Tensor:
        h = o[..., 0, 0]
        return linear(h.real.to(x.dtype), layer.C_re) - linear(h.imag.to(x.dtype), layer.C_im) + layer.D * x

    write = gamma[:, None, None].expand(*v.shape, 1, 1)
    transition = a.expand(len(x), -1)[..., None]
    return Recurrence(v[..., None, None], output, lambda t: transition, write, torch.ones_like(write))


@register_linear_form(HLRU)
def h_lru(layer: HLRU, x: Tensor) -> Recurrence:
    """Values W_v x_t; states, and what is read, are (h_t, ..., h_{t-m+1}): A is a companion matrix, R the identity."""
    gates, m = layer.gates(x), layer.order
    v = layer.proj_v(x).to(gates.dtype)
    eye = torch.eye(m, dtype=gates.dtype, device=x.device)
    companion = torch.cat((gates[..., None, :-1], eye[:-1].expand(*v.shape, -1, -1)), dim=-2)
    return Recurrence(
        v[..., None, None],
        lambda o: layer.proj_out(o.flatten(2).to(x.dtype)),
        _at(companion),
        gates[..., -1:, None] * eye[:, :1],
        eye.expand(*v.shape, -1, -1),
    )


@register_linear_form(BDLRU)
def bd_lru(layer: BDLRU, x: Tensor) -> Recurrence:
    """Values W_v x_t, m for each block; M[t, s] = A_t ... A_{s+1} diag(a0_s)."""
    gates = layer.gates(x)
    v = layer.proj_v(x).to(gates.dtype).unflatten(-1, (layer.n_blocks, layer.block_size))
    return _read_whole(
        v, gates[..., :-1], torch.diag_embed(gates[..., -1]), lambda o: layer.proj_out(o.flatten(2).to(x.dtype))
    )


@register_linear_form(DenseRNN)
def dense(layer: DenseRNN, x: Tensor) -> Recurrence:
    """Values W_b x_t (n,); M[t, s] = A_t ... A_{s+1}."""
    a = layer.transition(x).unsqueeze(2)
    v = layer.proj_in(x).to(a.dtype).unsqueeze(2)
    write = torch.eye(layer.d_state, dtype=a.dtype, device=x.device).expand_as(a)
    return _read_whole(v, a, write, lambda o: layer.proj_out(o.flatten(2).to(x.dtype)))


@register_linear_form(RGLRU)
def rg_lru(layer: RGLRU, x: Tensor) -> Recurrence:
    """Values are the convolved u_t; M[t, s] = a_t ... a_{s+1} sqrt(1 - a_s^2) i_s."""
    u, z, _ = layer._convolve(x, None, None)
    a, gain = layer.coefficients(u)
    write = gain[..., None, None]
    return Recurrence(
        u.to(a.dtype)[..., None, None],
        lambda o: layer.out_proj(gelu(z) * o[..., 0, 0].to(z.dtype)),
        _at(a[..., None]),
        write,
        torch.ones_like(write),
    )


@register_linear_form(Mamba)
def mamba(layer: Mamba, x: Tensor) -> Recurrence:
    """Values are the convolved u_t; M[t, s] = sum_n C_tn decay_t..decay_{s+1} dt_s B_sn, and D on the diagonal."""
    u, z = layer.in_proj(x).chunk(2, dim=-1)
    u, _ = layer.conv1d(u)
    dt, a, b, c = layer.selection(u)
    decay = (dt[..., None] * a).exp()
    if layer.eigenvalues == "signed":
        decay = 2 * decay - 1
    return Recurrence(
        u.to(dt.dtype)[..., None, None],
        lambda o: layer.out_proj(o[..., 0, 0].to(z.dtype) * silu(z)),
        _at(decay),
        (dt[..., None] * b.to(dt.dtype)[:, :, None])[..., None],
        c.to(dt.dtype)[:, :, None, None].expand(*dt.shape, 1, -1),
        layer.D.to(dt.dtype)[:, None, None],
    )


@register_linear_form(Mamba2)
def mamba2(layer: Mamba2, x: Tensor) -> Recurrence:
    """Values are the convolved u_t, P for each head; M[t, s] = C_t . B_s decay dt_s, and D on the diagonal."""
    z, ubc, dt, _ = layer._project(x, None, None)
    wide = layer.n_groups * layer.d_state
    u, b, c = ubc.to(dt.dtype).split((layer.d_inner, wide, wide), dim=-1)
    b, c = layer._to_heads(b), layer._to_heads(c)
    decay = layer.log_decay(dt).exp()

    def output(o: Tensor) -> Tensor:
        return layer.out_proj(layer.norm(o.flatten(2).to(z.dtype) * silu(z)))

    return Recurrence(
        u.unflatten(-1, (layer.n_heads, 1, -1)),
        output,
        _at(decay[..., None].expand_as(b)),
        (dt[..., None] * b)[..., None],
        c.unsqueeze(-2),
        layer.D.to(dt.dtype)[:, None, None],
    )


@register_linear_form(Mamba3)
def mamba3(layer: Mamba3, x: Tensor) -> Recurrence:
    """Values are u_t, P for each head; the state already holds what a token leaves for the one after it."""
    z, u, q, k, dt, log_alpha, trapezoid, omega = layer._project(x)
    a = log_alpha.exp()[..., None, None] * turn_back(omega)
    now, later = trapezoid * dt, pad(((1 - trapezoid) * dt)[:, 1:], (0, 0, 0, 1))
    skip = now * (q * k).sum(-1) + layer.D.to(dt.dtype)
    return Recurrence(
        u.to(dt.dtype).unflatten(-1, (layer.n_heads, 1, -1)),
        lambda o: layer.out_proj(o.flatten(2).to(z.dtype) * silu(z)),
        _at(a),
        ((now + later)[..., None] * k)[..., None],
        q.unsqueeze(-2) @ a,
        skip[..., None, None],
        early=True,
    )


@register_linear_form(GatedLinearAttention)
def gla(layer: GatedLinearAttention, x: Tensor) -> Recurrence:
    """Values v_t, V for each head; M[t, s] = q_t . decay_t ... decay_{s+1} k_s / sqrt(K), with the turns."""
    keys, values = layer.n_heads * layer.d_key, layer.n_heads * layer.d_value
    qkv, z = layer.in_proj(x).split((2 * keys + values, values), dim=-1)
    if layer.conv_weight is not None:
        qkv, _ = causal_conv1d(qkv, layer.conv_weight, None, "silu")
    decay = layer.log_decay(x).exp()
    q, k, v = (t.unflatten(-1, (layer.n_heads, -1)).to(decay.dtype) for t in qkv.split((keys, keys, values), dim=-1))
    a, (window, angle) = decay, layer.position.init_state(len(x), x.device, x.dtype)
    if layer.tie_decay and layer.position.n_angles:
        a = decay[..., None] * turn_back(layer.position.increments(x, window, None)[0].to(decay.dtype))
    else:  # decays that do not commute with turns act on states that do not turn
        (q, k), _, _ = layer.position.rotate(x, (q, k), (window, angle), None)

    def output(o: Tensor) -> Tensor:
        return layer.out_proj(rms_norm(o.squeeze(-2).to(x.dtype), layer.norm_weight).flatten(2) * silu(z))

    return Recurrence(v.unsqueeze(-2), output, _at(a), k.unsqueeze(-1), q.unsqueeze(-2) * layer.d_key**-0.5)


@register_linear_form(DeltaNet)
def deltanet(layer: DeltaNet, x: Tensor) -> Recurrence:
    """Values v_{t,i}, n of V numbers for each head: step i writes beta_i k_i, and what later steps leave of it."""
    state = layer.init_state(len(x), device=x.device, dtype=x.dtype)
    q, keys, v, _ = layer.split(x, state.conv, None)
    beta, _ = layer.gates(x)
    a, columns = layer.transition(x, keys, beta), list[Tensor]()
    for i, key in enumerate(keys):
        k = unit(key).to(beta.dtype)
        step = beta[..., i, None] * k
        columns = [column - step * (k * column).sum(-1, keepdim=True) for column in columns]
        columns.append(step)

    def output(o: Tensor) -> Tensor:
        y = rms_norm(o.squeeze(-2).to(x.dtype), layer.norm_weight).flatten(2)
        return layer.out_proj(y if layer.gate_proj is None else y * silu(layer.gate_proj(x)))

    read = unit(q).to(beta.dtype).unsqueeze(-2) * layer.d_key**-0.5
    return Recurrence(v.to(beta.dtype), output, _at(a), torch.stack(columns, dim=-1), read)


@register_linear_form(Attention)
def attention(layer: Attention, x: Tensor) -> Direct:
    """Values v_t, K for each head; M is the softmax over the keys in sight."""
    qkv = layer.qkv_proj(x)
    if layer.conv_weight is not None:
        qkv, _ = causal_conv1d(qkv, layer.conv_weight)
    q, k, v = qkv.unflatten(-1, (3, layer.n_heads, layer.d_head)).unbind(2)
    (q, k), _, _ = layer.rotary.rotate(x, (q, k), layer.rotary.init_state(len(x), x.device, x.dtype), None)
    real = recurrent_dtype(x.dtype)
    if layer.position == "rope":
        start = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        cos, sin = table(start, x.shape[1], layer.d_head, layer.rope_base, real)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
    scores = torch.einsum("bthk,bshk->bhts", q.to(real), k.to(real)) / math.sqrt(layer.d_head)
    if layer.forget_gate:
        sums = layer._log_forget(x).cumsum(1).transpose(1, 2)
        scores = scores + sums[..., :, None] - sums[..., None, :]
    time = torch.arange(x.shape[1], device=x.device)
    age = time[:, None] - time
    seen = (age >= 0) & (age < (layer.window or len(time)))
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    return Direct(
        v.to(real).unsqueeze(-2),
        lambda o: layer.out_proj(o.squeeze(-2).flatten(2).to(x.dtype)),
        weights[..., None, None],
    )


def _read_whole(v: Tensor, a: Tensor, write: Tensor, output: Callable[[Tensor], Tensor]) -> Recurrence:
    """A recurrence whose whole state (B, T, H, n) is read."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    return Recurrence(v.unsqueeze(-1), output, _at(a), write, eye.expand_as(a))


def _at(transitions: Tensor) -> Callable[[int], Tensor]:
    return lambda t: transitions[:, t]
