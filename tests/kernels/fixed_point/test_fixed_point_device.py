"""Sweeps without a look from the host, and a sweep in one Triton pass: the same numbers as the loops on a CPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from seqmix import FixedPointMamba, FixedPointRNN
from seqmix.kernels.fixed_point.low_rank import eliminate
from seqmix.kernels.fixed_point.problem import Stop
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.solvers import Adjoint, Forward
from seqmix.kernels.fixed_point.selective_scan.api import cell as mamba_cell_of
from seqmix.kernels.fixed_point.selective_scan.cell import _first_pole
from seqmix.kernels.fixed_point.selective_scan.solvers import Adjoint as MambaAdjoint
from seqmix.kernels.fixed_point.selective_scan.solvers import Forward as MambaForward
from seqmix.kernels.fixed_point.selective_scan.tokens import Gradients, Inputs
from seqmix.kernels.fixed_point.sweeps import by_parts, solve, solve_on_device
from seqmix.kernels.fixed_point.sweeps_device import iterate
from tests.kernels.waiting import on_a_gpu
from tests.mixers.test_fp_rnn import ALL, build, diverging, relative

pytest.importorskip("triton")

from seqmix.kernels.fixed_point.eigenvalue_triton import top_eigenvalue

STOP = Stop(1e-9, 200, 1.0)
# Sequences that are done leave one loop and stay in the other: products of other shapes, so other orders of sums.
SAME = {"rtol": 1e-11, "atol": 1e-11}


def problem(mixing, rank, hidden, bounds=(0, 20, 20, 63), dtype=torch.float64, **options):
    torch.manual_seed(0)
    layer = build(mixing, rank, hidden, dtype, max_radius=0.8, **options)
    bounds = torch.tensor(bounds)
    p = layer.proj_in(torch.randn(1, int(bounds[-1]), 8, dtype=dtype))[0, :, : layer.cell.size].detach()
    h0 = torch.randn(len(bounds) - 1, layer.d_state, dtype=dtype)
    return Forward(layer.cell, p, layer.weight_hidden.detach(), h0, Rows(bounds))


def mamba_problem(mixing, rank, hidden, bounds=(0, 20, 20, 43), dtype=torch.float64):
    chosen = mamba_cell_of(mixing, 6, 3, rank, 0.3, hidden)
    torch.manual_seed(0)
    bounds = torch.tensor(bounds)
    sizes = {"u": (6,), "dt": (6,), "p": (chosen.size,)}
    inputs = {name: torch.randn(int(bounds[-1]), *size, dtype=dtype) for name, size in sizes.items()}
    inputs["dt"] = 0.1 * inputs["dt"].exp()
    A, D = -torch.rand(6, 3, dtype=dtype) - 0.1, torch.rand(6, dtype=dtype)
    weight, norm = 0.3 * torch.randn(chosen.recurrent, 6, dtype=dtype), 0.1 * torch.randn(2, 6, dtype=dtype)
    norm[0] += 1
    s0, y0 = torch.randn(len(bounds) - 1, 6, 3, dtype=dtype), torch.randn(len(bounds) - 1, 6, dtype=dtype)
    rows = Rows(bounds)
    return MambaForward(chosen, Inputs(**inputs, A=A, D=D, weight=weight, norm=norm), s0, y0, rows, STOP)


def fused_and_not(fused, plain, y, rows):
    """A sweep by kernels is a sweep, damped or not; sequences that are done stay as they are; NaN is infinite."""
    for busy, damping in ((torch.tensor([True] * rows.sequences), 1.0), (torch.arange(rows.sequences) > 0, 0.7)):
        found = fused.measured_sweep(y, busy, damping)
        expected = by_parts(plain, y, busy, damping)
        torch.testing.assert_close(found[0], expected[0], **SAME)
        for one, other in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(one[busy], other[busy], **SAME)
    y = y.clone()
    y[2] = torch.nan
    change = fused.measured_sweep(y, torch.ones_like(busy), 1.0)[1]
    assert change.isinf().tolist() == [True] + [False] * (rows.sequences - 1)


@pytest.fixture(params=["whole", "chunks"])
def walked(request, monkeypatch):
    """Sequences walked whole, and cut into chunks."""
    fill, shortest = {"whole": (0, 128), "chunks": (10**6, 8)}[request.param]
    monkeypatch.setattr("seqmix.kernels._triton.FILL", fill)
    monkeypatch.setattr("seqmix.kernels._triton.SHORTEST_CHUNK", shortest)


LONG, ALIKE, SHORT = (0, 19, 19, 22), (0, 10, 20), (0, 4, 4, 7)
OLD, RAW = {"write": "b"}, {"normalize_hidden": False}
MIXINGS = [("householder", 3, ALL, LONG, OLD), ("householder", 2, (), ALIKE, {}),
           ("dplr", 2, ("b", "mixing"), LONG, {}), ("dplr", 2, ("lambda",), ALIKE, RAW),
           ("householder", 0, ALL, LONG, {}), ("kronecker", 1, ALL, SHORT, OLD),
           ("kronecker", 1, ("b",), ALIKE, {}), ("kronecker", 1, ("mixing",), SHORT, RAW)]  # fmt: skip


@pytest.mark.triton
@pytest.mark.sample
@pytest.mark.parametrize("mixing, rank, hidden, bounds, options", MIXINGS, ids=str)
def test_a_fused_sweep_is_a_sweep(mixing, rank, hidden, bounds, options, walked):
    plain, fused = (problem(mixing, rank, hidden, bounds, **options) for _ in range(2))
    if bounds == ALIKE:
        fused.rows = Rows(torch.tensor(bounds), bounds[-1], bounds[1])
    fused.fuse()
    y = torch.randn(bounds[-1], 6, dtype=torch.float64)
    fused_and_not(fused, plain, y, fused.rows)
    cotangent, v = torch.randn_like(y), torch.randn_like(y)
    expected, found = Adjoint(plain, y, cotangent), Adjoint(fused, y, cotangent)
    found.fuse()
    fused_and_not(found, expected, v, fused.rows)
    torch.testing.assert_close(found.vjp(v), expected.vjp(v), **SAME)


MAMBA_MIXINGS = [("householder", 3, "b c mixing", LONG), ("dplr", 2, "c", ALIKE), ("dplr", 1, "", LONG),
                 ("householder", 1, "mixing", ALIKE), ("kronecker", 1, "b mixing", SHORT),
                 ("kronecker", 1, "c", ALIKE)]  # fmt: skip


@pytest.mark.triton
@pytest.mark.sample(4)
@pytest.mark.parametrize("mixing, rank, hidden, bounds", MAMBA_MIXINGS, ids=str)
def test_a_fused_sweep_of_mamba_is_a_sweep(mixing, rank, hidden, bounds):
    plain, fused = (mamba_problem(mixing, rank, hidden, bounds) for _ in range(2))
    if bounds == ALIKE:
        fused.rows = Rows(torch.tensor(bounds), bounds[-1], bounds[1])
    fused.fuse()
    y = torch.randn(bounds[-1], 6, dtype=torch.float64)
    fused_and_not(fused, plain, y, fused.rows)
    dy, ds, zeta = torch.randn_like(y), torch.randn_like(plain.s0), torch.randn_like(y)
    expected, found = MambaAdjoint(plain, y, dy, ds), MambaAdjoint(fused, y, dy, ds)
    found.fuse()
    fused_and_not(found, expected, zeta, fused.rows)
    for name, one, other in zip(Gradients._fields, found.gradients(zeta), expected.gradients(zeta), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_top_eigenvalue_by_squaring(dtype):
    """However close the next eigenvalue is, and also for a matrix of rank one or zeros."""
    r = torch.randn(30, 5, 5, dtype=torch.float64)
    r[0], r[1, 1:] = 0, 0
    gram = r @ r.mT
    values, vectors = torch.linalg.eigh(gram)
    gaps = torch.logspace(-12, -1, 28, dtype=torch.float64)
    values[2:, -2] = values[2:, -1] * (1 - gaps)  # the vector of a close pair is any in their plane
    gram = vectors @ torch.diag_embed(values) @ vectors.mT
    top, vector = top_eigenvalue(gram.to(dtype))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(top.double(), values[:, -1], rtol=20 * eps, atol=1e-30)
    clear = torch.cat((torch.arange(30)[1:2], torch.arange(30)[28:]))
    along = (vector.double()[clear] * vectors[clear][..., -1]).sum(-1).abs()
    torch.testing.assert_close(along, torch.ones_like(along), rtol=20 * eps, atol=0)


@pytest.mark.parametrize("damping", [1.0, 0.7])
@pytest.mark.parametrize("mixing, hidden", [("householder", ALL), ("kronecker", ALL), ("dplr", ())])
def test_solves_on_the_device_are_the_same(mixing, hidden, damping):
    forward = problem(mixing, 2, hidden)
    start, stop = torch.zeros(63, 6, dtype=torch.float64), STOP._replace(damping=damping)
    y, report, wild = solve(forward, start, stop)
    found, device_report, device_wild = solve_on_device(forward, start, stop)
    torch.testing.assert_close(found, y, **SAME)
    assert device_report.iterations.tolist() == report.iterations.tolist() and report.iterations[1] == 0
    assert device_report.converged.all() and not len(wild) and not len(device_wild)
    adjoint = Adjoint(forward, y, torch.randn_like(y))
    torch.testing.assert_close(iterate(adjoint, start, stop)[0], solve(adjoint, start, stop)[0], **SAME)


@pytest.mark.parametrize("behind", [0, 30])
def test_the_loop_ends_however_far_the_device_is_behind(behind, monkeypatch):
    """Flags arrive in order, `behind` sweeps late; the loop ends at the first that says nobody is busy."""
    made = []

    class Flag:
        def __init__(self, busy):
            self.busy, self.number = bool(busy), len(made)
            made.append(self)

        def arrived(self):
            return len(made) > self.number + behind

        def __bool__(self):
            return self.busy

    monkeypatch.setattr("seqmix.kernels.fixed_point.sweeps_device._Flag", Flag)
    monkeypatch.setattr("seqmix.kernels.fixed_point.sweeps_device.can_poll", lambda device: True)
    forward, start = problem("householder", 2, ALL), torch.zeros(63, 6, dtype=torch.float64)
    y, report = iterate(forward, start, STOP)
    needed = int(report.iterations.max())
    assert needed + behind < STOP.cap and len(made) == needed + behind
    torch.testing.assert_close(y, solve(forward, start, STOP)[0], **SAME)


def test_divergence_is_found_at_the_end():
    layer, x = diverging()
    p = layer.proj_in(x)[..., : layer.cell.size].detach()
    forward = Forward(
        layer.cell, p.flatten(0, 1), layer.weight_hidden.detach(), p.new_zeros(4, 6), Rows.of("test", p, None)
    )
    y, report, wild = solve_on_device(forward, p.new_zeros(128, 6), Stop(1e-12, 300, 1.0))
    assert wild.tolist() == [1, 3] and report.converged.tolist() == [True, False, True, False]
    expected, *_ = solve(forward, p.new_zeros(128, 6), Stop(1e-12, 300, 1.0))
    for s in (0, 2):
        assert relative(y.view(4, 32, 6)[s], expected.view(4, 32, 6)[s]) < 1e-9


def layer_on_a_gpu(kind, **options):
    """A layer, x and state on a GPU, which have no numbers."""
    with torch.device("meta"):
        layer = kind(8, **options)
    for module in layer.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.empty(parameter.shape)
    return layer, torch.empty(2, 21, 8), layer.init_state(2)


CAPTURED = [
    (FixedPointRNN, {"d_state": 6, "mixing": "householder", "rank": 2}),
    (FixedPointRNN, {"d_state": 6, "mixing": "dplr", "rank": 3, "hidden_dependence": ("c",), "solver": "sweeps"}),
    (FixedPointRNN, {"d_state": 6, "mixing": "kronecker", "solver": "sweeps"}),
    (FixedPointMamba, {"d_state": 3, "rank": 2, "max_radius": 0.3}),
    (FixedPointMamba, {"d_state": 3, "rank": 1, "mixing": "dplr", "d_conv": 4}),
]


@pytest.mark.parametrize("kind, options", CAPTURED, ids=str)
def test_decode_and_sweeps_can_be_captured(kind, options, monkeypatch):
    """One token, and whole sequences by sweeps with their gradients: nothing looks at a number on the host."""
    with on_a_gpu(monkeypatch) as launches:
        layer, x, state = layer_on_a_gpu(kind, max_iterations=2, **options)
        y, state = layer.step(x[:, 0], state)
        assert y.shape == (2, 8) and y.device.type == "cuda" and layer.last_solve.shape == (2, 4)
        launches.clear()
        layer(x, state)
    names = [name for name, _ in launches]
    assert names.count("_finish" if kind is FixedPointMamba else "_sweep") >= 4, names  # two sweeps and two back


def test_sweeps_look_once_and_only_for_the_fallback(monkeypatch):
    """Outside a graph the one look is after the loop; without the fallback there is none."""
    with on_a_gpu(monkeypatch, capturing=False):
        monkeypatch.setattr("seqmix.kernels.fixed_point.sweeps_device.can_poll", lambda device: False)
        layer, x, state = layer_on_a_gpu(FixedPointRNN, max_iterations=2, fallback=False)
        layer(x, state)
        layer, x, state = layer_on_a_gpu(FixedPointRNN, max_iterations=2)
        with pytest.raises(DataDependentOutputException):
            layer(x, state)


def test_what_cannot_be_captured_says_so(monkeypatch):
    with on_a_gpu(monkeypatch):
        layer, x, state = layer_on_a_gpu(FixedPointMamba, rank=3)
        with pytest.raises(NotImplementedError, match="rank above 2 cannot be part of a CUDA graph"):
            layer.step(x[:, 0], state)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_elimination_solves(size):
    a = torch.randn(40, 3, size, size, dtype=torch.float64)
    a[:5, :, 0, 0] = 0  # rows must be exchanged
    b = torch.randn(40, 3, size, 2, dtype=torch.float64)
    if size == 1:
        a = a + (a == 0)
    torch.testing.assert_close(eliminate(a, b), torch.linalg.solve(a, b), rtol=1e-9, atol=1e-9)


def test_first_pole_in_closed_form_is_the_largest_real_eigenvalue():
    systems = torch.randn(500, 2, 2, dtype=torch.float64)
    values = torch.linalg.eigvals(systems)
    expected = torch.where(values.imag == 0, values.real, 0).amax(-1).clamp_min(0)
    torch.testing.assert_close(_first_pole(systems), expected, rtol=1e-10, atol=1e-12)
    padded = torch.nn.functional.pad(systems, (0, 1, 0, 1))
    torch.testing.assert_close(_first_pole(padded), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(_first_pole(systems[:, :1, :1]), systems[:, 0, 0].clamp_min(0))
