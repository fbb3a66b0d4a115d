"""The arguments of a `SequenceModel` as a configuration of transformers."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig

__all__ = ["SeqmixConfig"]

# Arguments of SequenceModel that have the same name here.
_SAME = ("mixer", "vocab_size", "d_model", "n_layers", "mlp_ratio", "dropout", "embedding", "bidirectional")


class SeqmixConfig(PreTrainedConfig):
    """What `SequenceModel` is made from; its arguments, and those that transformers adds to every configuration.

    `mixer` is a registered name, a name with arguments or a list of those. `tie_word_embeddings` is
    `tie_embeddings`, `hidden_size` and `num_hidden_layers` are read as `d_model` and `n_layers`.

    Example:
        >>> from seqmix.hf import SeqmixConfig, SeqmixForCausalLM
        >>> model = SeqmixForCausalLM(SeqmixConfig(mixer="bd-lru", vocab_size=257, d_model=32, n_layers=2))
        >>> model.config.hidden_size
        32
    """

    model_type = "seqmix"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "tie_embeddings": "tie_word_embeddings",
    }
    # Trainer would gather states of all batches with the predictions.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache"]

    mixer: Any = "bd-lru"
    vocab_size: int = 256
    d_model: int = 64
    n_layers: int = 2
    mlp_ratio: float = 8 / 3
    dropout: float = 0.0
    embedding: Any = None
    bidirectional: bool = False
    head: Any = None  # of a classifier: {"name": "classification", "pooling": "last"}, with num_labels answers
    tie_word_embeddings: bool = False
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @classmethod
    def of(cls, arguments: dict[str, Any], **others: Any) -> "SeqmixConfig":
        """From `SequenceModel.config`."""
        known = {name: arguments[name] for name in (*_SAME, "head")}
        return cls(**known, tie_word_embeddings=arguments["tie_embeddings"], **others)

    def arguments(self) -> dict[str, Any]:
        """Those of `SequenceModel`, without the head."""
        return {name: getattr(self, name) for name in _SAME} | {"tie_embeddings": self.tie_word_embeddings}
