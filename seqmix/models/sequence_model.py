"""`SequenceModel`: embedding, blocks around token mixers, head."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from seqmix.kernels._checks import describe
from seqmix.mixers import TokenMixer, create_mixer
from seqmix.mixers.base import positive
from seqmix.mixers.state import State, mixer_state
from seqmix.models.block import Block, SwiGLU
from seqmix.models.generation import generate
from seqmix.models.pretrained import from_pretrained, save_pretrained

__all__ = ["MixerSpec", "SequenceModel", "SequenceModelState"]

MixerSpec = str | Mapping[str, Any] | Callable[[int], TokenMixer]

_STD = 0.02  # of embedding, head and MLP, as in GPT-2


@mixer_state
class SequenceModelState(NamedTuple):
    """The mixers' states, one for each layer."""

    layers: tuple[State, ...]


class SequenceModel(nn.Module):
    """Tokens (B, T) to logits (B, T, vocab_size), with any token mixer or several.

    Embedding, head and MLP start as N(0, 0.02), the MLP's last matrix divided by sqrt(2 n_layers) (GPT-2). Mixers
    initialise themselves, and nothing here touches their parameters.

    Args:
        mixer: what mixes tokens: a registered name (`"bd-lru"`), a name with arguments
            (`{"name": "bd-lru", "block_size": 5}`), a function of `d_model` that returns a `TokenMixer`
            (`functools.partial(BDLRU, block_size=5)`), or a list of those, with one entry for each layer.
        vocab_size: number of tokens.
        d_model: width of the residual stream.
        n_layers: number of blocks.
        mlp_ratio: hidden width of the SwiGLU over `d_model`, rounded up to a multiple of 8; 0 leaves the MLP out.
        dropout: probability, on the embedding and on the branches of every block.
        tie_embeddings: use the embedding as the head.
        activation_checkpointing: keep only the inputs of each block for the backward pass, and compute it again there.

    Raises:
        ValueError: sizes that are not positive, an unknown mixer or argument of one (with the nearest names), or a
            list of mixers that is neither of length 1 nor of length `n_layers`.

    Example:
        >>> import torch
        >>> from seqmix.models import SequenceModel
        >>> model = SequenceModel(["lstm", {"name": "attention", "n_heads": 2}], vocab_size=10, d_model=16, n_layers=2)
        >>> logits, state = model(torch.randint(10, (2, 7)))
        >>> logits.shape
        torch.Size([2, 7, 10])
    """

    def __init__(
        self,
        mixer: MixerSpec | Sequence[MixerSpec],
        vocab_size: int,
        d_model: int,
        n_layers: int = 1,
        *,
        mlp_ratio: float = 8 / 3,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
        activation_checkpointing: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.vocab_size = positive("SequenceModel", "vocab_size", vocab_size)
        self.d_model = positive("SequenceModel", "d_model", d_model)
        self.n_layers = positive("SequenceModel", "n_layers", n_layers)
        if not mlp_ratio >= 0 or math.isinf(mlp_ratio):
            raise ValueError(f"SequenceModel: mlp_ratio must be a finite number of at least 0, got {mlp_ratio!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"SequenceModel: dropout must be in [0, 1), got {dropout!r}")
        self.activation_checkpointing = activation_checkpointing
        specs = _specs_of(mixer, n_layers)
        self.config: dict[str, Any] = {
            "mixer": specs,
            "vocab_size": vocab_size,
            "d_model": d_model,
            "n_layers": n_layers,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
            "tie_embeddings": tie_embeddings,
            "activation_checkpointing": activation_checkpointing,
        }
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        d_hidden = 8 * math.ceil(round(mlp_ratio * d_model, 6) / 8)
        self.embedding = nn.Embedding(vocab_size, d_model, **like)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(_build(spec, d_model, **like), d_hidden, dropout=dropout, **like) for spec in specs
        )
        self.norm = nn.LayerNorm(d_model, bias=False, **like)
        # Tied, there is no second parameter: nothing to keep tied when copying, sharding or saving.
        self.head = None if tie_embeddings else nn.Linear(d_model, vocab_size, bias=False, **like)
        self._init_weights()

    def _init_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=_STD)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=_STD)
        for block in self.blocks:
            if isinstance(block.mlp, SwiGLU):
                nn.init.normal_(block.mlp.gate_up_proj.weight, std=_STD)
                nn.init.normal_(block.mlp.down_proj.weight, std=_STD / math.sqrt(2 * self.n_layers))

    def forward(
        self, tokens: Tensor, state: SequenceModelState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, SequenceModelState]:
        """Logits (B, T, vocab_size) for int64 tokens (B, T), and the state after the last token.

        `cu_seqlens` are int32 offsets (S + 1,) of sequences packed along T, with B = 1. Raises `ValueError` for
        tokens, a state or offsets that do not fit; token values are read on the CPU only.
        """
        self._check_tokens(tokens, "B, T")
        if state is not None and (not isinstance(state, SequenceModelState) or len(state.layers) != self.n_layers):
            raise ValueError(
                f"SequenceModel: state must be a SequenceModelState of {self.n_layers} layers, got "
                + (f"{len(state.layers)} layers" if isinstance(state, SequenceModelState) else type(state).__name__)
            )
        x = self.dropout(self.embedding(tokens))
        states: list[State] = []
        for layer, block in enumerate(self.blocks):
            layer_state = None if state is None else state.layers[layer]
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                x, layer_state = checkpoint(block, x, layer_state, cu_seqlens, use_reentrant=False)
            else:
                x, layer_state = block(x, layer_state, cu_seqlens)
            states.append(layer_state)
        head = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(self.norm(x), head), SequenceModelState(tuple(states))

    def step(self, tokens: Tensor, state: SequenceModelState) -> tuple[Tensor, SequenceModelState]:
        """One token for each sequence: tokens (B,) to logits (B, vocab_size)."""
        self._check_tokens(tokens, "B,")
        logits, state = self(tokens.unsqueeze(1), state)
        return logits.squeeze(1), state

    generate = generate
    save_pretrained = save_pretrained

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: torch.device | str | None = None
    ) -> "SequenceModel":
        """The model in `folder`; see `seqmix.models.pretrained.from_pretrained`."""
        return from_pretrained(cls, folder, device=device)

    @property
    def mixers(self) -> list[TokenMixer]:
        """The token mixer of each layer."""
        return [block.mixer for block in self.blocks]  # type: ignore[misc]

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SequenceModelState:
        """The state before the first token."""
        return SequenceModelState(
            tuple(mixer.init_state(batch_size, device=device, dtype=dtype) for mixer in self.mixers)
        )

    def state_size(self, sequence_length: int = 1) -> int:
        """Real numbers kept per sequence after `sequence_length` tokens, over all layers."""
        return sum(mixer.state_size(sequence_length) for mixer in self.mixers)

    def num_parameters(self, *, non_embedding: bool = False) -> int:
        """Number of parameters; `non_embedding` leaves out the embedding (a head of its own counts)."""
        total = sum(p.numel() for p in self.parameters())
        return total - self.embedding.weight.numel() if non_embedding else total

    def _check_tokens(self, tokens: Tensor, shape: str) -> None:
        rank = 2 if shape == "B, T" else 1
        if not isinstance(tokens, Tensor) or tokens.ndim != rank or tokens.dtype != torch.int64:
            raise ValueError(f"SequenceModel: tokens must be an int64 tensor ({shape}), got {describe(tokens)}")
        if rank == 2 and tokens.shape[1] == 0:
            raise ValueError("SequenceModel: tokens must hold at least one time step, got T = 0")
        if tokens.device != self.embedding.weight.device:
            raise ValueError(
                f"SequenceModel: tokens must be on {self.embedding.weight.device} like the parameters, "
                f"got {tokens.device}"
            )
        # Reading values would synchronise a GPU and break a compiled graph.
        if tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(bound) for bound in tokens.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(
                    f"SequenceModel: tokens must be in [0, vocab_size = {self.vocab_size}), "
                    f"got {low if low < 0 else high}"
                )


def _specs_of(mixer: Any, n_layers: int) -> list[Any]:
    """One dict or function for each layer."""
    specs = list(mixer) if isinstance(mixer, Sequence) and not isinstance(mixer, str) else [mixer]
    if len(specs) not in (1, n_layers):
        raise ValueError(
            f"SequenceModel: mixer must be one mixer or a list of n_layers = {n_layers} of them, got {len(specs)}"
        )
    specs = specs * n_layers if len(specs) == 1 else specs
    return [_spec_of(spec) for spec in specs]


def _spec_of(spec: Any) -> Any:
    if isinstance(spec, str):
        return {"name": spec}
    if isinstance(spec, Mapping):
        if not isinstance(spec.get("name"), str):
            raise ValueError(f"SequenceModel: mixer must have a 'name' beside its arguments, got {dict(spec)!r}")
        return dict(spec)
    if callable(spec) and not isinstance(spec, nn.Module):
        return spec
    raise ValueError(
        "SequenceModel: mixer must be a name, a dict with a name, a function of d_model, or a list of those, "
        f"got {spec!r}" + ("; layers are built one by one, so give its class" if isinstance(spec, nn.Module) else "")
    )


def _build(spec: Any, d_model: int, **like: Any) -> TokenMixer:
    if isinstance(spec, dict):
        arguments = {key: value for key, value in spec.items() if key != "name"}
        if "d_model" in arguments:
            raise ValueError(f"SequenceModel: a mixer has the model's d_model = {d_model}, got {spec!r}")
        return create_mixer(spec["name"], d_model, **(like | arguments))
    mixer = spec(d_model)
    if not isinstance(mixer, TokenMixer) or mixer.d_model != d_model:
        raise ValueError(f"SequenceModel: mixer must build a TokenMixer of width {d_model}, got {mixer!r}")
    return mixer.to(**like)
