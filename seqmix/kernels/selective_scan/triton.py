"""Triton kernels for the selective scan: no (B, T, D, N) tensor, only the states before every chunk of time.

Each sequence and block of channels is a program that walks its chunks. Where those programs are too few to fill a GPU,
chunks run side by side: a first pass gives the last state of each and the product of its decays, the relay of
`diagonal_scan` carries states from chunk to chunk, and the pass proper starts every chunk from its true state. Sums
over channels and over programs are written in parts and added up, so that the order of addition is fixed.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels import _triton_chunks as matrix
from seqmix.kernels._triton import Spans, chunk_length, cut, fresh, lanes, launch, whole_sequences
from seqmix.kernels.diagonal_scan.triton import relay
from seqmix.kernels.selective_scan import triton_passes as passes

OP = "selective_scan"
CHUNK = 64


border_shape = partial(matrix.border_shape, CHUNK)


def _options(x: Tensor, A: Tensor, signed: bool) -> dict[str, Any]:
    channels, states = A.shape
    return {
        "SIGNED": signed,
        "BT": max(16, lanes(x.shape[1], CHUNK)),
        "BD": lanes(channels, 32),
        "BN": lanes(states, 1 << 20),
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "num_warps": 4,
        "enable_fp_fusion": False,
    }


def _one_by_one(spans: Spans) -> Spans:
    """Every chunk as a span of its own."""
    return Spans(spans.number, None, 1, 1, 1)


def _turn(state: Tensor) -> Tensor:
    """(S, D, N) as (S, N, D) and back: channels lie side by side in the kernels."""
    return state.detach().mT.contiguous()


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    signed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (B, T, D) in the type of x, the final state (S, D, N) and the states before chunks (slots, N, D)."""
    x, dt, B, C, D = (t.detach().contiguous() for t in (x, dt, B, C, D))
    channels, states = A.shape
    options = _options(x, A, signed)
    blocks = triton.cdiv(channels, options["BD"])
    sequences = whole_sequences(OP, x, cu_seqlens)
    chunked = matrix.every_slot(cut(sequences, CHUNK))
    spans, number = chunked.spans, chunked.spans.number
    initial = _turn(initial_state)
    y, final = fresh(x), fresh(initial)
    borders = fresh(initial, *border_shape(x.shape, len(initial), (states, channels)))
    borders[number:] = 0
    inputs = (x, dt, _turn(A), B, C, D)

    def walk(over: Spans, *tensors: Tensor | None) -> None:
        launch(
            passes.forward, over.number * blocks, *inputs, *tensors, *spans.arguments, *over.arguments,
            channels, states, **options,
        )  # fmt: skip

    if chunk_length(sequences.number * blocks, sequences.length) is None:
        walk(chunked.relay, initial, y, borders, final, None)
    else:
        last, product = (fresh(initial, number, states, channels) for _ in range(2))
        walk(_one_by_one(spans), None, None, None, last, product)
        after, ends = relay(chunked.relay, last.flatten(1), product.flatten(1), initial.flatten(1), backward=False)
        final = ends.view_as(final)
        borders[:number] = chunked.starts(initial, after.view_as(last))
        walk(_one_by_one(spans), borders, y, None, last, None)
    return y, _turn(final), borders


def backward(
    dy: Tensor, dfinal: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None, signed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D and the initial state."""
    dy, x, dt, B, C, D = (t.detach().contiguous() for t in (dy, x, dt, B, C, D))
    channels, states = A.shape
    options = _options(x, A, signed)
    blocks = triton.cdiv(channels, options["BD"])
    sequences = whole_sequences(OP, x, cu_seqlens)
    chunked = matrix.every_slot(cut(sequences, CHUNK))
    spans, number = chunked.spans, chunked.spans.number
    rows = x.shape[0] * x.shape[1]
    inputs = (dy, x, dt, _turn(A), B, C, D, borders)
    incoming = _turn(dfinal)
    dinitial = fresh(incoming)

    def walk(over: Spans, *tensors: Tensor | None) -> None:
        launch(
            passes.backward, over.number * blocks, *inputs, *tensors, *spans.arguments, *over.arguments,
            channels, states, rows, **options,
        )  # fmt: skip

    over, outgoing = chunked.relay, dinitial
    if chunk_length(sequences.number * blocks, sequences.length) is not None:
        over = _one_by_one(spans)
        outgoing, product = (fresh(incoming, number, states, channels) for _ in range(2))
        walk(over, None, None, None, None, None, None, None, outgoing, product)
        arguments = (outgoing.flatten(1), product.flatten(1), incoming.flatten(1))
        handed_on, ends = relay(chunked.relay, *arguments, backward=True)
        dinitial = ends.view_as(dinitial)
        incoming = chunked.ends(incoming, handed_on.view_as(outgoing))
    dx, ddt = fresh(x), fresh(dt)
    dA, dD = fresh(incoming, over.number, states, channels), fresh(incoming, over.number, channels)
    dB, dC = (fresh(incoming, blocks, rows, states) for _ in range(2))
    walk(over, incoming, dx, ddt, dA, dB, dC, dD, outgoing, None)
    dB, dC = (part.sum(0).view_as(B).to(B.dtype) for part in (dB, dC))
    return dx, ddt, dA.sum(0).mT.to(A.dtype).contiguous(), dB, dC.to(C.dtype), dD.sum(0).to(D.dtype), _turn(dinitial)
