"""`SequenceModel`: embedding, blocks around token mixers, head."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from seqmix._checks import positive
from seqmix.kernels.checks import describe, has_values
from seqmix.mixers import TokenMixer
from seqmix.mixers._padding import check_lengths
from seqmix.mixers.state import State, mixer_state
from seqmix.models._recompute import on_one_backend
from seqmix.models._specs import MixerSpec, mixer_of, specs_of
from seqmix.models.block import Block, SwiGLU, hidden_width
from seqmix.models.generation import generate, sample
from seqmix.models.heads import build_part, part_of
from seqmix.models.norms import norm_of, normed
from seqmix.models.pretrained import from_pretrained, save_pretrained
from seqmix.models.width import check_parametrization, scale_width

__all__ = ["MixerSpec", "SequenceModel", "SequenceModelState"]

_STD = 0.02  # of embedding, head and MLP, as in GPT-2


@mixer_state
class SequenceModelState(NamedTuple):
    """The mixers' states, one for each layer."""

    layers: tuple[State, ...]


class SequenceModel(nn.Module):
    """Tokens (B, T) to logits, with any token mixer or several: by default a logit for each token at each position.

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
        head: what answers: `"language"` (the default, logits (B, T, vocab_size)), `{"name": "classification",
            "n_classes": 10, "pooling": "mean"}` (one answer for each sequence, (B, 1, n_classes)), or `"autoencoder"`
            (every token again from the last vector, (B, T, vocab_size)).
        embedding: `"tokens"`, a vector for each, or `{"name": "intensity", "n_levels": 17}`: tokens below `n_levels`
            are numbers and enter through a linear map.
        bidirectional: give every layer a second mixer that reads backwards (`Bidirectional`).
        norm: `"layer"`, or `"batch"`, over all tokens of a batch in training and by running means afterwards.
        glu: put gelu and a gated linear unit behind every mixer, on its branch (`GLU`).
        final_norm: whether what the head sees is normalised.
        parametrization: `"standard"`, or `"mup"`: starts and rates that stay good in wider models, from those of
            `base_width` (`seqmix.models.width`); `create_optimizer` and `seqmix fit` heed the rates.
        base_width: the width at which nothing changes.

    Raises:
        ValueError: sizes that are not positive, an unknown mixer, head or embedding or argument of one (with the
            nearest names), a list of mixers that is neither of length 1 nor of length `n_layers`, tied embeddings
            where there are none to tie, or batch norms with checkpointing, which would see every batch twice.

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
        head: str | Mapping[str, Any] | None = None,
        embedding: str | Mapping[str, Any] | None = None,
        bidirectional: bool = False,
        norm: str = "layer",
        glu: bool = False,
        final_norm: bool = True,
        parametrization: str = "standard",
        base_width: int = 128,
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
        if activation_checkpointing and norm == "batch":
            raise ValueError("SequenceModel: norm 'batch' has no activation_checkpointing, got both")
        self.activation_checkpointing = activation_checkpointing
        specs = specs_of(mixer, n_layers)
        head_spec, embedding_spec = part_of("head", head, "language"), part_of("embedding", embedding, "tokens")
        self.head_name, self.bidirectional = head_spec["name"], bool(bidirectional)
        if tie_embeddings and (self.head_name != "language" or embedding_spec["name"] != "tokens"):
            raise ValueError(
                "SequenceModel: tie_embeddings needs a language head and an embedding of tokens, got head "
                f"{self.head_name!r} and embedding {embedding_spec['name']!r}"
            )
        check_parametrization(parametrization, base_width, tie_embeddings)
        self.config: dict[str, Any] = {
            "mixer": specs,
            "vocab_size": vocab_size,
            "d_model": d_model,
            "n_layers": n_layers,
            "mlp_ratio": mlp_ratio,
            "dropout": dropout,
            "tie_embeddings": tie_embeddings,
            "activation_checkpointing": activation_checkpointing,
            "head": head_spec,
            "embedding": embedding_spec,
            "bidirectional": self.bidirectional,
            "norm": norm,
            "glu": bool(glu),
            "final_norm": bool(final_norm),
            "parametrization": parametrization,
            "base_width": base_width,
        }
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        d_hidden = hidden_width(d_model, mlp_ratio)
        # None stands for the model's own, an embedding of tokens and a linear head.
        own = build_part("embedding", embedding_spec, d_model, vocab_size, **like)
        self.embedding = nn.Embedding(vocab_size, d_model, **like) if own is None else own
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                mixer_of(spec, d_model, self.bidirectional, **like),
                d_hidden,
                norm=norm,
                glu=glu,
                dropout=dropout,
                **like,
            )
            for spec in specs
        )
        self.norm = norm_of(norm, d_model, **like) if final_norm else nn.Identity()
        # Tied, there is no second parameter: nothing to keep tied when copying, sharding or saving.
        self.head = build_part("head", head_spec, d_model, vocab_size, **like)
        if self.head is None and not tie_embeddings:
            self.head = nn.Linear(d_model, vocab_size, bias=False, **like)
        self._init_weights()
        if parametrization == "mup" and d_model != base_width:
            scale_width(self, self.config, like)

    def _init_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=_STD)  # type: ignore[arg-type]
        if isinstance(self.head, nn.Linear):
            nn.init.normal_(self.head.weight, std=_STD)
        elif self.head is not None:
            self.head.init_weights(_STD)  # type: ignore[operator]
        for block in self.blocks:
            if isinstance(block.mlp, SwiGLU):
                nn.init.normal_(block.mlp.gate_up_proj.weight, std=_STD)
                nn.init.normal_(block.mlp.down_proj.weight, std=_STD / math.sqrt(2 * self.n_layers))

    def forward(
        self,
        tokens: Tensor,
        state: SequenceModelState | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, SequenceModelState]:
        """Logits for int64 tokens (B, T), (B, T, vocab_size) with the language head, and the state after the last.

        `cu_seqlens` are int32 offsets (S + 1,) of sequences packed along T, with B = 1; `lengths`, int64 (B,), are
        those of sequences that are padded at the end: the state is the one after each one's own last token, and what
        the padding is given means nothing. Raises `ValueError` for tokens, a state, offsets or lengths that do not
        fit, and for a state where the whole sequence is needed; values are read on the CPU only.
        """
        if state is not None and self.head_name != "language":
            raise ValueError(f"SequenceModel: head {self.head_name!r} needs the whole sequence: state must be None")
        x, state = self.features(tokens, state, cu_seqlens=cu_seqlens, lengths=lengths)
        if self.head is None:
            return F.linear(x, self.embedding.weight), state  # type: ignore[arg-type]
        return (self.head(x) if self.head_name == "language" else self.head(x, cu_seqlens, lengths)), state

    def features(
        self,
        tokens: Tensor,
        state: SequenceModelState | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, SequenceModelState]:
        """What the head sees: normalised vectors (B, T, d_model), and the state; arguments as in `forward`."""
        self.check_tokens(tokens, "B, T")
        check_lengths("SequenceModel", lengths, tokens, cu_seqlens)
        if state is not None and (not isinstance(state, SequenceModelState) or len(state.layers) != self.n_layers):
            raise ValueError(
                f"SequenceModel: state must be a SequenceModelState of {self.n_layers} layers, got "
                + (f"{len(state.layers)} layers" if isinstance(state, SequenceModelState) else type(state).__name__)
            )
        if state is not None and self.bidirectional:
            raise ValueError("SequenceModel: bidirectional layers need the whole sequence: state must be None")
        x = self.dropout(self.embedding(tokens))
        states: list[State] = []
        for layer, block in enumerate(self.blocks):
            layer_state = None if state is None else state.layers[layer]
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                run = on_one_backend(block)
                x, layer_state = checkpoint(run, x, layer_state, cu_seqlens, lengths, use_reentrant=False)
            else:
                x, layer_state = block(x, layer_state, cu_seqlens, lengths)
            states.append(layer_state)
        return normed(self.norm, x, lengths), SequenceModelState(tuple(states))

    def step(self, tokens: Tensor, state: SequenceModelState) -> tuple[Tensor, SequenceModelState]:
        """One token for each sequence: tokens (B,) to logits (B, vocab_size)."""
        self.check_tokens(tokens, "B,")
        logits, state = self(tokens.unsqueeze(1), state)
        return logits.squeeze(1), state

    generate = generate
    sample = sample
    save_pretrained = save_pretrained

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, device: torch.device | str | None = None, trust: Iterable[str] = ()
    ) -> "SequenceModel":
        """The model in `folder`; see `seqmix.models.pretrained.from_pretrained`."""
        return from_pretrained(cls, folder, device=device, trust=trust)

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
        embedding = sum(p.numel() for p in self.embedding.parameters())
        return total - embedding if non_embedding else total

    def check_tokens(self, tokens: Tensor, shape: str) -> None:
        """Raise `ValueError` for what are no tokens of `shape`, "B, T" or "B,"."""
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
        if tokens.numel() and has_values(tokens):
            low, high = (int(bound) for bound in tokens.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(
                    f"SequenceModel: tokens must be in [0, vocab_size = {self.vocab_size}), "
                    f"got {low if low < 0 else high}"
                )
