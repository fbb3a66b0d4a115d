"""Sampling: the prompt in one pass, then one token at a time."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from seqmix.models.sequence_model import SequenceModel

__all__ = ["generate", "sample"]


def generate(
    model: "SequenceModel",
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts (B, T); returns (B, T + n), the prompt included, with n at most `max_new_tokens`.

    Args:
        tokens: int64 prompts (B, T), T >= 1.
        max_new_tokens: how many tokens to add at most.
        temperature: divides the logits before sampling; 0 takes the most likely token.
        top_k: sample among the k most likely tokens only.
        stop_token: a row that has drawn it is filled up with it; n is smaller when every row has.
        generator: source of randomness, on the device of the tokens.

    Raises:
        ValueError: a model without a language head or with bidirectional layers, an argument out of its range; see
            `SequenceModel.forward` for the tokens.
    """
    drawn = sample(
        model,
        tokens,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        stop_token=stop_token,
        generator=generator,
    )
    columns = [column.unsqueeze(1) for column in drawn]
    return torch.cat([tokens, *columns], dim=1)


@torch.no_grad()
def sample(
    model: "SequenceModel",
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    stop_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """`generate`, one new token (B,) of each prompt at a time, as soon as it is drawn; in eval mode until the end."""
    if model.head_name != "language" or model.bidirectional:
        what = "bidirectional layers" if model.bidirectional else f"head {model.head_name!r}"
        raise ValueError(f"generate: needs causal layers and a language head, got {what}")
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens must be an integer of at least 0, got {max_new_tokens!r}")
    if not temperature >= 0 or math.isinf(temperature):
        raise ValueError(f"generate: temperature must be a finite number of at least 0, got {temperature!r}")
    if top_k is not None and not (isinstance(top_k, int) and 1 <= top_k <= model.vocab_size):
        raise ValueError(f"generate: top_k must be an integer in [1, {model.vocab_size}], got {top_k!r}")
    if stop_token is not None and not (isinstance(stop_token, int) and 0 <= stop_token < model.vocab_size):
        raise ValueError(f"generate: stop_token must be an integer in [0, {model.vocab_size}), got {stop_token!r}")
    model._check_tokens(tokens, "B, T")
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        state, fed = None, tokens
        stopped = tokens.new_zeros(tokens.shape[0], dtype=torch.bool)
        for _ in range(max_new_tokens):
            logits, state = model(fed, state)
            chosen = _choose(logits[:, -1], temperature, top_k, generator)
            if stop_token is not None:
                chosen = chosen.masked_fill(stopped, stop_token)
                stopped = stopped | (chosen == stop_token)
            yield chosen
            if stop_token is not None and bool(stopped.all()):
                return
            fed = chosen.unsqueeze(1)
    finally:
        for module in training:
            module.training = True


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    # logits (B, V) to tokens (B,)
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits, candidates = logits.topk(logits.shape[-1] if top_k is None else top_k, dim=-1)
    probabilities = (logits.float() / temperature).softmax(dim=-1)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return candidates.gather(-1, drawn).squeeze(-1)
