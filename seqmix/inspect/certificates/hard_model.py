"""The hard network by the model's own modules in float64, held to the proved bounds."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.inspect.certificates.as_built import rebuilt
from seqmix.inspect.certificates.bounds import Spread, margins
from seqmix.inspect.certificates.network import Choices, Network
from seqmix.models import SequenceModel

__all__ = ["HardModel", "Rows", "Stream", "copied", "require"]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"certificate: {message}")


class Rows(NamedTuple):
    """For each of P inputs and K entries: which is copied, K for the input; its sign; what is written, +- radius."""

    source: Tensor
    sign: Tensor
    value: Tensor
    radius: Tensor


class Stream(NamedTuple):
    """The residual stream of P points: as the modules say in float64, and what the model's own type can make of it."""

    x: Tensor
    spread: Spread


class HardModel:
    """A model in float64 whose gates are looked at one by one.

    Which gate is largest and which logit is, the model decides in its own type. Both are taken for decided where the
    bounds of `seqmix.inspect.certificates.bounds` say so, which `certify` goes by too; what the modules say has to lie
    within them.
    """

    def __init__(self, model: SequenceModel) -> None:
        self.own, self.network = model, Network.of(model)
        self.model = rebuilt(model, dtype=torch.float64)
        self.model.load_state_dict(
            {name: tensor.detach().cpu().double() for name, tensor in model.state_dict().items()}
        )
        self.blocks: list[Any] = list(self.model.eval().blocks)
        self.sizes = [layer.size for layer in self.network.layers]
        head: Any = self.model.embedding if self.model.head is None else self.model.head
        # A positive factor away from the logits: the norm's weight and its mean, without its standard deviation.
        scaled = head.weight * self.model.norm.weight
        self._head = scaled - scaled.mean(1, keepdim=True)

    def embed(self, tokens: Tensor) -> Stream:
        return Stream(self.model.embedding(tokens), self.network.embed(tokens.numpy()))

    def rows(self, layer: int, stream: Stream) -> tuple[Rows, Choices]:
        """What a layer does with its inputs; raises `Undecided` where the model might choose either of two gates."""
        proved = self.network.layers[layer].choose(stream.spread, layer, self.network.rounding)
        mixer, u = self.blocks[layer].mixer, self.blocks[layer].mixer_norm(stream.x)
        logits = mixer.logits(u.unsqueeze(1)).squeeze(1)
        logits = logits.unsqueeze(2) if logits.ndim == 3 else logits  # (P, N, rows, m + 1)
        signed = self.network.layers[layer].signed
        chosen = (logits.abs() if signed else logits).argmax(-1)
        sign = logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).sign() if signed else torch.ones(chosen.shape)
        points, n, rows, slots = logits.shape
        m = slots - 1
        value = mixer.proj_v(u).view(points, n, rows)
        if rows < m:  # lags of H-LRU: all but the newest move on by one
            chosen = torch.cat([chosen, torch.arange(m - 1).expand(points, n, m - 1)], -1)
            sign, value = F.pad(sign, (0, m - 1), value=1.0), F.pad(value, (0, m - 1))
        source = torch.where(chosen == m, n * m, torch.arange(n).unsqueeze(1) * m + chosen)
        radius = torch.from_numpy(proved.radius)
        result = Rows(source.flatten(1), sign.flatten(1), value.flatten(1), radius)
        same = (result.source.numpy() == np.where(proved.source < 0, n * m, proved.source)) & (
            result.sign.numpy() == proved.sign
        )
        near = (result.value - torch.from_numpy(proved.value)).abs() <= radius
        require(bool(same.all() and near.all()), f"the modules of layer {layer} do not do what is proved of them")
        return result, proved

    def behind(self, layer: int, stream: Stream, h: Tensor, radius: Tensor) -> Stream:
        """The stream behind a layer with state h +- radius (P, K)."""
        x = stream.x + self.blocks[layer].mixer.proj_out(h)
        if self.blocks[layer].mlp is not None:
            x = x + self.blocks[layer].mlp(self.blocks[layer].mlp_norm(x))
        return Stream(x, self.network.after(stream.spread, layer, h.numpy(), radius.numpy()))

    def margins(self, stream: Stream, targets: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the logits of targets (P,) exceed the others (P, V), with radii; infinite for their own."""
        network = self.network
        found = margins(stream.spread, network.norm, network.head, targets.numpy(), network.rounding)
        value, radius = (torch.from_numpy(each) for each in found)
        logits = stream.x @ self._head.T
        off = (logits.gather(1, targets.unsqueeze(1)) - logits - value).abs()
        near = (off <= radius) | torch.isinf(value)
        require(bool(near.all()), "the modules do not answer what is proved of them")
        return value, radius


def copied(rows: Rows, state: Tensor, written: Tensor) -> Tensor:
    """The state (P, K) after `state` (P, K): entries that are copied, or written, with their signs."""
    size = state.shape[1]
    after = torch.where(rows.source == size, written, state.gather(1, rows.source.clamp_max(size - 1)))
    return rows.sign.to(state.dtype) * after
