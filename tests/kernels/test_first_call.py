"""The first call of a layer compiles its kernels, and no more than these."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqmix.kernels

COMPILE_EVERYTHING = """
import json
import torch
from numba.core import event
from seqmix.mixers.registry import create_mixer, list_mixers

class Listener(event.Listener):
    open, strings = [], set()

    def on_start(self, e):
        function = e.data["dispatcher"].py_func
        self.open.append(f"{function.__module__}.{function.__name__}")
        if self.open[-1].startswith("numba.cpython.unicode"):
            self.strings.add(next((name for name in reversed(self.open) if name.startswith("seqmix")), self.open[0]))

    def on_end(self, e):
        self.open.pop()

event.register("numba:compile", Listener())
for name in list_mixers():
    mixer = create_mixer(name, 16)
    y, _ = mixer(torch.randn(1, 3, 16))
    y.sum().backward()
print(json.dumps(sorted(Listener.strings)))
"""


def assignments() -> Iterator[tuple[str, ast.Assign, ast.Subscript]]:
    """File, statement and target of every `target[...] = value` in compiled functions."""
    for file in Path(seqmix.kernels.__file__).parent.rglob("cpu*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in function.decorator_list):
                for node in ast.walk(function):
                    if isinstance(node, ast.Assign):
                        yield from ((file.name, node, t) for t in node.targets if isinstance(t, ast.Subscript))


def test_slices_are_filled_with_one_number_only() -> None:
    """What is seen without compiling anything; the test below sees all."""
    sliced = [
        (file, node)
        for file, node, target in assignments()
        if any(isinstance(s, ast.Slice) for s in ast.walk(target.slice))
    ]
    assert sliced
    wrong = [
        f"{file}: {ast.unparse(node)}" for file, node in sliced if not isinstance(node.value, ast.Constant | ast.Name)
    ]
    assert not wrong


@pytest.mark.slow
def test_no_kernel_compiles_sentences(tmp_path: Path) -> None:
    """`target[:] = source` does: three seconds for what it would say of shapes that differ. `_numba.copy` does not."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE_EVERYTHING]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
