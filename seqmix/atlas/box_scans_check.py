"""Steps of boxes of Mamba and PD-SSM for who checks them: ends by the layers' own modules in float64, other bounds.

Numbers are pairs of ends, (2, ...). Rounding of n terms is taken to be 2 (n + 16) units of the sizes that are added up.
What is exact is said in `seqmix.atlas.box_scans`, and decided here by what the modules say.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["CheckedMamba", "CheckedPDSSM", "products"]

_OUT = torch.tensor([-1.0, 1.0], dtype=torch.float64)


def products(a: Tensor, b: Tensor) -> Tensor:
    """Ends (2, ...) of products of what lies between ends."""
    corners = torch.stack([x * y for x in a for y in b])
    return torch.stack([corners.amin(0), corners.amax(0)])


class _Checked:
    """Tokens' inputs x +- what a layer norm's rounding makes of them, and the type's ends."""

    def __init__(self, wide: Any, dtype: torch.dtype) -> None:
        info = torch.finfo(dtype)
        self.unit, self.least = info.eps / 2, info.tiny * 2**10
        self.vanishes = math.log(info.smallest_normal) + math.log(info.eps) - 2
        self.mixer = wide.blocks[0].mixer
        norm, tokens = wide.blocks[0].mixer_norm, wide.embedding.weight
        x, plain = norm(tokens), F.layer_norm(tokens, norm.normalized_shape, eps=norm.eps).abs()
        size = (plain + plain.mean(-1, keepdim=True)) * norm.weight.abs()
        self.x = self.out(torch.stack([x, x]), (x.shape[-1] + 16) * self.unit * size)

    def out(self, x: Tensor, room: Tensor | float) -> Tensor:
        return x + _OUT.view(2, *[1] * (x.ndim - 1)) * room

    def exactly(self, x: Tensor, where: Tensor, value: float) -> Tensor:
        return torch.where(where, torch.full_like(x, value), x)

    def near(self, x: Tensor, size: Tensor | None = None, terms: int = 1) -> Tensor:
        size = x.abs().amax(0) if size is None else size
        room = 2 * (terms + 3) * self.unit * size + self.least
        return self.exactly(self.out(x, room), size == 0, 0.0)

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        w = layer.weight
        bias = torch.zeros(len(w), dtype=w.dtype) if layer.bias is None else layer.bias
        ends = x @ w.clamp_min(0).T + x.flip(0) @ w.clamp_max(0).T + bias
        size = x.abs().amax(0) @ w.abs().T
        room = 2 * (w.shape[1] + 16) * self.unit * (size + bias.abs()) + self.least
        return self.exactly(self.out(ends, room), (size == 0) & (bias == 0), 0.0)

    def bent(self, function: Callable[[Tensor], Tensor], x: Tensor, lowest: float) -> Tensor:
        """A function that falls until `lowest` and rises from there, as silu and GELU do."""
        ends = function(x)
        inside = (x[0] < lowest) & (x[1] > lowest)
        least = function(torch.full_like(x[0], lowest))
        low = torch.where(inside, least, ends.amin(0))
        return self.near(torch.stack([low, ends.amax(0)]), terms=13)

    def silu(self, x: Tensor) -> Tensor:
        gone = (x[1] < self.vanishes) | (x == 0).all(0)
        return self.exactly(self.bent(F.silu, x, -1.2784645), gone, 0.0)


class CheckedMamba(_Checked):
    def __init__(self, wide: Any, dtype: torch.dtype) -> None:
        super().__init__(wide, dtype)
        m, unit = self.mixer, self.unit
        u, z = self.linear(m.in_proj, self.x).chunk(2, -1)
        taps = m.conv1d.weight[:, 0, 0]
        bias = torch.zeros_like(taps) if m.conv1d.bias is None else m.conv1d.bias
        scaled = products(u, torch.stack([taps, taps]))
        u = self.silu(self.near(scaled + bias, scaled.abs().amax(0) + bias.abs()))
        r, b, c = self.linear(m.x_proj, u).split([m.dt_rank, m.d_state, m.d_state], -1)
        before = self.linear(m.dt_proj, r)
        dt = self.exactly(self.near(F.softplus(before), terms=13), before[1] < self.vanishes, 0.0)
        dt = dt.clamp_min(0).unsqueeze(-1)
        rates = -m.A_log.exp()
        power = self.near(products(dt, torch.stack([rates, rates])))
        e = self.near(power.exp(), terms=13).clamp_min(0)
        one = power.abs().amax(0) < unit / 4
        e = self.exactly(self.exactly(e, power[1] < self.vanishes, 0.0), one, 1.0)
        self.a = e
        if m.eigenvalues == "signed":
            a = self.near(2 * e - 1, 2 * e[1] + 1)
            self.a = self.exactly(self.exactly(a, e[1] < unit / 4, -1.0), one, 1.0)
        self.w = self.near(products(products(dt, u.unsqueeze(-1)), b.unsqueeze(-2)), terms=3)
        self.c, self.gate = c, self.silu(z)
        self.skip = self.near(products(u, torch.stack([m.D, m.D])))

    def start(self) -> Tensor:
        return torch.zeros(2, self.mixer.d_inner * self.mixer.d_state, dtype=torch.float64)

    def step(self, token: int, box: Tensor) -> Tensor:
        a, w = self.a[:, token].flatten(1), self.w[:, token].flatten(1)
        kept = products(a, box)
        still = (a[0] == a[1]) & ((a[0] == 0) | ((a[0].abs() == 1) & (w == 0).all(0)))
        near = self.out(kept + w, 8 * self.unit * (kept.abs().amax(0) + w.abs().amax(0)) + self.least)
        return torch.where(still, kept + w, near)

    def said(self, token: int, box: Tensor) -> list[tuple[Tensor, Tensor]]:
        states = box.unflatten(1, (self.mixer.d_inner, self.mixer.d_state))
        read = products(states, self.c[:, token].unsqueeze(-2))
        total = read.sum(-1) + self.skip[:, token]
        sizes = read.abs().amax(0).sum(-1) + self.skip[:, token].abs().amax(0)
        total = self.near(total, sizes, terms=self.mixer.d_state)
        return [(self.mixer.out_proj.weight, self.near(products(total, self.gate[:, token])))]


class CheckedPDSSM(_Checked):
    def __init__(self, wide: Any, dtype: torch.dtype) -> None:
        super().__init__(wide, dtype)
        m, unit = self.mixer, self.unit
        self.n = m.d_state
        grow, turn = (self._hidden(part) for part in (m.magnitude, m.phase))
        size = self.near(grow.sigmoid(), terms=13)
        size = self.exactly(size, grow[0] > -math.log(unit / 2), 1.0)
        angle = self.exactly(self.near(turn.sigmoid(), terms=13), turn[1] < self.vanishes, 0.0) * 2 * math.pi
        still, half = (angle == 0).all(0), (angle[1] - angle[0]) / 2 + 32 * unit
        whole = still & (size == 1).all(0)
        turned = [self.out(f(angle.mean(0)).expand(2, *half.shape), half) for f in (torch.cos, torch.sin)]
        self.d = [
            self.exactly(self.near(products(size, self.exactly(part, still, value))), whole, value)
            for part, value in zip(turned, (1.0, 0.0), strict=True)
        ]
        self.whole, self.written = whole, self.linear(m.in_proj, self.x)
        self.skip = self.near(products(self.x, torch.stack([m.F, m.F])))
        logits = self.linear(m.select_proj, self.x)
        self.weights = logits.mean(0).softmax(-1)
        self.doubt = (logits[1] - logits[0]).amax(-1).expm1() + 4 * (len(m.dictionary) + 16) * unit

    def _hidden(self, part: Any) -> Tensor:
        return self.linear(part[2], self.bent(F.gelu, self.linear(part[0], self.x), -0.7517915))

    def start(self) -> Tensor:
        return torch.eye(1, 2 * self.n, dtype=torch.float64).expand(2, -1)

    def _to(self, token: int) -> Tensor:
        """Where entries go, as a matrix (to, from); `ValueError` where that is not decided."""
        matrix = torch.einsum("k,kij->ij", self.weights[token], self.mixer.dictionary)
        room = torch.einsum("k,kij->ij", self.weights[token], self.mixer.dictionary.abs()) * self.doubt[token]
        first = matrix.argmax(0)
        to = F.one_hot(first, self.n).T.bool()
        low = torch.where(to, matrix - room, torch.inf).amin(0)
        if not (low > torch.where(to, -torch.inf, matrix + room).amax(0)).all():
            raise ValueError(f"bracket: where token {token} sends entries is not decided")
        return to.double()

    def step(self, token: int, box: Tensor) -> Tensor:
        to, (re, im) = self._to(token), box.split(self.n, -1)
        d, e = (each[:, token] for each in self.d)
        ends = []
        for a, b, flip, part in ((re, im, -1, slice(0, self.n)), (im, re, 1, slice(self.n, 2 * self.n))):
            one, other = products(d, a), products(e, b)
            sizes = one.abs().amax(0) + other.abs().amax(0)
            moved = one + (other if flip > 0 else -other.flip(0))
            moved = torch.where(self.whole[token], moved, self.out(moved, 8 * self.unit * sizes))
            add, reach = self.written[:, token, part], moved.abs().amax(0)
            count = to @ (reach > 0).double() + (add != 0).any(0)
            room = 2 * (self.n + 1) * self.unit * (to @ reach + add.abs().amax(0)) + self.least
            ends.append(self.out(moved @ to.T + add, torch.where(count > 1, room, 0.0)))
        return torch.cat(ends, -1)

    def said(self, token: int, box: Tensor) -> list[tuple[Tensor, Tensor]]:
        every = torch.eye(self.x.shape[-1], dtype=torch.float64)
        return [(self.mixer.out_proj.weight, box), (every, self.skip[:, token])]
