"""`SequenceModel` as a model of transformers.

A mask with zeros, left or right, packs the real tokens into one row, so that padding never meets a state: a padded
batch gives what each sequence gives alone. At padding stands what the real token before it gives, so the last column
is the one to go on from on either side.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput

from seqmix.hf.cache import SeqmixCache
from seqmix.hf.config import SeqmixConfig
from seqmix.models import SequenceModel
from seqmix.models._specs import check_mixers

__all__ = ["SeqmixForCausalLM", "SeqmixForSequenceClassification"]


_STUB = "modeling_seqmix"


class _SeqmixModel(PreTrainedModel):
    auto_class: ClassVar[str]
    config_class = SeqmixConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    # Assisted decoding takes tokens back, which a state cannot; with this, transformers says so.
    _is_stateful = True
    _tied_weights_keys = None  # tied, there is no second parameter

    def __init__(self, config: SeqmixConfig, head: dict[str, Any]) -> None:
        super().__init__(config)
        check_mixers(config.mixer, (), "SeqmixConfig: mixer")
        self.model = SequenceModel(**config.arguments(), head=head)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_model(cls, model: SequenceModel, **others: Any) -> Self:
        """Around a model that there is, sharing its weights; `others` go to the configuration (`eos_token_id=256`)."""
        with torch.device("meta"):
            wrapped = cls(SeqmixConfig.of(model.config, **others))  # type: ignore[call-arg]
        wrapped.model = model
        return wrapped

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """As in transformers, with a file that lets readers without `import seqmix.hf` load it (`trust_remote_code`).

        That file only imports the classes from seqmix, which must be installed.
        """
        self.config.auto_map = {
            "AutoConfig": f"{_STUB}.SeqmixConfig",
            self.auto_class: f"{_STUB}.{type(self).__name__}",
        }
        super().save_pretrained(save_directory, **options)
        text = f"from seqmix.hf import SeqmixConfig, {type(self).__name__}\n"
        (Path(save_directory) / f"{_STUB}.py").write_text(text)

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: SequenceModel and its mixers have done it, and theirs is not a normal distribution for all."""

    def _set_gradient_checkpointing(self, enable: bool = True, **options: Any) -> None:
        self.gradient_checkpointing = self.model.activation_checkpointing = enable

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embedding = value
        self.model.vocab_size = value.num_embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.head if isinstance(self.model.head, nn.Linear) else None

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.model.head = value


class SeqmixForCausalLM(_SeqmixModel, GenerationMixin):  # type: ignore[misc]
    """A language model around any causal mixer; its cache is the mixers' recurrent state.

    Example:
        >>> import torch
        >>> from seqmix.hf import SeqmixConfig, SeqmixForCausalLM
        >>> model = SeqmixForCausalLM(SeqmixConfig(mixer="gla", vocab_size=17, d_model=16, n_layers=1, eos_token_id=0))
        >>> ids = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]])
        >>> mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
        >>> model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, pad_token_id=0).shape
        torch.Size([2, 7])

    Raises:
        ValueError: a mixer that is not registered (`register_mixer`), bidirectional layers, another head.
    """

    auto_class = "AutoModelForCausalLM"

    def __init__(self, config: SeqmixConfig) -> None:
        head = config.head or {"name": "language"}
        if config.bidirectional or head["name"] != "language":
            what = "bidirectional layers" if config.bidirectional else f"head {head['name']!r}"
            raise ValueError(f"SeqmixForCausalLM: needs causal layers and a language head, got {what}")
        super().__init__(config, head)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: SeqmixCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        cu_seq_lens_q: Tensor | None = None,
        **loss_options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits for ids (B, T), after what `cache` has read.

        Args:
            input_ids: int64 (B, T).
            attention_mask: (B, T), or (B, columns read + T) with a cache; 0 is padding, on either side.
            cache: what the call before returned; its state is replaced.
            labels: (B, T), -100 where there are none; each is held against the logits of the column before.
            use_cache: return the cache; the configuration's unless given, and never in training with labels.
            logits_to_keep: how many of the last columns get logits, all with 0.
            cu_seq_lens_q: offsets of sequences packed into one row (`DataCollatorWithFlattening`).
            loss_options: `num_items_in_batch` and others that transformers hands to its loss.

        Raises:
            ValueError: labels beside `logits_to_keep`; else as `SequenceModel.forward`.
        """
        cache = SeqmixCache() if cache is None else cache
        if labels is not None and logits_to_keep:
            raise ValueError("SeqmixForCausalLM: labels need the logits of all columns, so logits_to_keep must be 0")
        if cu_seq_lens_q is not None:
            x, state = self.model.features(input_ids, cache.state, cu_seqlens=cu_seq_lens_q.flatten().int())
        else:
            x, state = _unpadded(self.model, input_ids, _mask_of(attention_mask, input_ids), cache.state)
        logits = self._logits(x[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **loss_options)
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None
        if use_cache:
            cache.state, cache.columns = state, cache.columns + input_ids.shape[1]
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache if use_cache else None)

    def _logits(self, x: Tensor) -> Tensor:
        head = self.model.head
        return F.linear(x, self.model.embedding.weight) if head is None else head(x)  # type: ignore[arg-type]

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        **kwargs: Any,  # transformers reads this name
    ) -> dict[str, Any]:
        # Without a mask transformers takes the ids for all that there are, and cuts off as many as the cache has read.
        if next_sequence_length is not None and next_sequence_length < 1:
            raise ValueError(
                "SeqmixForCausalLM: no new ids: with a cache give all ids, those that it has read among them, or the "
                "new ones with an attention_mask of the full length"
            )
        return super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *rest: Any) -> None:
        if model_kwargs.get("cache") is None and generation_config.use_cache is not False:
            model_kwargs["cache"] = SeqmixCache()
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest)


class SeqmixForSequenceClassification(_SeqmixModel):
    """One answer for each sequence, `config.num_labels` of them; padding, left or right, never counts.

    `config.head` may say how positions are pooled, `{"name": "classification", "pooling": "last"}`, and
    `config.bidirectional` reads both ways.
    """

    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: SeqmixConfig) -> None:
        head = {"name": "classification"} | (config.head or {})
        if head["name"] != "classification":
            raise ValueError(f"SeqmixForSequenceClassification: needs a classification head, got {head['name']!r}")
        config.num_labels = head.setdefault("n_classes", config.num_labels)
        config.head = head
        super().__init__(config, head)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **options: Any
    ) -> SequenceClassifierOutput:
        """Logits (B, num_labels) for ids (B, T); `labels` (B,), or (B, num_labels) for several or real answers."""
        mask = _mask_of(attention_mask, input_ids)
        if mask is None:
            logits = self.model(input_ids)[0].squeeze(1)
        else:
            logits = self.model(input_ids[mask].unsqueeze(0), cu_seqlens=_offsets(mask))[0].squeeze(0)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _mask_of(mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """Which of the new columns are real, (B, T), or None where all are."""
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape[0] != ids.shape[0] or mask.shape[1] < ids.shape[1]:
        raise ValueError(
            f"seqmix.hf: attention_mask must have shape (B, T) = {tuple(ids.shape)}, or more columns with a cache, "
            f"got {tuple(mask.shape)}"
        )
    new, before = mask[:, -ids.shape[1] :].bool(), mask[:, : -ids.shape[1]].bool()
    if (before.any(1) & ~new.any(1)).any():
        raise ValueError(
            "seqmix.hf: a row has padding alone where its tokens have been read before, so there is nothing to answer "
            "with: pad on the left where a prompt is read in chunks"
        )
    return None if new.all() else new


def _offsets(mask: Tensor) -> Tensor:
    return F.pad(mask.sum(1).cumsum(0), (1, 0)).int()  # (B + 1,)


def _unpadded(model: SequenceModel, ids: Tensor, mask: Tensor | None, state: Any) -> tuple[Tensor, Any]:
    """Features (B, T, d_model) and the state after each row's last real token."""
    if mask is None:
        return model.features(ids, state)
    if state is None:
        state = model.init_state(len(ids))
    if not mask.any():
        return next(model.embedding.parameters()).new_zeros(*ids.shape, model.d_model), state
    packed, state = model.features(ids[mask].unsqueeze(0), state, cu_seqlens=_offsets(mask))
    # The number of the last real token at or before each column, in the packed row; in front there is none.
    number = mask.flatten().cumsum(0).view(mask.shape) - 1
    x = packed[0][number.clamp_min(0)]  # (B, T, d_model)
    return x.masked_fill((mask.cumsum(1) == 0).unsqueeze(-1), 0), state
