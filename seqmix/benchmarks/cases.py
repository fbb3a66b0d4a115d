"""What `seqmix bench kernels` runs: every op at its standard size and at a small one, and the bytes it must move.

Letters: B batch, T time, D channels, N blocks or states, m block size or order, W width of a convolution, H heads,
K and V widths of a key and a value.
"""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seqmix._suggest import unknown_name

Inputs = dict[str, Tensor]
Sizes = dict[str, int]


@dataclass(frozen=True)
class Case:
    """One op in one configuration.

    `make(sizes, generator)` returns float32 or complex64 inputs by name, batch first except for those in `unbatched`.
    `saved` names what the backward pass has to read besides the upstream gradient: inputs, or "output". `values` is
    an input that has the shape of the output; `outputs` of them are returned, as a tuple if more than one.
    """

    name: str
    op: str
    sizes: Sizes
    quick: Sizes
    make: Callable[[Sizes, torch.Generator], Inputs]
    saved: tuple[str, ...]
    unbatched: tuple[str, ...] = ()
    is_complex: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    values: str = "x"
    outputs: int = 1

    def inputs(self, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
        """The same numbers in every run: leaves that require gradients, in `dtype` on `device`, and places."""
        made = self.make(sizes, torch.Generator().manual_seed(0))
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        return {
            name: x.to(device=device, dtype=wide if x.is_complex() else dtype).requires_grad_()
            if x.is_floating_point() or x.is_complex()
            else x.to(device)
            for name, x in made.items()
        }

    def moved_bytes(self, inputs: Inputs, output: Tensor, backward: bool) -> int:
        """Bytes that any implementation moves: inputs and output once; for the backward pass the upstream gradient
        and what it needs of inputs and output are read, and a gradient is written for each input that has one."""
        tensors = [*inputs.values(), *[output] * self.outputs]
        if backward:
            tensors += [*[output] * self.outputs, *(x for x in inputs.values() if x.requires_grad)]
            tensors += [output if name == "output" else inputs[name] for name in self.saved]
        return sum(x.numel() * x.element_size() for x in tensors)


def _decay(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 0.9 + 0.0999 * torch.rand(shape, generator=generator)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _diagonal(s: Sizes, g: torch.Generator) -> Inputs:
    shape = (s["B"], s["T"], s["D"])
    return {"a": _decay(shape, g), "x": _normal(shape, g)}


def _diagonal_complex(s: Sizes, g: torch.Generator) -> Inputs:
    shape = (s["B"], s["T"], s["D"])
    return {
        "a": torch.polar(_decay(shape, g), 6.28 * torch.rand(shape, generator=g)),
        "x": torch.complex(_normal(shape, g), _normal(shape, g)),
    }


def _gather(s: Sizes, g: torch.Generator) -> Inputs:
    made = _diagonal_complex(s, g)
    x = made["x"]
    return {"d": made["a"], "x": x, "index": torch.randint(x.shape[2], x.shape, generator=g, dtype=torch.int32)}


def _diagonal_constant(s: Sizes, g: torch.Generator) -> Inputs:
    return {"a": _decay((s["D"],), g), "x": _normal((s["B"], s["T"], s["D"]), g)}


def _block(s: Sizes, g: torch.Generator) -> Inputs:
    m = s["m"]
    # Rows of absolute sum below one, with entries of both signs: stable, and not a softmax.
    a = 0.95 * _normal((s["B"], s["T"], s["N"], m, m), g).softmax(-1)
    sign = torch.randint(0, 2, (m, m), generator=g) * 2.0 - 1
    return {"a": a * sign, "x": _normal((s["B"], s["T"], s["N"], m), g)}


def _gated_block(s: Sizes, g: torch.Generator) -> Inputs:
    shape = (s["B"], s["T"], s["N"], s["m"])
    return {"logits": _normal((*shape, s["m"] + 1), g), "v": _normal(shape, g)}


def _higher_order(s: Sizes, g: torch.Generator) -> Inputs:
    shape = (s["B"], s["T"], s["D"])
    return {"a": 0.95 * _normal((*shape, s["m"]), g).softmax(-1), "x": _normal(shape, g)}


def _gated_higher_order(s: Sizes, g: torch.Generator) -> Inputs:
    shape = (s["B"], s["T"], s["D"])
    return {"logits": _normal((*shape, s["m"] + 1), g), "v": _normal(shape, g)}


def _selective(s: Sizes, g: torch.Generator) -> Inputs:
    batch, length, channels, states = s["B"], s["T"], s["D"], s["N"]
    # Mamba's own start: rates -1 .. -N, step sizes spread evenly in log between 0.001 and 0.1.
    steps = torch.rand((batch, length, channels), generator=g) * 4.6 - 6.9
    return {
        "x": _normal((batch, length, channels), g),
        "dt": steps.exp(),
        "A": -torch.arange(1.0, states + 1).expand(channels, states).clone(),
        "B": _normal((batch, length, states), g),
        "C": _normal((batch, length, states), g),
        "D": torch.ones(channels),
    }


def _convolution(s: Sizes, g: torch.Generator) -> Inputs:
    channels = s["D"]
    return {
        "x": _normal((s["B"], s["T"], channels), g),
        "weight": 0.5 * _normal((channels, s["W"]), g),
        "bias": 0.1 * _normal((channels,), g),
    }


def _heads(s: Sizes, g: torch.Generator, *widths: str) -> list[Tensor]:
    return [_normal((s["B"], s["T"], s["H"], s[width]), g) for width in widths]


def _linear_attention(s: Sizes, g: torch.Generator) -> Inputs:
    q, k, v = _heads(s, g, "K", "K", "V")
    return {"q": q, "k": k, "v": v, "log_g": _decay(q.shape, g).log()}


def _delta(s: Sizes, g: torch.Generator) -> Inputs:
    q, k, v = _heads(s, g, "K", "K", "V")
    # Keys of length one, and strengths up to that of a reflection.
    return {"q": q, "k": normalize(k, dim=-1), "v": v, "beta": 2 * torch.rand(q.shape[:3], generator=g)}


def _dplr(s: Sizes, g: torch.Generator) -> Inputs:
    q, k, v, log_w = _heads(s, g, "K", "K", "V", "K")
    # Keys of length one and erasing of any strength in [0, 1] for each of their channels, as in RWKV-7.
    k, part = normalize(k, dim=-1), torch.rand(q.shape, generator=g)
    return {"q": q, "k": k, "v": v, "a": -part * k, "b": k.clone(), "log_w": -0.6 * log_w.sigmoid()}


def _rotary(s: Sizes, g: torch.Generator) -> Inputs:
    q, k = _heads(s, g, "K", "K")
    return {"q": q, "k": k, "increment": _normal((*q.shape[:3], s["K"] // 2), g)}


_ROWS = {"B": 16, "T": 4096, "D": 256}
_FEW = {"B": 2, "T": 33, "D": 8}
_BLOCKS = {"B": 16, "T": 512, "N": 64, "m": 4}
_FEW_BLOCKS = {"B": 2, "T": 33, "N": 3, "m": 4}
_HEADS = {"B": 2, "T": 1024, "H": 4, "K": 64, "V": 64}
_FEW_HEADS = {"B": 2, "T": 33, "H": 2, "K": 4, "V": 6}
_TURNED = {"B": 16, "T": 1024, "H": 4, "K": 64}
_CHANNELS = {"B": 4, "T": 2048, "D": 512, "N": 16}

CASES = (
    Case("diagonal_scan", "diagonal_scan", _ROWS, _FEW, _diagonal, ("a", "output")),
    Case(
        "diagonal_scan_complex",
        "diagonal_scan",
        _ROWS | {"D": 128},
        _FEW,
        _diagonal_complex,
        ("a", "output"),
        is_complex=True,
    ),
    Case("diagonal_scan_constant", "diagonal_scan", _ROWS, _FEW, _diagonal_constant, ("a", "output"), ("a",)),
    Case("gather_scan", "gather_scan", _ROWS | {"D": 128}, _FEW, _gather, ("index", "d", "output"), is_complex=True),
    Case("block_scan", "block_scan", _BLOCKS, _FEW_BLOCKS, _block, ("a", "output")),
    Case(
        "gated_block_scan",
        "gated_block_scan",
        _BLOCKS,
        _FEW_BLOCKS,
        _gated_block,
        ("logits", "v", "output"),
        values="v",
    ),
    Case("higher_order_scan", "higher_order_scan", _ROWS | {"m": 4}, _FEW | {"m": 4}, _higher_order, ("a", "output")),
    Case(
        "gated_higher_order_scan",
        "gated_higher_order_scan",
        _ROWS | {"m": 4},
        _FEW | {"m": 4},
        _gated_higher_order,
        ("logits", "v", "output"),
        values="v",
    ),
    Case(
        "selective_scan",
        "selective_scan",
        _CHANNELS,
        _FEW | {"N": 4},
        _selective,
        ("x", "dt", "A", "B", "C", "D"),
        ("A", "D"),
    ),
    Case(
        "causal_conv1d",
        "causal_conv1d",
        _ROWS | {"W": 4},
        _FEW | {"W": 4},
        _convolution,
        ("x", "weight", "bias"),
        ("weight", "bias"),
        options={"activation": "silu"},
    ),
    Case(
        "gated_linear_attention",
        "gated_linear_attention",
        _HEADS,
        _FEW_HEADS,
        _linear_attention,
        ("q", "k", "v", "log_g"),
        values="v",
    ),
    Case("delta_rule", "delta_rule", _HEADS, _FEW_HEADS, _delta, ("q", "k", "v", "beta"), values="v"),
    Case(
        "dplr_delta_rule", "dplr_delta_rule", _HEADS, _FEW_HEADS, _dplr, ("q", "k", "v", "a", "b", "log_w"), values="v"
    ),
    Case(
        "selective_rotary",
        "selective_rotary",
        _TURNED,
        {"B": 2, "T": 33, "H": 2, "K": 4},
        _rotary,
        ("q", "k", "increment"),
        values="q",
        outputs=2,
    ),
)


def select_cases(patterns: str | None, known: Sequence[Any] = CASES) -> list[Any]:
    """Those of `known` whose names match any of the comma-separated shell `patterns`; none given means all."""
    if patterns is None:
        return list(known)
    chosen: list[Any] = []
    for pattern in patterns.split(","):
        matches = [case for case in known if fnmatch.fnmatchcase(case.name, pattern.strip())]
        if not matches:
            raise unknown_name("case for --only", pattern, (case.name for case in known))
        chosen += [case for case in matches if case not in chosen]
    return chosen
