"""Models whose sequences are cut over gloo processes, beside one process that has them whole.

    python -m tests.distributed.ranks 4                every mixer of the registry
    python -m tests.distributed.ranks 2 mamba bd-lru   some of them, or of the options in VARIANTS

Each rank computes both and prints the largest differences, over the ranks, for each mixer.
"""

import argparse
import copy
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seqmix import SequenceModel, list_mixers
from seqmix.benchmarks.processes import spawn
from seqmix.distributed import sequence_parallel, split_sequences

LENGTH = 23
# Mixers with options that reach over borders in ways of their own.
VARIANTS: dict[str, Any] = {
    "attention, rope": {"name": "attention", "position": "rope"},
    "attention, window": {"name": "attention", "position": "rope", "window": 9},
    "attention, window of one": {"name": "attention", "window": 1},
    "attention, forget gate": {"name": "attention", "forget_gate": True, "d_conv": 3},
    "attention, window, forget gate": {"name": "attention", "forget_gate": True, "window": 4},
    "attention, selective rope": {"name": "attention", "position": "selective-rope"},
    "h-lru, order 4": {"name": "h-lru", "order": 4},
    "h-lru, order 1": {"name": "h-lru", "order": 1, "normalization": "l1"},
    "hybrid": ["mamba-2", {"name": "attention", "position": "rope", "window": 6}],
    "hybrid with a pipeline": ["lstm", "attention"],
}
# A sequence over several ranks, one without tokens, and one that ends where a rank of two does.
OFFSETS = [0, 11, 11, 20, 23]


def far(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    if expected.numel() == 0:
        return 0.0
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def gradients(model: nn.Module, logits: Tensor, weight: Tensor) -> list[Tensor]:
    (logits * weight).sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def compare(mixer: Any, packed: bool, form: str = "two-pass") -> dict[str, float]:
    """Outputs and gradients of all ranks, and the last rank's state, beside those of one process."""
    torch.manual_seed(0)
    whole = SequenceModel(mixer, vocab_size=7, d_model=16, n_layers=2, dtype=torch.float64)
    cut = sequence_parallel(copy.deepcopy(whole), form=form)
    tokens = torch.randint(7, (1 if packed else 2, LENGTH))
    cu_seqlens = torch.tensor(OFFSETS, dtype=torch.int32) if packed else None
    weight = torch.randn(*tokens.shape, 7, dtype=torch.float64)

    expected, state = whole(tokens, cu_seqlens=cu_seqlens)
    part, offsets = split_sequences(tokens, cu_seqlens=cu_seqlens)
    found, end = cut(part, cu_seqlens=offsets)
    differences = {"outputs": far(found, split_sequences(expected)[0])}
    if dist.get_rank() == dist.get_world_size() - 1:
        pairs = zip(pytree.tree_leaves(end), pytree.tree_leaves(state), strict=True)
        differences["state"] = max((far(*_last(a, b, packed)) for a, b in pairs), default=0.0)
    ours, theirs = gradients(cut, found, split_sequences(weight)[0]), gradients(whole, expected, weight)
    for gradient in ours:
        dist.all_reduce(gradient)
    scale = max(float(b.abs().max()) for b in theirs)
    differences["gradients"] = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / scale
    return differences


def _last(found: Tensor, expected: Tensor, packed: bool) -> tuple[Tensor, Tensor]:
    # Rows for keys of longer sequences stand before those of the last one.
    expected = expected[-1:] if packed else expected
    if found.ndim > 1 and found.shape != expected.shape:
        expected = expected[:, expected.shape[1] - found.shape[1] :]
    return found, expected


def work(rank: int, ranks: int, names: list[str], form: str) -> dict[str, dict[str, float]]:
    found = {}
    for name in names:
        for kind in ("batch", "packed"):
            differences = compare(VARIANTS.get(name, name), kind == "packed", form)
            gathered: list[Any] = [None] * ranks
            dist.all_gather_object(gathered, differences)
            found[f"{name} {kind}"] = {
                key: max(each.get(key, 0.0) for each in gathered) for key in ("outputs", "state", "gradients")
            }
    return found


def run(ranks: int, names: list[str], form: str = "two-pass") -> dict[str, dict[str, float]]:
    """Differences by mixer and kind of batch."""
    found: dict[str, dict[str, float]] = spawn(work, ranks, ranks, names, form)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Sequences over ranks beside one process.")
    parser.add_argument("ranks", type=int)
    parser.add_argument("mixers", nargs="*")
    parser.add_argument("--form", default="two-pass", choices=["two-pass", "pipeline"])
    options = parser.parse_args()
    failed = False
    for name, differences in run(options.ranks, options.mixers or list_mixers(), options.form).items():
        print(f"{name:<28}", *(f"{key} {value:.1e}" for key, value in differences.items()))
        failed |= max(differences.values()) > 1e-9
    sys.exit(failed)
