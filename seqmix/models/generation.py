"""Sampling: the prompt in one pass, then one token at a time."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.kernels import states_in_place
from seqmix.mixers._padding import check_lengths
from seqmix.models._modes import evaluating
from seqmix.models._spans import last

__all__ = ["generate", "sample"]


class Model(Protocol):
    """What sampling asks of a `SequenceModel`."""

    vocab_size: int
    head_name: str
    bidirectional: bool

    def __call__(self, tokens: Tensor, state: Any, *, lengths: Tensor | None) -> tuple[Tensor, Any]: ...
    def check_tokens(self, tokens: Tensor, shape: str) -> None: ...
    def eval(self) -> Any: ...
    def modules(self) -> Iterator[nn.Module]: ...


def generate(
    model: Model,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    lengths: Tensor | None = None,
    stop_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts (B, T); returns (B, T + n), the prompt included, with n at most `max_new_tokens`.

    With `lengths` new tokens stand right behind each prompt, and its padding behind them.

    Args:
        tokens: int64 prompts (B, T), T >= 1.
        max_new_tokens: how many tokens to add at most.
        temperature: divides the logits before sampling; 0 takes the most likely token.
        top_k: sample among the k most likely tokens only, among all where there are no more.
        lengths: int64 (B,), of prompts that are padded at the end.
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
        lengths=lengths,
        stop_token=stop_token,
        generator=generator,
    )
    columns = [column.unsqueeze(1) for column in drawn]
    whole = torch.cat([tokens, *columns], dim=1)
    if lengths is None:
        return whole
    place, ends, new = torch.arange(whole.shape[1], device=tokens.device), lengths[:, None], len(columns)
    origin = torch.where(place < ends + new, tokens.shape[1] + place - ends, place - new)
    return whole.gather(1, torch.where(place < ends, place, origin))


@torch.no_grad()
def sample(
    model: Model,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    lengths: Tensor | None = None,
    stop_token: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """`generate`, one new token (B,) of each prompt at a time, as soon as it is drawn; in eval mode until the end."""
    if model.head_name != "language" or model.bidirectional:
        what = "bidirectional layers" if model.bidirectional else f"head {model.head_name!r}"
        raise ValueError(f"generate: needs causal layers and a language head, got {what}")
    positive("generate", "max_new_tokens", max_new_tokens, 0)
    if not temperature >= 0 or math.isinf(temperature):
        raise ValueError(f"generate: temperature must be a finite number of at least 0, got {temperature!r}")
    if top_k is not None:
        top_k = min(positive("generate", "top_k", top_k), model.vocab_size)
    if stop_token is not None and not (isinstance(stop_token, int) and 0 <= stop_token < model.vocab_size):
        raise ValueError(f"generate: stop_token must be an integer in [0, {model.vocab_size}), got {stop_token!r}")
    model.check_tokens(tokens, "B, T")
    check_lengths("generate", lengths, tokens, None)
    with evaluating(model):
        state, fed = None, tokens
        stopped = tokens.new_zeros(tokens.shape[0], dtype=torch.bool)
        for _ in range(max_new_tokens):
            with nullcontext() if state is None else states_in_place():  # the first state is the layers' own
                logits, state = model(fed, state, lengths=lengths)
            chosen = _choose(last(logits, None, lengths).squeeze(1), temperature, top_k, generator)
            lengths = None
            if stop_token is not None:
                chosen = chosen.masked_fill(stopped, stop_token)
                stopped = stopped | (chosen == stop_token)
            yield chosen
            if stop_token is not None and bool(stopped.all()):
                return
            fed = chosen.unsqueeze(1)


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    # logits (B, V) to tokens (B,)
    if temperature < torch.finfo(torch.float32).tiny:
        return logits.argmax(dim=-1)
    logits, candidates = logits.topk(logits.shape[-1] if top_k is None else top_k, dim=-1)
    # From the largest, which comes first: quotients by a small temperature would all be infinite.
    probabilities = ((logits - logits[:, :1]).float() / temperature).softmax(dim=-1)
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return candidates.gather(-1, drawn).squeeze(-1)
