"""Plain torch in chunks, for devices without kernels: the loop's numbers and gradients, for every way to call an op."""

import importlib

import pytest
import torch
from torch.nn.functional import normalize

from seqmix.kernels import delta_rule, diagonal_scan, dplr_delta_rule, gated_linear_attention
from seqmix.kernels._backend import in_chunks

OPS = {op.__name__: op for op in (diagonal_scan, gated_linear_attention, delta_rule, dplr_delta_rule)}
CASES = [
    ("diagonal_scan", "varying"),
    ("diagonal_scan", "constant"),
    ("diagonal_scan", "complex"),
    ("gated_linear_attention", "channel"),
    ("gated_linear_attention", "head"),
    ("gated_linear_attention", "none"),
    ("delta_rule", "head"),
    ("delta_rule", "none"),
    ("dplr_delta_rule", "channel"),
]


def make(op, kind, batch, length, dtype=torch.float64):
    torch.manual_seed(length)
    if op == "diagonal_scan":
        a = 2 * torch.rand(3) - 1 if kind == "constant" else 2 * torch.rand(batch, length, 3) - 1
        x = torch.randn(batch, length, 3)
        if kind == "complex":
            a, x = a * torch.polar(torch.ones_like(a), 6 * torch.rand_like(a)), torch.complex(x, torch.rand_like(x))
        given, state = {"a": a, "x": x}, (3,)
    else:
        q, k, v = torch.randn(batch, length, 2, 4), torch.randn(batch, length, 2, 4), torch.randn(batch, length, 2, 5)
        given, state = {"q": q, "k": normalize(k, dim=-1), "v": v}, (2, 4, 5)
        if op == "delta_rule":
            given["beta"] = 2 * torch.rand(batch, length, 2)
        decay = torch.rand(batch, length, 2, 4) if kind == "channel" else torch.rand(batch, length, 2)
        decay = torch.where(decay < 0.1, -20.0, -decay)  # weak ones beside steps of e^-20
        if op == "dplr_delta_rule":
            given |= {"a": -torch.rand_like(k) * given["k"], "b": given["k"].clone(), "log_w": decay}
        elif kind != "none":
            given["log_g"] = decay
    wide = torch.complex128 if kind == "complex" else dtype
    return {name: t.to(wide if t.is_complex() else dtype).requires_grad_() for name, t in given.items()}, state, wide


def asking(op):
    """The module that asks whether to run in chunks."""
    return importlib.import_module(
        f"seqmix.kernels.{'diagonal_scan.api' if op == 'diagonal_scan' else '_matrix_state'}"
    )


def measure(op, given, state, cu_seqlens=None):
    out, final = OPS[op](**given, initial_state=state, cu_seqlens=cu_seqlens, backend="reference")
    loss = (out * torch.arange(out.numel()).view_as(out).cos()).sum() + final.sum()
    loss = loss.real if loss.is_complex() else loss
    return [out, final, *torch.autograd.grad(loss, [*given.values(), state], create_graph=True)]


@pytest.mark.parametrize("length", [1, 2, 3, 50])
@pytest.mark.parametrize("op, kind", CASES)
def test_equals_the_loop(monkeypatch, op, kind, length):
    given, shape, dtype = make(op, kind, 2, length)
    state = torch.randn(2, *shape, dtype=dtype, requires_grad=True)
    expected = measure(op, given, state)
    calls = []
    monkeypatch.setattr(asking(op), "in_chunks", lambda *_: calls.append(1) or True)
    found = measure(op, given, state)
    assert calls
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    if length == 3 and dtype == torch.float64:  # second derivatives too
        seconds = [torch.autograd.grad(run[2].square().sum(), [*given.values()][-1])[0] for run in (found, expected)]
        torch.testing.assert_close(*seconds, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("op", OPS)
def test_packed(monkeypatch, op):
    given, shape, _ = make(op, {"diagonal_scan": "varying", "dplr_delta_rule": "channel"}.get(op, "none"), 1, 40)
    bounds = torch.tensor([0, 7, 7, 8, 40], dtype=torch.int32)
    state = torch.randn(4, *shape, dtype=torch.float64, requires_grad=True)
    expected = measure(op, given, state, bounds)
    monkeypatch.setattr(asking(op), "in_chunks", lambda *_: True)
    for a, b in zip(measure(op, given, state, bounds), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "op, kind", [("gated_linear_attention", "channel"), ("delta_rule", "head"), ("dplr_delta_rule", "channel")]
)
def test_single_precision_by_the_rule(monkeypatch, op, kind):
    """At most 3 times the loop's error plus 2 eps max|truth|, with decays down to e^-20 and beta up to 2."""
    given, shape, _ = make(op, kind, 1, 1000, torch.float32)
    state = torch.randn(1, *shape)
    truth, _ = OPS[op](**{n: t.double() for n, t in given.items()}, initial_state=state.double(), backend="reference")
    errors = []
    for chunks in (False, True):
        monkeypatch.setattr(asking(op), "in_chunks", lambda *_, c=chunks: c)
        out, _ = OPS[op](**given, initial_state=state, backend="reference")
        errors.append((out.double() - truth).abs().max().item())
    assert errors[1] <= 3 * errors[0] + 2 * torch.finfo(torch.float32).eps * truth.abs().max().item()


def test_only_devices_without_kernels_run_in_chunks():
    package = "seqmix.kernels.diagonal_scan"
    assert not in_chunks(package, torch.device("cpu"))
    assert in_chunks(package, torch.device("mps")) and in_chunks(package, torch.device("xpu"))
