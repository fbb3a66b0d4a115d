"""A model in float64 whose gates are looked at one by one, by its own modules: what certificates are checked with."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.models import SequenceModel

__all__ = ["HardModel", "Rows", "copied", "require"]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"certificate: {message}")


class Rows(NamedTuple):
    """For each of P inputs and K entries: which entry is copied, K for the input; its sign; what is written."""

    source: Tensor
    sign: Tensor
    value: Tensor


class HardModel:
    """A model in float64 whose gates are looked at one by one."""

    def __init__(self, model: SequenceModel) -> None:
        self.own = model
        self.model = SequenceModel(**model.config, dtype=torch.float64)
        self.model.load_state_dict(
            {name: tensor.detach().cpu().double() for name, tensor in model.state_dict().items()}
        )
        self.blocks: list[Any] = list(self.model.eval().blocks)
        self.sizes = [block.mixer.proj_out.in_features for block in self.blocks]
        self.has_mlp = any(block.mlp is not None for block in self.blocks)
        head: Any = self.model.embedding if self.model.head is None else self.model.head
        # A positive factor away from the logits: the norm's weight and its mean, without its standard deviation.
        self.scaled = head.weight * self.model.norm.weight
        self.head = self.scaled - self.scaled.mean(1, keepdim=True)
        self.sizes_of_head = head.weight.abs().sum(1) + self.scaled.abs().sum(1)

    def logits(self, mixer: Any, u: Tensor) -> Tensor:
        """(P, N, rows, m + 1) for normalised inputs (P, D)."""
        logits = mixer.logits(u.unsqueeze(1)).squeeze(1)
        return logits.unsqueeze(2) if logits.ndim == 3 else logits

    def rows(self, layer: int, x: Tensor) -> Rows:
        mixer, u = self.blocks[layer].mixer, self.blocks[layer].mixer_norm(x)
        logits = self.logits(mixer, u)
        signed = getattr(mixer, "normalization", "softmax") == "l1"
        sizes = logits.abs() if signed else logits
        first, second = sizes.topk(2, dim=-1).values.unbind(-1)
        decided = first - second > 1e-6 * logits.abs().amax(-1)
        require(bool(decided.all()), f"two gates of layer {layer} are too close to tell which is larger")
        chosen = sizes.argmax(-1)
        sign = logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1).sign() if signed else torch.ones_like(first)
        points, n, rows, slots = logits.shape
        m = slots - 1
        value = mixer.proj_v(u).view(points, n, rows)
        if rows < m:  # lags of H-LRU: all but the newest move on by one
            chosen = torch.cat([chosen, torch.arange(m - 1).expand(points, n, m - 1)], -1)
            sign, value = F.pad(sign, (0, m - 1), value=1.0), F.pad(value, (0, m - 1))
        source = torch.where(chosen == m, n * m, torch.arange(n).unsqueeze(1) * m + chosen)
        return Rows(source.flatten(1), sign.flatten(1), value.flatten(1))

    def behind(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        """The stream (P, D) behind a layer with state h (P, K)."""
        x = x + self.blocks[layer].mixer.proj_out(h)
        return x if self.blocks[layer].mlp is None else x + self.blocks[layer].mlp(self.blocks[layer].mlp_norm(x))


def copied(rows: Rows, state: Tensor, written: Tensor) -> Tensor:
    """The state (P, K) after `state` (P, K): entries that are copied, or written, with their signs."""
    size = state.shape[1]
    after = torch.where(rows.source == size, written, state.gather(1, rows.source.clamp_max(size - 1)))
    return rows.sign.to(state.dtype) * after
