"""What the Triton kernels share: how work is cut, refusals, compilation of a call, offsets beyond 2^31."""

from itertools import pairwise

import pytest
import torch

from seqmix.kernels import block_scan, diagonal_scan, gated_block_scan

triton = pytest.importorskip("triton")

from seqmix.kernels import _triton  # noqa: E402

GIB = 2**30


def test_chunks_only_where_the_gpu_is_not_full() -> None:
    assert _triton.chunk_length(_triton.FILL, 10**6) is None
    assert _triton.chunk_length(1, _triton.SHORTEST_CHUNK) is None
    few = _triton.chunk_length(8, 65_536)
    assert few is not None and few % _triton.SHORTEST_CHUNK == 0
    assert _triton.FILL / 2 < 8 * -(-65_536 // few) <= 2 * _triton.FILL


def rows(bounds: torch.Tensor | None, batch: int, length: int, chunk: int) -> tuple[_triton.Chunked, list[range]]:
    """The rows that each chunk covers, as the kernels compute them."""
    x = torch.empty(batch, length, 1)
    chunked = _triton.cut(_triton.whole_sequences("test", x, bounds), chunk)
    spans = chunked.spans
    if spans.offsets is not None:
        return chunked, [range(a, b) for a, b in pairwise(spans.offsets.tolist())]
    first = [(i // spans.chunks) * length + (i % spans.chunks) * chunk for i in range(spans.number)]
    return chunked, [range(a, min(a + chunk, (i // spans.chunks + 1) * length)) for i, a in enumerate(first)]


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_cover_packed_sequences(chunk: int) -> None:
    bounds = torch.tensor([0, 0, 1, 7, 7, 20, 20], dtype=torch.int32)
    chunked, covered = rows(bounds, 1, 20, chunk)
    assert [t for each in covered for t in each] == list(range(20))
    assert chunked.of is not None and chunked.first is not None
    for i, each in enumerate(covered):
        s = int(chunked.of[i])
        assert len(each) <= chunk and all(bounds[s] <= t < bounds[s + 1] for t in each)
    assert [int(chunked.of[i]) for i in chunked.first.tolist()] == list(range(6))


def test_chunks_cover_a_batch() -> None:
    _, covered = rows(None, 3, 10, 4)
    assert [t for each in covered for t in each] == list(range(30))


def test_refused_on_the_cpu_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="cannot run tensors on cpu: set TRITON_INTERPRET=1"):
        diagonal_scan(x, x, backend="triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU compiles the kernels; see tests/models/test_compile.py")
def test_a_call_compiles_as_one_graph() -> None:
    a, x = torch.rand(2, 9, 3), torch.randn(2, 9, 3, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(lambda a, x: diagonal_scan(a, x, backend="triton")[0], backend="aot_eager", fullgraph=True)
    h = compiled(a, x)
    expected = diagonal_scan(a, x, backend="reference")[0]
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.sum(), x)[0] for out in (h, expected)))
    torch._dynamo.reset()


def test_blocks_too_large_for_registers_are_refused() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with pytest.raises(NotImplementedError, match="blocks up to m = 128, got m = 129"):
        block_scan(
            torch.zeros(1, 1, 1, 129, 129, device=device), torch.zeros(1, 1, 1, 129, device=device), backend="triton"
        )


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_properties(0).total_memory < 40 * GIB,
    reason="2^31 elements of input, output and their copies need a GPU with 40 GiB",
)
def test_more_elements_than_32_bits_count() -> None:
    """x_t = 1 and a = 1/2 give h = 2 - 2^-t everywhere, also in the last rows, whose offsets pass 2^31."""
    channels, length = 4096, 2**19 + 100
    x = torch.ones(1, length, channels, dtype=torch.bfloat16, device="cuda")
    h, final = diagonal_scan(torch.full((channels,), 0.5, device="cuda"), x)
    assert x.numel() > 2**31
    assert (final == 2).all() and (h[:, -100:] == 2).all() and (h[:, :1] == 1).all()


def test_float32_gates_beside_bfloat16_values() -> None:
    """Types as they come: the state is float32 either way, outputs and gradients take the type of their tensor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits = torch.randn(1, 9, 2, 2, 3, device=device, requires_grad=True)
    v = torch.randn(1, 9, 2, 2, device=device).bfloat16().requires_grad_()
    results = []
    for backend in ("triton", "reference"):
        h, final = gated_block_scan(logits, v, backend=backend)
        assert h.dtype == torch.bfloat16 and final.dtype == torch.float32
        results.append((h, final, *torch.autograd.grad(h.float().sum() + final.sum(), (logits, v))))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found.float(), expected.float(), rtol=2e-2, atol=2e-2)
    # The final state has not been through bfloat16.
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)
