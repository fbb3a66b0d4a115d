"""Compiles the Triton kernels of one case for an H100 or H200, without one, and prints what each of them uses.

`compile_kernels.py CASE` is run by `test_triton_compiles.py` in a process of its own, because here Triton must not
interpret. Ops run forward and backward on CPU tensors with a launch that stops after compilation, so their numbers mean
nothing. `VARIANTS` are what the benchmark's case leaves out; packed sequences and float64 come last.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

import seqmix.kernels
import seqmix.kernels.fixed_point.scan.triton_adjoint

# Kernels that are made after `main` has begun are interpreted.
import seqmix.kernels.fixed_point.selective_scan.triton_adjoint
from seqmix.benchmarks.cases import CASES
from seqmix.kernels import _backend
from seqmix.kernels.fixed_point.problem import Stop
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.api import cell as rnn_cell
from seqmix.kernels.fixed_point.scan.solvers import Adjoint as RNNAdjoint
from seqmix.kernels.fixed_point.scan.solvers import Forward as RNNForward
from seqmix.kernels.fixed_point.selective_scan.api import cell as mamba_cell
from seqmix.kernels.fixed_point.selective_scan.solvers import Adjoint as MambaAdjoint
from seqmix.kernels.fixed_point.selective_scan.solvers import Forward as MambaForward
from seqmix.kernels.fixed_point.selective_scan.tokens import Inputs
from seqmix.kernels.m2rnn.api import m2rnn
from seqmix.kernels.slstm.api import slstm

Named = dict[str, torch.Tensor]

# 300 steps are cut into chunks, 64 are not, 1 and 17 have tiles of their own where products are; after those nothing is
# left to compile for any other length.
LENGTHS = (300, 64, 1, 17, 16, 301, 512)


def as_they_are(inputs: Named) -> Named:
    return inputs


def gated_by_head(inputs: Named) -> Named:
    return inputs | {"log_g": torch.zeros(inputs["q"].shape[:3], requires_grad=True)}


def without_gates(inputs: Named) -> Named:
    return {name: tensor for name, tensor in inputs.items() if name != "log_g"}


def sweep_once(forward: Any, adjoint: Any, width: int, dtype: torch.dtype) -> None:
    """A sweep, one of the adjoint and the gradients at its end; no sequence is done."""
    busy, y = torch.ones(2, dtype=torch.bool), torch.zeros(forward.rows.total, width, dtype=dtype)
    forward.fuse()(y, busy, 1.0)
    pulled = adjoint(y)
    pulled.fuse()
    pulled.fused(y, busy, 1.0)
    pulled.vjp(y) if hasattr(pulled, "vjp") else pulled.gradients(y)


def rnn_sweeps(length: int, dtype: torch.dtype) -> None:
    """Sweeps of the fixed-point RNN: every mixing, seen by the state and not; 24 x 32 channels for Kronecker."""
    zeros = partial(torch.zeros, dtype=dtype)
    rows = Rows(torch.arange(3) * length, 2 * length, length)
    for mixing, rank, width, hidden in (
        ("householder", 2, 256, "lambda b mixing"),
        ("dplr", 1, 768, ""),
        ("kronecker", 1, 768, "lambda b mixing"),
    ):
        chosen = rnn_cell(mixing, width, rank, 0.8 / 3, hidden, True, True)
        p, weight = zeros(2 * length, chosen.size), zeros(chosen.recurrent, width)
        forward = RNNForward(chosen, p, weight, zeros(2, width), rows)
        sweep_once(forward, lambda y, f=forward: RNNAdjoint(f, y, y), width, dtype)


def mamba_sweeps(length: int, dtype: torch.dtype) -> None:
    """Sweeps of the fixed-point Mamba; 32 x 48 channels for Kronecker."""
    zeros = partial(torch.zeros, dtype=dtype)
    rows, states = Rows(torch.arange(3) * length, 2 * length, length), 16
    for mixing, rank, width, hidden in (("householder", 2, 512, "b c mixing"), ("kronecker", 1, 1536, "mixing")):
        chosen = mamba_cell(mixing, width, states, rank, 0.3, hidden)
        u, norm = zeros(2 * length, width), zeros(width)
        A, weight = zeros(width, states), zeros(chosen.recurrent, width)
        inputs = Inputs(u, u, zeros(2 * length, chosen.size), A, norm, weight, zeros(2, width))
        s0 = zeros(2, width, states)
        forward = MambaForward(chosen, inputs, s0, s0[..., 0], rows, Stop(1e-6, 10, 1.0))
        sweep_once(forward, lambda y, f=forward, s=s0: MambaAdjoint(f, y, y, s), width, dtype)


def slstm_loop(length: int, dtype: torch.dtype) -> None:
    """64 units of a head and 128; packed."""
    for units, offsets in ((64, None), (128, torch.tensor([0, 0, 1, 2 * length], dtype=torch.int32))):
        batch, sequences = (2, 2) if offsets is None else (1, 3)
        zeros = partial(torch.zeros, dtype=dtype, requires_grad=True)
        given = zeros(batch, 2 * length // batch, 4, 4, units), zeros(4, units, 4, units)
        output = slstm(*given, zeros(sequences, 4, 4, units), offsets)
        torch.autograd.grad(output, given, [torch.ones_like(each) for each in output])


def m2rnn_loop(length: int, dtype: torch.dtype) -> None:
    """Heads of 64 x 64 and 16 x 32; packed."""
    for keys, values, offsets in ((64, 64, None), (16, 32, torch.tensor([0, 0, 1, 2 * length], dtype=torch.int32))):
        batch, sequences = (2, 2) if offsets is None else (1, 3)
        zeros, rows = partial(torch.zeros, dtype=dtype, requires_grad=True), (batch, 2 * length // batch, 4)
        given = zeros(*rows, keys), zeros(*rows, keys), zeros(*rows, values), zeros(rows), zeros(4, values, values)
        output = m2rnn(*given, zeros(sequences, 4, keys, values), offsets)
        torch.autograd.grad(output, given, [torch.ones_like(each) for each in output])


SWEEPS = {
    "fp-rnn sweep": rnn_sweeps,
    "fp-mamba sweep": mamba_sweeps,
    "slstm loop": slstm_loop,
    "m2rnn loop": m2rnn_loop,
}
# For a case: name, sizes, type, and what becomes of the inputs.
Variant = tuple[str, dict[str, int], torch.dtype, Callable[[Named], Named]]
WIDE: Variant = ("K=V=128", {"K": 128, "V": 128}, torch.bfloat16, as_they_are)
VARIANTS: dict[str, list[Variant]] = {
    "gated_block_scan": [(f"m={m}", {"m": m}, torch.bfloat16, as_they_are) for m in (1, 2, 3, 5, 8, 16)],
    "gated_higher_order_scan": [("m=16", {"m": 16}, torch.bfloat16, as_they_are)],
    "gated_linear_attention": [
        WIDE,
        *(
            (name, {}, dtype, change)
            for name, change in (("by head", gated_by_head), ("no gates", without_gates))
            for dtype in (torch.float32, torch.bfloat16)
        ),
    ],
    "dplr_delta_rule": [WIDE],
    "delta_rule": [WIDE, *(("by head", {}, dtype, gated_by_head) for dtype in (torch.float32, torch.bfloat16))],
}

TARGET = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Driver:
    """As much of a CUDA driver as compilation asks for."""

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of the stack it spills to."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]) + int(found["LOCAL"])}


def main(wanted: str) -> None:
    driver.set_active(Driver())
    launch = jit.JITFunction.run
    seen: set[str] = set()
    case, length = wanted, 0

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel is None or kernel.hash in seen:
            return
        seen.add(kernel.hash)
        module = re.sub(r"^seqmix\.(kernels|mixers\.fixed_point)\.", "", self.fn.__module__)
        name = f"{module}.{self.fn.__name__}"
        ptx = kernel.asm["ptx"]
        row = {
            "case": case,
            "length": length,
            "kernel": name,
            "shared": kernel.metadata.shared,
            "async": ptx.count("cp.async.c"),
        }
        options = {key: value for key, value in kwargs.items() if isinstance(value, int)}
        print(json.dumps(row | usage(kernel.asm["cubin"]) | {"options": options}), flush=True)

    jit.JITFunction.run = compile_only
    for package, backend in _backend._AVAILABLE:
        if backend == "triton":
            _backend.load_kernels(package, backend)
    # The kernels are made; now the ops may be given CPU tensors.
    os.environ["TRITON_INTERPRET"] = "1"

    def run(op: str, inputs: Named, **options: Any) -> None:
        output, _ = getattr(seqmix.kernels, op)(**inputs, **options, backend="triton")
        outputs = output if isinstance(output, tuple) else (output,)
        torch.autograd.grad(
            outputs, [x for x in inputs.values() if x.requires_grad], [torch.ones_like(each) for each in outputs]
        )

    if wanted in SWEEPS:
        _backend._chosen.set("triton")
        for length in LENGTHS:
            SWEEPS[wanted](length, torch.float32)
        case, length = f"{wanted}, float64", LENGTHS[0]
        SWEEPS[wanted](length, torch.float64)
        return
    of = next(each for each in CASES if each.name == wanted)
    for dtype in (torch.float32, torch.bfloat16):
        if of.is_complex and dtype != torch.float32:
            continue
        for length in LENGTHS:
            run(of.op, of.inputs(of.sizes | {"B": 2, "T": length}, dtype, torch.device("cpu")), **of.options)
    length = LENGTHS[0]
    packed = torch.float32 if of.is_complex else torch.bfloat16
    for name, sizes, dtype, change in (
        *VARIANTS.get(wanted, ()),
        # A size of one is a constant to Triton, not a number.
        ("ones", dict.fromkeys("DNHV", 1) | {"K": 1 + (wanted == "selective_rotary")}, torch.float32, as_they_are),
        ("packed", {}, packed, as_they_are),
        ("float64", {"K": 16, "V": 16}, torch.float64, as_they_are),
    ):
        case = f"{wanted}, {name}"
        inputs = change(of.inputs(of.sizes | {"B": 1, "T": length} | sizes, dtype, torch.device("cpu")))
        offsets = torch.tensor([0, 0, 7, length], dtype=torch.int32) if name == "packed" else None
        run(of.op, inputs, **of.options, cu_seqlens=offsets)


if __name__ == "__main__":
    main(sys.argv[1])
