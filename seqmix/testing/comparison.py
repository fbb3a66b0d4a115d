"""The heart of the contract: everything a caller can see of one run of a mixer, and whether two runs agree.

A whole sequence at once, in chunks, token by token and packed must agree in outputs, final states and gradients, the
gradient to the initial state and from the final state included.

Shapes: x (B, T, d_model); S sequences, states with leading size S.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqmix.mixers.base import TokenMixer

__all__ = [
    "assert_same",
    "chunked",
    "ensure",
    "flat",
    "float_leaves",
    "inputs",
    "is_float",
    "measure",
    "offsets",
    "packed",
    "padded",
    "separate",
    "separate_rows",
    "some_state",
    "stepwise",
    "weighted",
    "whole",
]

Run = Callable[[TokenMixer, Tensor, Any], tuple[Tensor, list[Any]]]


def ensure(condition: bool | Tensor, message: str) -> None:
    """`AssertionError` with this message unless the condition holds, also where Python runs without assertions."""
    if not condition:
        raise AssertionError(message)


def inputs(batch: int, length: int, dtype: torch.dtype = torch.float64, seed: int = 1, *, d_model: int = 16) -> Tensor:
    """Normal x (B, T, d_model), the same numbers in every type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64).to(dtype)


def is_float(leaf: Tensor) -> bool:
    """Whether gradients can flow through this part of a state; counters are integers."""
    return leaf.is_floating_point() or leaf.is_complex()


def float_leaves(state: Any) -> list[Tensor]:
    """The tensors of a state that gradients can flow through."""
    return [leaf for leaf in pytree.tree_leaves(state) if is_float(leaf)]


def some_state(mixer: TokenMixer, sequences: int, dtype: torch.dtype = torch.float64) -> Any:
    """A state in mid-sequence that no mixer would reach by itself, ready for gradients."""
    with torch.no_grad():
        _, state = mixer(inputs(sequences, 5, dtype, seed=2, d_model=mixer.d_model))
    generator = torch.Generator().manual_seed(3)

    def disturb(leaf: Tensor) -> Tensor:
        if not is_float(leaf):
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)
        return (leaf.detach() + 0.3 * noise).requires_grad_()

    return pytree.tree_map(disturb, state)


def flat(tensor: Tensor) -> Tensor:
    """All real numbers of a tensor in one row."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()


def weighted(tensor: Tensor) -> Tensor:
    """A sum in which every number has a weight of its own, so that no two errors cancel."""
    # Weights count from the end, so padding at the front of a cache leaves the rest of them alone.
    values = flat(tensor)
    index = torch.arange(values.numel() - 1, -1, -1, dtype=torch.float64)
    return (values * torch.cos(1.7 * index + 0.3).to(values.dtype)).sum()


def measure(mixer: TokenMixer, x: Tensor, state: Any, run: Run) -> dict[str, Tensor]:
    """Everything a caller can see of one run: outputs, final states, gradients to all that is differentiable.

    `run(mixer, x, state)` returns y and a list of final states, one for each sequence.
    """
    x = x.detach().requires_grad_()
    y, finals = run(mixer, x, state)
    leaves = [leaf for final in finals for leaf in float_leaves(final)]
    loss = weighted(y) + sum(weighted(leaf) for leaf in leaves)
    named = dict(mixer.named_parameters())
    sources = [x, *float_leaves(state), *named.values()]
    grads = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
    names = ["x", *(f"state {i}" for i in range(len(float_leaves(state)))), *named]
    seen = {"y": y, **{f"final {i}": leaf for i, leaf in enumerate(leaves)}}
    seen |= {f"gradient of {name}": grad for name, grad in zip(names, grads, strict=True)}
    return {key: value.detach() for key, value in seen.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, what: str) -> None:
    """`AssertionError` where two measurements differ by more than `tolerance` at the scale of the numbers."""
    ensure(found.keys() == expected.keys(), f"{what}: has {list(found)}, expected {list(expected)}")
    gradients = [t for key, t in expected.items() if "gradient" in key and t.numel()]
    floor = 1e-3 * max(flat(t).abs().max().item() for t in gradients)
    for key, reference in expected.items():
        a, b = flat(found[key]), flat(reference)
        if "final" in key:
            # Caches of packed sequences are padded to the longest one, at the front and with zeros.
            n = min(a.numel(), b.numel())
            padded = not a[: a.numel() - n].any() and not b[: b.numel() - n].any()
            ensure(padded, f"{what}: {key} has {a.numel()} numbers, expected {b.numel()} or zeros in front")
            a, b = a[a.numel() - n :], b[b.numel() - n :]
        ensure(a.shape == b.shape, f"{what}: {key} has {tuple(a.shape)}, expected {tuple(b.shape)}")
        if not a.numel():
            continue
        scale = b.abs().max().item() + (floor if "gradient" in key else 0)
        error = (a - b).abs().max().item()
        ensure(error <= tolerance * scale, f"{what}: {key} differs by {error:.2e} at a scale of {scale:.2e}")


def _split(state: Any, sequences: int) -> list[Any]:
    return [state.select(s) for s in range(sequences)]


def whole(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
    """The sequence at once."""
    y, final = mixer(x, state)
    return y, _split(final, len(x))


def chunked(*sizes: int) -> Run:
    """Chunks of these sizes, then the rest."""

    def run(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        ys = []
        for part in x.split([*sizes, x.shape[1] - sum(sizes)], dim=1):
            y, state = mixer(part, state)
            ys.append(y)
        return torch.cat(ys, dim=1), _split(state, len(x))

    return run


def stepwise(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
    """Token by token."""
    ys = []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        ys.append(y)
    return torch.stack(ys, dim=1), _split(state, len(x))


def offsets(lengths: Sequence[int]) -> Tensor:
    """`cu_seqlens` of packed sequences of these lengths."""
    return torch.tensor([0, *lengths]).cumsum(0).int()


def packed(lengths: Sequence[int]) -> Run:
    """Sequences of these lengths in one row, with `cu_seqlens`."""

    def run(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        y, final = mixer(x, state, cu_seqlens=offsets(lengths))
        return y, _split(final, len(lengths))

    return run


def separate(lengths: Sequence[int]) -> Run:
    """The same sequences one by one."""

    def run(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        ys, finals = [], []
        for s, part in enumerate(x.split(list(lengths), dim=1)):
            final = state.select(s)
            if lengths[s]:
                y, final = mixer(part, final)
                ys.append(y)
            finals.append(final)
        return torch.cat(ys, dim=1), finals

    return run


def padded(lengths: Sequence[int]) -> Run:
    """Sequences of these lengths, padded to the longest, with `lengths`; then the rest of x, from the state."""

    def run(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        longest = max(lengths)
        first, final = mixer(x[:, :longest], state, lengths=torch.tensor(lengths))
        rest, final = mixer(x[:, longest:], final)
        rows = [torch.cat((y[:length], z)) for y, z, length in zip(first, rest, lengths, strict=True)]
        return torch.cat(rows).unsqueeze(0), _split(final, len(lengths))

    return run


def separate_rows(lengths: Sequence[int]) -> Run:
    """The same sequences one by one, each without what `padded` pads it with."""

    def run(mixer: TokenMixer, x: Tensor, state: Any) -> tuple[Tensor, list[Any]]:
        rows = [torch.cat((row[:length], row[max(lengths) :])) for row, length in zip(x, lengths, strict=True)]
        runs = [mixer(row.unsqueeze(0), state.select(s)) for s, row in enumerate(rows)]
        return torch.cat([y for y, _ in runs], dim=1), [final for _, final in runs]

    return run
