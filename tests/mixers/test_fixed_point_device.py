"""Sweeps without a look from the host, and a sweep in one Triton pass: the same numbers as the loops on a CPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from seqmix.mixers.fixed_point.mamba_cell import _first_pole
from seqmix.mixers.fixed_point.mamba_op import cell as mamba_cell_of
from seqmix.mixers.fixed_point.mamba_solvers import Adjoint as MambaAdjoint
from seqmix.mixers.fixed_point.mamba_solvers import Forward as MambaForward
from seqmix.mixers.fixed_point.mamba_solvers import Inputs
from seqmix.mixers.fixed_point.rnn_op import cell as rnn_cell_of
from seqmix.mixers.fixed_point.rnn_solvers import Adjoint, Forward
from seqmix.mixers.fixed_point.rows import Rows
from seqmix.mixers.fixed_point.sweeps import Stop, solve, solve_on_device
from seqmix.mixers.fixed_point.sweeps_device import iterate
from tests.mixers.test_fp_rnn import ALL, build, diverging, relative

STOP = Stop(1e-9, 200, 1.0)


def problem(mixing, rank, hidden, bounds=(0, 20, 20, 63), dtype=torch.float64):
    torch.manual_seed(0)
    layer = build(mixing, rank, hidden, dtype, max_radius=0.8)
    bounds = torch.tensor(bounds)
    p = layer.preactivations(torch.randn(1, int(bounds[-1]), 8, dtype=dtype))[0, :, : layer.cell.size].detach()
    h0 = torch.randn(len(bounds) - 1, layer.d_state, dtype=dtype)
    return Forward(layer.cell, p, layer.weight_hidden.detach(), h0, Rows(bounds))


@pytest.mark.triton
@pytest.mark.parametrize("hidden", [(), ALL], ids=str)
@pytest.mark.parametrize("mixing, rank", [("householder", 3), ("dplr", 2), ("householder", 0)])
def test_a_fused_sweep_is_a_sweep(mixing, rank, hidden, monkeypatch):
    for fill, shortest in ((0, 128), (10**6, 16)):  # sequences walked whole, then cut into chunks
        monkeypatch.setattr("seqmix.kernels._triton.FILL", fill)
        monkeypatch.setattr("seqmix.kernels._triton.SHORTEST_CHUNK", shortest)
        forward = problem(mixing, rank, hidden)
        y = torch.randn(63, 6, dtype=torch.float64)
        new = forward.sweep(y)
        forward.fuse()
        fused, change, size = forward.measured_sweep(y)
        torch.testing.assert_close(fused, new, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(change, forward.rows.largest(new - y), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(size, forward.rows.largest(new), rtol=1e-12, atol=1e-12)
        y[5] = torch.nan
        assert forward.measured_sweep(y)[1].isinf().tolist() == [True, False, False]


@pytest.mark.parametrize("damping", [1.0, 0.7])
@pytest.mark.parametrize("mixing, hidden", [("householder", ALL), ("kronecker", ALL), ("dplr", ())])
def test_solves_on_the_device_are_the_same(mixing, hidden, damping):
    forward = problem(mixing, 2, hidden)
    start, stop = torch.zeros(63, 6, dtype=torch.float64), STOP._replace(damping=damping)
    y, report, wild = solve(forward, start, stop)
    found, device_report, device_wild = solve_on_device(forward, start, stop)
    torch.testing.assert_close(found, y, rtol=0, atol=0)
    assert device_report.iterations.tolist() == report.iterations.tolist() and report.iterations[1] == 0
    assert device_report.converged.all() and not len(wild) and not len(device_wild)
    adjoint = Adjoint(forward, y, torch.randn_like(y))
    torch.testing.assert_close(iterate(adjoint, start, stop)[0], solve(adjoint, start, stop)[0], rtol=0, atol=0)


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

    monkeypatch.setattr("seqmix.mixers.fixed_point.sweeps_device._Flag", Flag)
    monkeypatch.setattr("seqmix.mixers.fixed_point.sweeps_device.can_poll", lambda device: True)
    forward, start = problem("householder", 2, ALL), torch.zeros(63, 6, dtype=torch.float64)
    y, report = iterate(forward, start, STOP)
    needed = int(report.iterations.max())
    assert needed + behind < STOP.cap and len(made) == needed + behind
    torch.testing.assert_close(y, solve(forward, start, STOP)[0], rtol=0, atol=0)


def test_divergence_is_found_at_the_end():
    layer, x = diverging()
    p = layer.preactivations(x)[..., : layer.cell.size].detach()
    forward = Forward(
        layer.cell, p.flatten(0, 1), layer.weight_hidden.detach(), p.new_zeros(4, 6), Rows.of("test", p, None)
    )
    y, report, wild = solve_on_device(forward, p.new_zeros(128, 6), Stop(1e-12, 300, 1.0))
    assert wild.tolist() == [1, 3] and report.converged.tolist() == [True, False, True, False]
    expected, *_ = solve(forward, p.new_zeros(128, 6), Stop(1e-12, 300, 1.0))
    for s in (0, 2):
        assert relative(y.view(4, 32, 6)[s], expected.view(4, 32, 6)[s]) < 1e-9


@pytest.fixture
def no_numbers(monkeypatch):
    """Tensors without numbers: whatever asks for one on the host, and would wait for a GPU, raises."""
    monkeypatch.setattr("seqmix.mixers.fixed_point.mamba_cell._can_look", lambda x: False)
    monkeypatch.setattr("seqmix.mixers.fixed_point.mamba_solvers._HAS_NUMBA", False)  # the compiled pass is a CPU's
    with FakeTensorMode():
        yield


RNN_CELLS = [rnn_cell_of("householder", 6, 2, 2.0, "lambda b mixing"), rnn_cell_of("dplr", 6, 2, 2.0, "")]
MAMBA_CELL = mamba_cell_of("householder", 6, 4, 2, 2.0, "b c mixing")


@pytest.mark.parametrize("chosen", RNN_CELLS, ids=("householder", "dplr"))
def test_nothing_in_the_loop_looks_at_a_number(chosen, no_numbers):
    p, weight, h0 = torch.zeros(42, chosen.size), torch.zeros(chosen.recurrent, 6), torch.zeros(2, 6)
    for rows in (Rows(torch.arange(3) * 21, 42, 21), Rows(torch.arange(3) * 21, 42)):
        forward = Forward(chosen, p, weight, h0, rows)
        y, _ = iterate(forward, torch.zeros(42, 6), STOP._replace(cap=2))
        iterate(Adjoint(forward, y, torch.zeros_like(y)), torch.zeros_like(y), STOP._replace(cap=2))
    # A step of a decode: one token of every sequence.
    rows = Rows(torch.arange(3), 2, 1)
    h = Forward(chosen, p[:2], weight, h0, rows).one_by_one()
    assert rows.end(h, h0).shape == (2, 6)


def test_nothing_in_the_loop_of_mamba_looks_at_a_number(no_numbers):
    chosen = MAMBA_CELL
    sizes = (42, 6), (42, 6), (42, chosen.size), (6, 4), (6,), (chosen.recurrent, 6), (6,)
    inputs, s0, y0 = Inputs(*(torch.zeros(size) for size in sizes)), torch.zeros(2, 6, 4), torch.zeros(2, 6)
    forward = MambaForward(chosen, inputs, s0, y0, Rows(torch.arange(3) * 21, 42, 21), STOP)
    y, _ = iterate(forward, torch.zeros(42, 6), STOP._replace(cap=2))
    iterate(MambaAdjoint(forward, y, y, s0), torch.zeros(42, 6), STOP._replace(cap=2))
    token = MambaForward(chosen, inputs.at(slice(0, 2)), s0, y0, Rows(torch.arange(3), 2, 1), STOP)
    assert token.one_by_one().shape == (2, 6)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        solve(token, torch.zeros(2, 6), STOP._replace(cap=0))


def test_first_pole_in_closed_form_is_the_largest_real_eigenvalue():
    systems = torch.randn(500, 2, 2, dtype=torch.float64)
    values = torch.linalg.eigvals(systems)
    expected = torch.where(values.imag == 0, values.real, 0).amax(-1).clamp_min(0)
    torch.testing.assert_close(_first_pole(systems), expected, rtol=1e-10, atol=1e-12)
    padded = torch.nn.functional.pad(systems, (0, 1, 0, 1))
    torch.testing.assert_close(_first_pole(padded), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(_first_pole(systems[:, :1, :1]), systems[:, 0, 0].clamp_min(0))
