"""Kernels can be read: prefixes of names, shapes beside loads and products, stages of long functions, copies alike."""

import ast
import importlib.util
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import seqmix.kernels
from seqmix.benchmarks.cases import CASES, Case

KERNELS = Path(seqmix.kernels.__file__).parent
FILES = sorted(KERNELS.rglob("*.py"))
SHAPE = re.compile(r"\([^()]*,[^()]*\)|scalar|as o_\w+")
ONLY_SHAPES = re.compile(rf"# ({SHAPE.pattern}|, |and 2)+")
LOADS, PRODUCTS = ("tl.load", "load", "square"), ("tl.dot", "dot")


@cache
def parsed(file: Path) -> tuple[ast.Module, dict[int, str]]:
    """The tree of a file, and its comments by line."""
    text = file.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return ast.parse(text), {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def functions(*decorators: str) -> Iterator[tuple[Path, ast.FunctionDef]]:
    for file in FILES:
        for node in ast.walk(parsed(file)[0]):
            if isinstance(node, ast.FunctionDef):
                given = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
                if set(given) & set(decorators):
                    yield file, node


def header(statement: ast.stmt) -> ast.AST:
    """What of a statement is not statements again."""
    if isinstance(statement, ast.For):
        return statement.iter
    return statement.test if isinstance(statement, ast.If | ast.While) else statement


def calls(function: ast.FunctionDef, names: tuple[str, ...]) -> Iterator[tuple[ast.stmt, ast.Call]]:
    """Calls of `names` with the statements that they stand in."""
    for statement in ast.walk(function):
        if isinstance(statement, ast.stmt) and not isinstance(statement, ast.FunctionDef):
            for node in ast.walk(header(statement)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                    yield statement, node


def shape_comment(file: Path, statement: ast.stmt) -> str:
    """The comments on the lines of a statement and on the one above it."""
    comments = parsed(file)[1]
    last = header(statement).end_lineno or statement.lineno  # type: ignore[attr-defined]
    return " ".join(comments.get(line, "") for line in range(statement.lineno - 1, last + 1))


def leftmost(node: ast.expr) -> str:
    while isinstance(node, ast.BinOp):
        node = node.left
    return ast.unparse(node)


def targets(statement: ast.stmt) -> list[str]:
    if not isinstance(statement, ast.Assign):
        return []
    return [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def where(file: Path, node: ast.stmt | ast.expr) -> str:
    return f"{file.relative_to(KERNELS)}:{node.lineno}"


def test_names_have_their_prefixes() -> None:
    """As in flash-linear-attention: `i_` which program, `o_` offsets, `p_` pointers, `b_` blocks in registers."""
    wrong = []
    for file, function in functions("triton.jit"):
        for statement in ast.walk(function):
            if not isinstance(statement, ast.Assign):
                continue
            value, names = ast.unparse(statement.value), targets(statement)
            if "tl.arange" in value and "tl.load" not in value:
                prefix = "o_"
            elif re.search(r"\b(tl\.program_id|program)\(", value):
                prefix = "i_"
            elif re.match(r"(tl\.)?load\(.*mask", value):
                prefix = "b_"
            else:
                continue
            wrong += [f"{where(file, statement)} {n}" for n in names if n != "_" and not re.match(prefix, n)]
        for statement, call in calls(function, (*LOADS, "tl.store", "store")):
            if not leftmost(call.args[0]).startswith("p_"):
                wrong.append(f"{where(file, statement)} {leftmost(call.args[0])}")
    assert not wrong


def test_shapes_stand_beside_loads_and_products() -> None:
    missing, seen = [], 0
    for file, function in functions("triton.jit"):
        for statement, _ in calls(function, LOADS + PRODUCTS):
            seen += 1
            if not SHAPE.search(shape_comment(file, statement)):
                missing.append(where(file, statement))
    assert not missing
    assert seen > 300


def test_long_kernels_say_their_stages() -> None:
    """Every function over 40 lines that Numba or Triton compiles; a shape is no stage."""
    bare = []
    for file, function in functions("jit", "triton.jit"):
        assert function.end_lineno is not None
        if function.end_lineno - function.lineno < 40:
            continue
        comments, lines = parsed(file)[1], file.read_text().splitlines()
        stages = [
            line
            for line in range(function.body[0].lineno, function.end_lineno)
            if lines[line - 1].strip().startswith("#") and not ONLY_SHAPES.fullmatch(comments[line])
        ]
        marks = [function.body[0].lineno, *stages, function.end_lineno]
        longest = max(b - a for a, b in pairwise(marks))
        if len(stages) < 2 or longest > 30:
            bare.append(f"{where(file, function)} {function.name}: {len(stages)} stages, {longest} lines without one")
    assert not bare


def body_of(file: str, name: str) -> str:
    found = [node for node in ast.walk(parsed(KERNELS / file)[0]) if isinstance(node, ast.FunctionDef)]
    (function,) = (node for node in found if node.name == name)
    first = function.body[0]
    has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return "\n".join(ast.dump(node) for node in function.body[has_text:])


COPIES = {
    "_exp_for": [
        ("block_scan/cpu.py", "higher_order_scan/cpu.py"),
        (
            "causal_conv1d/cpu.py",
            "gather_scan/selected/cpu_kernels.py",
            "selective_scan/cpu_kernels.py",
            "slstm/cpu.py",
        ),
    ],
    "_tanh_for": [("m2rnn/cpu.py", "slstm/cpu.py")],
    "_dot": [
        tuple(f"fixed_point/{file}.py" for file in ("scan/cpu", "selective_scan/cpu", "selective_scan/cpu_backward"))
    ],
    "_eliminate": [("fixed_point/selective_scan/cpu.py", "fixed_point/selective_scan/cpu_backward.py")],
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_that_numba_needs_are_alike(name: str) -> None:
    """Why there are any is said in `kernels/_numba.py`."""
    for files in COPIES[name]:
        assert len({body_of(file, name) for file in files}) == 1


def described(comment: str, frame: Any) -> list[tuple[int | None, ...]]:
    """The shapes that a comment names, with what its letters are in the frame of a kernel, None where not known."""
    shapes: list[tuple[int | None, ...]] = []
    for text in SHAPE.findall(comment):
        if text == "scalar":
            shapes.append(())
        elif text.startswith("as "):
            like = shape_of(frame.f_locals[text.removeprefix("as ")])
            shapes += [like, (*like, 2)]
        else:
            names = [name.strip() for name in text.strip("()").split(",") if name.strip()]
            values = [getattr(frame.f_locals.get(name), "value", frame.f_locals.get(name)) for name in names]
            shapes.append(tuple(value if isinstance(value, int) else None for value in values))
    return shapes


def shape_of(value: Any) -> tuple[int, ...]:
    return tuple(int(getattr(size, "value", size)) for size in getattr(value, "shape", None) or ())


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
@pytest.mark.skipif(torch.cuda.is_available(), reason="looks into the interpreter")
@pytest.mark.triton
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_shapes_are_those(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments beside loads and products say what the interpreter finds there, for every op, cut into chunks."""
    import triton.language as tl

    from seqmix.kernels import _triton

    beside = {
        (str(file), call.lineno): shape_comment(file, statement)
        for file, function in functions("triton.jit")
        for statement, call in calls(function, ("tl.load", "tl.dot"))
    }
    seen: set[tuple[str, int]] = set()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result, frame = function(*args, **kwargs), sys._getframe(1)
            place = frame.f_code.co_filename, frame.f_lineno
            if place in beside:
                seen.add(place)
                found, said = shape_of(result), described(beside[place], frame)
                fits = [
                    len(s) == len(found) and all(a in (None, b) for a, b in zip(s, found, strict=True)) for s in said
                ]
                assert any(fits), f"{place}: {found}, and beside it {beside[place]}"
            return result

        return call

    for name in ("load", "dot"):
        monkeypatch.setattr(tl, name, watched(getattr(tl, name)))
    inputs = case.inputs(case.quick | {"B": 1, "T": 8}, torch.float32, torch.device("cpu"))
    monkeypatch.setattr(_triton, "SHORTEST_CHUNK", 4)
    output, _ = getattr(seqmix.kernels, case.op)(**inputs, **case.options, backend="triton")
    outputs = output if isinstance(output, tuple) else (output,)
    leaves = [x for x in inputs.values() if x.requires_grad]
    torch.autograd.grad(outputs, leaves, [torch.ones_like(each) for each in outputs])
    assert seen
