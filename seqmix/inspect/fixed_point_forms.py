"""The linear forms of fixed-point layers: a token is a linear system, linear in state and value.

Gates see the token before; here they are what they are at the solution, and so is the deviation of every norm.
"""

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from seqmix.inspect.forms import Recurrence, register_linear_form
from seqmix.kernels import selective_scan
from seqmix.kernels.fixed_point.rows import previous_token
from seqmix.kernels.fixed_point.selective_scan.cell import norm
from seqmix.mixers.fp_mamba import FixedPointMamba
from seqmix.mixers.fp_rnn import FixedPointRNN


@register_linear_form(FixedPointRNN)
def fp_rnn(layer: FixedPointRNN, x: Tensor) -> Recurrence:
    """Values e_t (N,), what is written; h_t = M^-1 Lambda h_{t-1} + M^-1 (I - Lambda) Q e_t, M = I - (I - Lambda) K."""
    p, *gates = layer.preactivations(x).split((layer.cell.size, *(layer.d_state,) * 2 * layer.output_gate), -1)
    h0 = layer.init_state(len(x), device=x.device, dtype=x.dtype).h
    h, _, _ = layer.scan(p, h0, None, layer.solver_for(x))
    before = previous_token(h, h0, None)
    g = layer.cell.gates(p, layer.weight_hidden.to(p.dtype), before)
    k = layer.cell.mixing.dense(g.factors)  # type: ignore[arg-type]
    eye = torch.eye(layer.d_state, dtype=p.dtype, device=p.device)
    inverse = torch.linalg.inv_ex(eye - g.write.unsqueeze(-1) * k)[0]
    a = (inverse * g.decay.unsqueeze(-2)).unsqueeze(2)
    write = (inverse * g.write.unsqueeze(-2) @ (eye - k)).unsqueeze(2)
    c, z = gates or (None, None)
    if c is not None and layer.weight_c is not None:
        c = c + layer.cell.seen(before) @ layer.weight_c.to(c.dtype).mT

    def output(o: Tensor) -> Tensor:
        out = o.flatten(2)
        out = out if c is None or z is None else silu(z) * silu(c) * out
        out = rms_norm(out, (layer.d_state,), layer.weight_norm.to(out.dtype), 1e-5)
        return layer.proj_out(out.to(x.dtype))

    values = g.e[:, :, None, :, None]
    return Recurrence(values, output, lambda t: a[:, t], write, eye.expand_as(a))


@register_linear_form(FixedPointMamba)
def fp_mamba(layer: FixedPointMamba, x: Tensor) -> Recurrence:
    """Values u_t (d_inner,) and one, states s_t (d_inner N,), read is y_t, all in one block.

    With G_t = diag(w / deviation) (I - mean), E_t = e^{dt A} and the gain dt b.c + D, a token is
    y = G (c E s_{t-1} + gain x) + bias, x = Q u + K y, s_t = E s_{t-1} + dt x b^T. A_t is formed when it is asked for,
    since it has (d_inner N)^2 entries. The bias of the norm is what a last value, one, is mapped to.
    """
    state = layer.init_state(len(x), device=x.device, dtype=x.dtype)
    y, z, _, _ = layer.solve(x, state, None)
    inputs, _, _ = layer.inputs(x, state.conv, None)
    u, dt, D, n = inputs.u, inputs.dt, inputs.u.shape[-1], layer.d_state
    g = layer.cell.gates(inputs.p, inputs.weight, previous_token(y, state.y, None))
    o, _ = selective_scan(layer.cell.mixed(g, u, y), dt, inputs.A, g.b, g.c, inputs.D)
    inverse = norm(o, inputs.norm).inverse
    eye = torch.eye(D, dtype=u.dtype, device=u.device)
    K = layer.cell.mixing.dense(g.factors)  # type: ignore[arg-type]
    G = inputs.norm[0][:, None] * inverse.unsqueeze(-1) * (eye - 1 / D)
    gain = layer.cell.gain(g, dt, inputs.D)
    # y = Y (c E s + gain Q u)
    Y = torch.linalg.solve_ex(eye - G * gain.unsqueeze(-2) @ K, G)[0]
    skip = Y * gain.unsqueeze(-2) @ (eye - K)
    mixed = eye - K + K @ skip
    values = u
    if layer.norm_bias is not None:
        # y for u = 0 and s = 0
        constant = inputs.norm[1] + (Y * gain.unsqueeze(-2) @ K) @ inputs.norm[1]
        values = torch.cat((u, torch.ones_like(u[..., :1])), -1)
        skip = torch.cat((skip, constant.unsqueeze(-1)), -1)
        mixed = torch.cat((mixed, K @ constant.unsqueeze(-1)), -1)
    kept = (dt.unsqueeze(-1) * inputs.A).exp()  # E (B, T, D, N)
    told = (g.c.unsqueeze(-2) * kept).flatten(-2)  # c E, (B, T, D N)
    wrote = dt.unsqueeze(-1) * g.b.unsqueeze(-2)  # (B, T, D, N)

    def spread(matrix: Tensor, weights: Tensor) -> Tensor:
        """(..., i, d) times weights (..., d N), as (..., i, d N)."""
        return matrix.repeat_interleave(n, -1) * weights.unsqueeze(-2)

    def raise_(matrix: Tensor, weights: Tensor) -> Tensor:
        """(..., d, j) as (..., d N, j), its rows times weights (..., d, N)."""
        return (weights.unsqueeze(-1) * matrix.unsqueeze(-2)).flatten(-3, -2)

    def transition(t: int) -> Tensor:
        through = raise_(spread((K @ Y)[:, t], told[:, t]), wrote[:, t])
        return (through + torch.diag_embed(kept[:, t].flatten(-2))).unsqueeze(1)

    return Recurrence(
        values[:, :, None, :, None],
        lambda read: layer.out_proj((read.flatten(2) * silu(z)).to(x.dtype)),
        transition,
        raise_(mixed, wrote).unsqueeze(2),
        spread(Y, told).unsqueeze(2),
        skip.unsqueeze(2),
        early=True,
    )
