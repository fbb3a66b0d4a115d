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
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

import seqmix.kernels
from seqmix.benchmarks.cases import CASES, Inputs
from seqmix.kernels import _backend
from seqmix.mixers.fixed_point.rnn_triton import Sweeps

# 300 steps are cut into chunks, 64 are not, 1 and 17 have tiles of their own where products are; after those nothing is
# left to compile for any other length.
LENGTHS = (300, 64, 1, 17, 16, 301, 512)


def as_they_are(inputs: Inputs) -> Inputs:
    return inputs


def gated_by_head(inputs: Inputs) -> Inputs:
    return inputs | {"log_g": torch.zeros(inputs["q"].shape[:3], requires_grad=True)}


def without_gates(inputs: Inputs) -> Inputs:
    return {name: tensor for name, tensor in inputs.items() if name != "log_g"}


def sweep(length: int) -> None:
    """One sweep of the fixed-point RNN."""
    width = 256
    for rank, product in ((2, True), (1, False)):
        p = torch.zeros(2, length, 2 * width + rank * (width + 1))
        sweeps = Sweeps(p, width, rank, 0.8 / 3, product, None)
        sweeps(p.flatten(0, 1), torch.zeros(2 * length, width), torch.zeros(2, width))


SWEEP = "fixed_point_sweep"
# For a case: name, sizes, type, and what becomes of the inputs.
Variant = tuple[str, dict[str, int], torch.dtype, Callable[[Inputs], Inputs]]
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
        name = f"{self.fn.__module__.removeprefix('seqmix.kernels.')}.{self.fn.__name__}"
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

    def run(op: str, inputs: Inputs, **options: Any) -> None:
        output, _ = getattr(seqmix.kernels, op)(**inputs, **options, backend="triton")
        outputs = output if isinstance(output, tuple) else (output,)
        torch.autograd.grad(outputs, list(inputs.values()), [torch.ones_like(each) for each in outputs])

    if wanted == SWEEP:
        for length in LENGTHS:
            sweep(length)
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
        ("packed", {}, packed, as_they_are),
        ("float64", {"K": 16, "V": 16}, torch.float64, as_they_are),
    ):
        case = f"{wanted}, {name}"
        inputs = change(of.inputs(of.sizes | {"B": 1, "T": length} | sizes, dtype, torch.device("cpu")))
        offsets = torch.tensor([0, 0, 7, length], dtype=torch.int32) if name == "packed" else None
        run(of.op, inputs, **of.options, cu_seqlens=offsets)


if __name__ == "__main__":
    main(sys.argv[1])
