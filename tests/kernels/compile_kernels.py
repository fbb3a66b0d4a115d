"""Compiles every Triton kernel for an H100 or H200 on a machine without one, and prints what each of them uses.

Run by `test_triton_compiles.py` in a process of its own, because here Triton must not interpret. Ops run forward and
backward on CPU tensors with a launch that stops after compilation, so their numbers mean nothing.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

import seqmix.kernels
from seqmix.benchmarks.cases import CASES, Case
from seqmix.kernels import _backend

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


def main() -> None:
    driver.set_active(Driver())
    launch = jit.JITFunction.run
    seen: set[str] = set()
    case: Case
    length: int

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel is None or kernel.hash in seen:
            return
        seen.add(kernel.hash)
        name = f"{self.fn.__module__.removeprefix('seqmix.kernels.')}.{self.fn.__name__}"
        ptx = kernel.asm["ptx"]
        row = {
            "case": case.name,
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
    for case in CASES:
        package = sys.modules[getattr(seqmix.kernels, case.op).__module__].__package__
        if (package, "triton") not in _backend._AVAILABLE:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            if case.is_complex and dtype != torch.float32:
                continue
            # 300 steps are cut into chunks, 64 are not; after those nothing is left to compile for any other length.
            for length in (300, 64, 1, 17, 16, 301, 512):
                inputs = case.inputs(case.sizes | {"B": 2, "T": length}, dtype, torch.device("cpu"))
                output, _ = getattr(seqmix.kernels, case.op)(**inputs, **case.options, backend="triton")
                outputs = output if isinstance(output, tuple) else (output,)
                torch.autograd.grad(outputs, list(inputs.values()), [torch.ones_like(each) for each in outputs])


if __name__ == "__main__":
    main()
