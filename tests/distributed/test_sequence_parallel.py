"""Sequences over ranks: parts that make the whole again, mixers that hand their states on, what is refused."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.utils import _pytree as pytree

import seqmix.kernels
from seqmix import SequenceModel, list_mixers
from seqmix.benchmarks.cases import CASES, Case
from seqmix.benchmarks.processes import group
from seqmix.distributed import gathered, sequence_parallel, split_sequences
from seqmix.distributed.parallel import FORMS
from seqmix.distributed.split import part_of
from seqmix.distributed.two_pass import EXCHANGES, ScanTwice
from seqmix.kernels._handing import handing
from tests.distributed.ranks import VARIANTS, run


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    with group(0, 1, f"{tmp_path}/store"):
        yield
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("lengths", [[11], [4, 7], [0, 3, 0, 0, 5, 3, 0], [1] * 11, [2, 2, 2, 2, 3]], ids=str)
def test_parts_make_the_whole_again(ranks: int, lengths: list[int]) -> None:
    tokens, cu_seqlens = torch.arange(11)[None], torch.tensor([0, *lengths]).cumsum(0).int()
    sequences: list[list[int]] = [[]]
    for rank in range(ranks):
        part, offsets = part_of(tokens, rank, ranks, cu_seqlens)
        assert offsets is not None and offsets.dtype == torch.int32 and int(offsets[-1]) == part.shape[1] > 0
        pieces = [piece.tolist() for piece in part[0].split(offsets.diff().tolist())]
        sequences[-1] += pieces[0]  # the first is the one that the part before ended with
        sequences += pieces[1:]
    expected = [piece.tolist() for piece in tokens[0].split(lengths)]
    assert [s for s in sequences if s] == [s for s in expected if s]
    parts = [part_of(tokens, rank, ranks)[0] for rank in range(ranks)]
    assert torch.equal(torch.cat(parts, 1), tokens) and max(p.shape[1] for p in parts) <= -(-11 // ranks)


def check(found: dict[str, dict[str, float]], mixers: list[str]) -> None:
    assert set(found) == {f"{name} {kind}" for name in mixers for kind in ("batch", "packed")}
    for name, differences in found.items():
        assert max(differences.values()) < 1e-9, (name, differences)


def test_two_ranks_are_one() -> None:
    mixers = ["mamba", "attention", "mamba-3"]  # scans in two passes and a window; keys; a token that is handed on
    check(run(2, mixers), mixers)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_options_of_keys_and_windows(ranks: int) -> None:
    check(run(ranks, list(VARIANTS)), list(VARIANTS))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_mixer(ranks: int, form: str) -> None:
    check(run(ranks, list_mixers(), form), list_mixers())


CASES_OF_EXCHANGES = [case for case in CASES if case.op in EXCHANGES]


@pytest.mark.parametrize("case", CASES_OF_EXCHANGES, ids=lambda case: case.name)
def test_a_scan_is_its_transition_of_the_state_and_what_it_adds(case: Case) -> None:
    """s = P s_0 + z, for a part of 33 steps, from the same scan for unit states."""
    dtype = torch.complex128 if case.is_complex else torch.float64
    inputs = case.inputs(
        case.quick | {"T": 33}, torch.float32 if case.is_complex else torch.float64, torch.device("cpu")
    )
    inputs = {name: x.detach().to(dtype if x.is_complex() else torch.float64) for name, x in inputs.items()}
    run, exchange = partial(getattr(seqmix.kernels, case.op), **case.options), EXCHANGES[case.op]
    args = tuple(inputs.values())
    zero = torch.zeros_like(run(*args)[1])
    state = torch.randn(zero.shape, dtype=zero.dtype, generator=torch.Generator().manual_seed(0))
    expected, added = run(*args, initial_state=state)[1], run(*args, initial_state=zero)[1]
    product = exchange.transition(run, args, state)
    found = exchange.apply(product, state) + added
    if case.op == "selective_rotary":  # angles, which turn round
        found, expected = (torch.polar(torch.ones_like(angle), angle) for angle in (found, expected))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_every_scan_of_a_layer_can_be_cut() -> None:
    """An op that layers with `only_scans` call and that nobody knows how to cut would fail on the second rank alone."""
    handed = {op for op in seqmix.kernels.__all__ if hasattr(getattr(seqmix.kernels, op), "__wrapped__")}
    assert handed >= set(EXCHANGES)
    model, tokens = SequenceModel("lru", 5, 8), torch.randint(5, (2, 6))
    seen: list[str] = []

    def watch(op: Any, args: Any, kwargs: Any) -> Any:
        seen.append(op.__name__)
        return op(*args, **kwargs)

    for name in list_mixers():
        if SequenceModel(name, 5, 32).mixers[0].only_scans:
            model = SequenceModel(name, 5, 32)
            with handing(watch):
                model(tokens)
    assert set(seen) >= gathered.OPS.keys()
    assert set(seen) <= EXCHANGES.keys() | gathered.OPS.keys()


@pytest.mark.parametrize("name", [name for name in list_mixers() if SequenceModel(name, 5, 32).mixers[0].only_scans])
def test_no_layer_reads_its_state_beside_its_ops(name: str) -> None:
    """On the second rank it would read zeros: what comes before is known to ops alone."""
    layer = SequenceModel(name, 5, 32).mixers[0]
    x = torch.randn(2, 5, 32)
    empty = layer.init_state(2)
    other = pytree.tree_map(lambda leaf: torch.rand_like(leaf) if leaf.is_floating_point() else leaf + 3, empty)

    def from_nothing(op: Any, args: Any, kwargs: Any) -> Any:
        if "initial_state" in kwargs:
            kwargs = kwargs | {"initial_state": torch.zeros_like(kwargs["initial_state"])}
        return op(*args, **kwargs) if op.__name__ != "earlier_rows" else (args[0], None)

    with torch.no_grad(), handing(from_nothing):
        assert torch.equal(layer(x, empty)[0], layer(x, other)[0])


def test_a_compiled_model_is_cut_as_well(alone: None) -> None:
    """Graphs would hold the scans of one rank alone: the mixers stay outside."""
    model, tokens = sequence_parallel(SequenceModel("lru", 5, 8)), torch.randint(5, (2, 6))
    seen: list[str] = []
    twice = model.mixers[0].forward.twice

    def watch(op: Any, args: Any, kwargs: Any) -> Any:
        seen.append(op.__name__)
        return ScanTwice.__call__(twice, op, args, kwargs)

    model.mixers[0].forward.twice = watch
    with torch.no_grad():
        expected, _ = model(tokens)
        found, _ = torch.compile(model, backend="eager")(tokens)
    assert torch.equal(found, expected) and seen == ["diagonal_scan"] * 2


def test_one_rank_is_the_model(alone: None) -> None:
    model, tokens = SequenceModel("lru", 5, 8), torch.randint(5, (2, 6))
    expected, state = model(tokens)
    found, end = sequence_parallel(model, init_device_mesh("cpu", (1,)))(split_sequences(tokens)[0])
    assert torch.equal(found, expected) and torch.equal(end.layers[0].h, state.layers[0].h)
    assert list(model.state_dict()) == list(SequenceModel("lru", 5, 8).state_dict())
    with pytest.raises(ValueError, match="cut over ranks already"):
        sequence_parallel(model)
    with pytest.raises(ValueError, match="whole or packed sequences, got a state"):
        model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="whole or packed sequences, got lengths"):
        model(tokens, lengths=torch.tensor([3, 6]))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bidirectional": True}, ValueError, "layers that read forwards, token by token, got blocks.0.mixer"),
        ({"norm": "batch"}, ValueError, "layers that read forwards, token by token, got blocks.0.mixer_norm"),
        ({"head": "autoencoder"}, ValueError, "an answer at each token, got head 'autoencoder'"),
        ({"activation_checkpointing": True}, NotImplementedError, "would send every state a second time"),
    ],
)
def test_models_that_cannot_be_cut(alone: None, options: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        sequence_parallel(SequenceModel("lru", 5, 8, **options))


def test_calls_that_mean_nothing(alone: None) -> None:
    model = SequenceModel("lru", 5, 8)
    with pytest.raises(
        ValueError, match=r"expected one dimension, such as mesh\['sequence'\], got 2 of sizes \(1, 1\)"
    ):
        sequence_parallel(model, init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "sequence")))
    with pytest.raises(ValueError, match="expected a DeviceMesh or a ProcessGroup, got a int"):
        sequence_parallel(model, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="form: expected one of two-pass, pipeline, got 'ring'"):
        sequence_parallel(model, form="ring")
    with pytest.raises(ValueError, match="expected a SequenceModel, got a Linear"):
        sequence_parallel(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"T of at least the 4 ranks, got \(1, 3\)"):
        part_of(torch.zeros(1, 3), 0, 4)
    with pytest.raises(ValueError, match="offsets that end at T = 3 of one row"):
        split_sequences(torch.zeros(1, 3), cu_seqlens=torch.tensor([0, 2]))


def test_without_processes_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"call torch\.distributed\.init_process_group"):
        sequence_parallel(SequenceModel("lru", 5, 8))
