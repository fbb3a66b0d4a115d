"""What a model is trained beside: the same size in plain torch, and other libraries' layers where they are installed.

Each is a function of a `Workload` to a model from tokens (B, T) to logits (B, T, V).
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from seqmix.benchmarks.workload import Workload

__all__ = ["PEERS", "installed_peers", "of_transformers"]


class _Stack(nn.Module):
    """Embedding, layers with a norm before and a skip around each, norm, head."""

    def __init__(self, workload: Workload, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workload.vocab_size, workload.d_model)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(workload.d_model) for _ in layers)
        self.norm = nn.LayerNorm(workload.d_model)
        self.head = nn.Linear(workload.d_model, workload.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = layer(norm(x))
            x = x + (y[0] if isinstance(y, tuple) else y)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads, self.qkv, self.out = n_heads, nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, T, K) each
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _Logits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits  # type: ignore[no-any-return]


def _mlp(workload: Workload) -> nn.Module:
    d = workload.d_model
    return nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))


def _lstm(workload: Workload) -> nn.Module:
    d = workload.d_model
    return _Stack(workload, [nn.LSTM(d, d, batch_first=True) for _ in range(workload.n_layers)])


def _transformer(workload: Workload) -> nn.Module:
    heads = max(1, workload.d_model // 64)
    layers = [each for _ in range(workload.n_layers) for each in (_Attention(workload.d_model, heads), _mlp(workload))]
    return _Stack(workload, layers)


def _mambapy(workload: Workload) -> nn.Module:
    from mambapy.mamba import MambaBlock, MambaConfig

    config = MambaConfig(d_model=workload.d_model, n_layers=workload.n_layers)
    return _Stack(workload, [MambaBlock(config) for _ in range(workload.n_layers)])


def of_transformers(kind: str, workload: Workload, **arguments: Any) -> nn.Module:
    """The language model of transformers of this kind and of the workload's sizes; Mamba-2 with heads as ours."""
    import transformers

    if kind == "Mamba2":
        arguments |= {"num_heads": 2 * workload.d_model // 64, "head_dim": 64, "n_groups": 1}
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=workload.vocab_size,
        hidden_size=workload.d_model,
        num_hidden_layers=workload.n_layers,
        **arguments,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config)  # type: ignore[no-any-return]


def _logits_of(kind: str) -> Callable[[Workload], nn.Module]:
    return lambda workload: _Logits(of_transformers(kind, workload, use_cache=False))


# name: (package, function)
PEERS: dict[str, tuple[str, Callable[[Workload], nn.Module]]] = {
    "torch.nn.LSTM": ("torch", _lstm),
    "transformer with SDPA": ("torch", _transformer),
    "mambapy Mamba": ("mambapy", _mambapy),
    "transformers Mamba": ("transformers", _logits_of("Mamba")),
    "transformers Mamba-2": ("transformers", _logits_of("Mamba2")),
}


def installed_peers() -> list[str]:
    """Names of those that can be built here."""
    return [name for name, (package, _) in PEERS.items() if importlib.util.find_spec(package) is not None]
