"""Networks made by hand, and hard gates by plain loops over numbers: what certificates are held to."""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from seqmix import SequenceModel
from seqmix.tasks import Automaton


def by_hand(automaton: Automaton, sources: Tensor, *, sharpness: float = 200.0, mixer: str = "bd-lru", **mixer_options):
    """A one-layer model whose row i of block n copies entry `sources[token, n, i]` (m for the input) of its block.

    Signed: `~k` copies the negated entry k. The first V dimensions of its stream name the token, two more are 1 and 0,
    and the state stands in the rest. Its read-out is `fit_head`'s.
    """
    vocab, n, m = sources.shape
    size = {"bd-lru": {"block_size": m, "d_state": n * m}, "h-lru": {"order": m, "d_state": n}}[mixer]
    model = SequenceModel({"name": mixer, **size, **mixer_options}, vocab, vocab + 2 + n * m, mlp_ratio=0)
    layer = model.blocks[0].mixer
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[:, :vocab] = torch.eye(vocab)
        model.embedding.weight[:, vocab] = 1
        x = model.blocks[0].mixer_norm(model.embedding.weight)
        rows = m if mixer == "bd-lru" else 1
        wanted = torch.zeros(vocab, n, rows, m + 1)
        chosen = sources[:, :, :rows]
        sign = torch.where(chosen < 0, -1.0, 1.0)
        wanted.scatter_(-1, torch.where(chosen < 0, ~chosen, chosen)[..., None], sharpness * sign[..., None])
        inverse = torch.linalg.pinv(x)  # lstsq reads memory that it has not written where x has more columns than rows
        layer.proj_gates.weight.copy_((inverse @ wanted.flatten(1)).T)
        values = 1 + torch.arange(n * rows).float() + torch.arange(vocab)[:, None] / vocab
        layer.proj_v.weight.copy_((inverse @ values).T)
        layer.proj_out.weight.zero_()
        layer.proj_out.weight[vocab + 2 :] = torch.eye(n * m)
    fit_head(model, automaton)
    return model


@torch.no_grad()
def fit_head(model: SequenceModel, automaton: Automaton, entries: int | None = None) -> None:
    """Answer with the nearest of the mean states that ask for an answer along random words.

    Only the first `entries` of the state are looked at. The head's rows sum to zero, so that the mean which the last
    norm removes plays no part.
    """
    words = random_words(automaton, 300, 40)
    answers = torch.tensor([automaton.answers(word) for word in words])
    seen: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda norm, args: seen.append(args[0]))
    model(torch.tensor(words))
    hook.remove()
    one = model.vocab_size
    looked = slice(one + 2, None if entries is None else one + 2 + entries)
    model.head.weight.zero_()
    model.head.weight[:, one] = -1000.0
    for answer in answers[answers >= 0].unique():
        mean = seen[0][answers == answer].mean(0)[looked]
        model.head.weight[answer, looked] = mean
        model.head.weight[answer, one] = -mean.square().sum() / 2
    model.head.weight[:, one + 1] = -model.head.weight.sum(1)


def random_words(automaton: Automaton, count: int, length: int, seed: int = 0) -> list[list[int]]:
    """Words of up to `length` tokens, all cut to the shortest of them."""
    rng, words = np.random.default_rng(seed), []
    for _ in range(count):
        state, word = automaton.start, []
        while len(word) < length and (automaton.step[state] >= 0).any():
            word.append(int(rng.choice(np.flatnonzero(automaton.step[state] >= 0))))
            state = int(automaton.step[state, word[-1]])
        words.append(word)
    shortest = min(map(len, words))
    return [word[:shortest] for word in words]


def all_words(automaton: Automaton, length: int) -> list[list[int]]:
    """Every word of exactly `length` tokens."""
    words = [([], automaton.start)]
    for _ in range(length):
        words = [
            ([*word, x], int(automaton.step[q, x]))
            for (word, q), x in itertools.product(words, range(automaton.vocab_size))
            if automaton.step[q, x] >= 0
        ]
    return [word for word, _ in words]


@torch.no_grad()
def hard_logits(model: SequenceModel, words: Sequence[Sequence[int]], *, double: bool = True) -> Tensor:
    """Logits (B, T, V) of a model whose rows of gates are one-hot, by a loop over time with matrices.

    In float64, or with gates that are decided in the model's own type.
    """
    model = _double(model) if double else model
    tokens = torch.tensor(words)
    x = model.embedding(tokens)
    for block in model.blocks:
        mixer = block.mixer
        u = block.mixer_norm(x)
        gates = mixer.gates(u)
        hard = torch.zeros_like(gates)
        best = gates.abs().argmax(-1, keepdim=True)
        hard.scatter_(-1, best, gates.gather(-1, best).sign())
        v = mixer.proj_v(u)
        outs = []
        if hasattr(mixer, "order"):
            h = torch.zeros(len(words), mixer.d_state, mixer.order, dtype=x.dtype)
            for t in range(tokens.shape[1]):
                new = (hard[:, t, :, :-1] * h).sum(-1) + hard[:, t, :, -1] * v[:, t]
                h = torch.cat([new[..., None], h[..., :-1]], -1)
                outs.append(h.flatten(1))
        else:
            h = torch.zeros(len(words), mixer.n_blocks, mixer.block_size, dtype=x.dtype)
            for t in range(tokens.shape[1]):
                h = (hard[:, t, :, :, :-1] @ h[..., None])[..., 0] + hard[:, t, :, :, -1] * v[:, t].view_as(h)
                outs.append(h.flatten(1))
        x = x + mixer.proj_out(torch.stack(outs, 1))
        if block.mlp is not None:
            x = x + block.mlp(block.mlp_norm(x))
    head = model.embedding if model.head is None else model.head
    return model.norm(x) @ head.weight.T


def _double(model: SequenceModel) -> SequenceModel:
    return copy.deepcopy(model).double()


def wrong_at(logits: Tensor, automaton: Automaton, words: Sequence[Sequence[int]]) -> list[bool]:
    """For each word, whether its last answer is asked for and wrong."""
    answers = torch.tensor([automaton.answers(list(word))[-1] for word in words])
    return ((logits[:, -1].argmax(-1) != answers) & (answers >= 0)).tolist()
