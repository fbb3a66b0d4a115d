"""What the Triton kernels share: how a call is cut into programs, and how a kernel is launched.

A batch and packed sequences are one flat (L, ...) tensor of rows, cut into spans: whole sequences, or chunks of
sequences where there are too few of them to fill a GPU. Programs lie on a one-dimensional grid, because the other two
axes end at 65,535. Offsets are 64-bit. Nothing here waits for the GPU: offsets of packed sequences stay on it.

`TRITON_INTERPRET=1`, set before Triton is first imported, runs the same kernels on CPU tensors.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels.checks import check_offsets, n_sequences

# Programs that keep the memory of a large GPU busy: two for each of an H200's 132 multiprocessors.
FILL = 264
# A chunk costs its carry and a second look at the inputs, so it holds at least this many steps.
SHORTEST_CHUNK = 128


class Spans(NamedTuple):
    """Rows [first, last) for each of `number` programs; the kernel's side is `span`."""

    number: int
    offsets: Tensor | None  # (number + 1,) int64 or int32 where spans are packed, else None
    length: int  # rows of one sequence, of all of them where packed
    chunk: int  # rows of one span, where they are not packed
    chunks: int  # spans of one sequence, where they are not packed

    @property
    def arguments(self) -> tuple[Tensor | None, int, int, int]:
        """`offsets, length, chunk, chunks`, as every kernel takes them."""
        return self.offsets, self.length, self.chunk, self.chunks


def whole_sequences(op: str, x: Tensor, cu_seqlens: Tensor | None) -> Spans:
    """One span for each sequence of `x` (B, T, ...)."""
    batch, length = x.shape[:2]
    if cu_seqlens is not None and not cu_seqlens.is_cuda:
        check_offsets(op, cu_seqlens, length)
    offsets = None if cu_seqlens is None else cu_seqlens.contiguous()
    return Spans(n_sequences(batch, cu_seqlens), offsets, length, length, 1)


def chunk_length(programs: int, length: int) -> int | None:
    """Steps in a chunk, or None where sequences are walked whole.

    Chunks read the inputs twice, so they pay only where `programs`, those of whole sequences, fill less than half of
    the GPU. Then there are as many as fill it, unless that makes them too short.
    """
    if 2 * programs > FILL or length < 2 * SHORTEST_CHUNK:
        return None
    wanted = -(-FILL // max(1, programs))
    steps = -(-length // wanted)
    return max(SHORTEST_CHUNK, -(-steps // SHORTEST_CHUNK) * SHORTEST_CHUNK)


class Chunked(NamedTuple):
    """Chunks of sequences, and the sequences as spans of chunks: what carries its state from chunk to chunk."""

    sequences: Spans
    spans: Spans
    relay: Spans
    first: Tensor | None  # (S,) the first chunk of each sequence, where packed
    of: Tensor | None  # (C,) the sequence of each chunk, where packed

    @property
    def places(self) -> tuple[Tensor | None, Tensor | None]:
        """`of, bounds`, as a kernel hands them to `sequence_of`."""
        return self.of, self.sequences.offsets

    def starts(self, initial_state: Tensor, after: Tensor) -> Tensor:
        """States before each chunk (C, ...): those after the chunk before it, or (S, ...) before a sequence."""
        if self.first is None:
            after = after.unflatten(0, (-1, self.spans.chunks))[:, :-1]
            return torch.cat((initial_state.unsqueeze(1), after), dim=1).flatten(0, 1)
        return torch.cat((after[:1], after[:-1])).index_copy_(0, self.first, initial_state)

    def states(self, h: Tensor, initial_state: Tensor) -> Tensor:
        """States before each chunk, read from the states (B, T, ...) after every step."""
        if self.first is None:
            size, chunks = self.spans.chunk, self.spans.chunks
            after = h[:, size - 1 :: size][:, : chunks - 1].to(initial_state.dtype)
            return torch.cat((initial_state.unsqueeze(1), after), dim=1).flatten(0, 1)
        assert self.spans.offsets is not None
        after = h.flatten(0, 1)[(self.spans.offsets[1:] - 1).clamp(min=0)].to(initial_state.dtype)
        return self.starts(initial_state, after)

    def ends(self, final_state: Tensor, before: Tensor) -> Tensor:
        """The same backwards in time: what comes into each chunk from the one after it, or into a sequence."""
        if self.first is None:
            before = before.unflatten(0, (-1, self.spans.chunks))[:, 1:]
            return torch.cat((before, final_state.unsqueeze(1)), dim=1).flatten(0, 1)
        assert self.relay.offsets is not None
        last = self.relay.offsets[1:] - 1
        return torch.cat((before[1:], before[-1:])).index_copy_(0, last, final_state)


def cut(sequences: Spans, chunk: int) -> Chunked:
    """Cut sequences into chunks of at most `chunk` rows; every sequence has at least one, an empty one too."""
    if sequences.offsets is None:
        chunks = -(-sequences.length // chunk)
        spans = Spans(sequences.number * chunks, None, sequences.length, chunk, chunks)
        return Chunked(sequences, spans, Spans(sequences.number, None, chunks, chunks, 1), None, None)
    # How many chunks there are is known on the GPU only; this many suffice, and those not needed stay empty.
    count = sequences.length // chunk + sequences.number
    bounds = sequences.offsets.long()
    chunks_of = ((bounds.diff() + (chunk - 1)) // chunk).clamp(min=1)
    first = torch.nn.functional.pad(chunks_of.cumsum(0), (1, 0))
    index = torch.arange(count + 1, device=bounds.device)
    of = (torch.searchsorted(first, index, right=True) - 1).clamp(max=sequences.number - 1)
    rows = torch.minimum(bounds[of] + (index - first[of]) * chunk, bounds[of + 1])
    relay = Spans(sequences.number, first, count, 0, 1)
    return Chunked(sequences, Spans(count, rows, sequences.length, 0, 1), relay, first[:-1], of)


@triton.jit
def span(i_span, p_offsets, length, chunk, chunks):
    """Rows [first, last) of span `i_span`, int64."""
    i_span = i_span.to(tl.int64)
    if p_offsets is None:
        i_s = i_span // chunks
        first = i_s * length + (i_span % chunks) * chunk
        last = tl.minimum(first + chunk, (i_s + 1) * length)
    else:
        # Offsets on a GPU are not checked by value: clamped, wrong ones give wrong numbers but read no foreign memory.
        first = tl.maximum(tl.load(p_offsets + i_span).to(tl.int64), 0)  # scalar
        last = tl.minimum(tl.load(p_offsets + i_span + 1).to(tl.int64), length)  # scalar
    return first, last


@triton.jit
def sequence_of(i_c, p_of, p_bounds, length, chunks):
    """The sequence that chunk `i_c` belongs to, and that sequence's rows [start, end)."""
    if p_of is None:
        i_s = i_c.to(tl.int64) // chunks
        start = i_s * length
        end = start + length
    else:
        i_s = tl.load(p_of + i_c).to(tl.int64)  # scalar
        start, end = span(i_s, p_bounds, length, length, 1)
    return i_s, start, end


@triton.jit
def program_of(channels, BD: tl.constexpr):
    """Which span this program walks, and its channels (BD,)."""
    blocks = tl.cdiv(channels, BD)
    i_span = (tl.program_id(0) // blocks).to(tl.int64)
    return i_span, (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)


@triton.jit
def tanh(x):
    # By the exponential of a number that is not positive, which cannot overflow; near zero, where its difference from
    # one has few digits, in float32 by Cephes' polynomial.
    e = tl.exp(-2 * tl.abs(x))
    size = (1 - e) / (1 + e)
    far = tl.where(x < 0, -size, size)
    if x.dtype == tl.float32:
        z = x * x
        p = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z
        far = tl.where(tl.abs(x) < 0.625, x + x * z * (p - 3.33332819422e-1), far)
    return far


# Whether kernels run in Triton's interpreter, which was chosen when they were made.
INTERPRETED = not isinstance(span, triton.JITFunction)

# Numbers that change from call to call: a kernel is not compiled anew for a length of 1 or one divisible by 16.
RUNTIME = ["length", "chunk", "chunks"]


def launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Start `programs` programs of `kernel` on the device of its tensors; none where there is no work."""
    if programs == 0:
        return
    # Triton warns where nobody says whether products may be contracted: its default will change.
    options = {"enable_fp_fusion": True} | options
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[(programs,)](*arguments, **options)
    else:
        kernel[(programs,)](*arguments, **options)


def fresh(tensor: Tensor, *shape: int) -> Tensor:
    """Contiguous uninitialised memory of `tensor`'s type, in its shape or in another."""
    return torch.empty(shape or tensor.shape, dtype=tensor.dtype, device=tensor.device)


def lanes(size: int, most: int) -> int:
    """The power of two that covers `size`, at most `most`: the width of a tile."""
    return min(most, triton.next_power_of_2(size))
