"""Vectors in registers, for CPU kernels that take a tile of a matrix through many steps.

In a loop over arrays LLVM guards every pair that may overlap, keeps sums in memory and writes the state back after each
step, which leaves a quarter of what vector units can do. Numba knows no vectors; here they are a type of their own, for
compiled code only:

    two = registers(x, 2)           zeros, as many as fill two registers, of x's type; `lanes(x, 4)`: four of them
    load(two, x, i, j)              a vector as long as `two` of x[i, j] and what follows it in memory
    spread(two, x, i, j)            one of x[i, j] over and over
    store(value, x, i, j)           x[i, j] and what follows it in memory are written
    load4, store4                   four vectors, of x[i, j], x[i + 1, j], ...
    a + b, a * b, fma(a, b, c)      lane by lane, so that no width of a vector changes a bit
    choose(a, b, x, y)              x where a > b, y elsewhere, lane by lane

Indices are not checked and do not wrap. Numba compiles a kernel again when the kernel's own file changes, not when this
one does: so every file with such kernels names the digest of this one, which a test compares.
"""

import operator
from collections.abc import Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = [
    "choose",
    "first_of",
    "fma",
    "lanes",
    "load",
    "load4",
    "registers",
    "spread",
    "store",
    "store4",
    "totals",
    "turn",
    "width",
]

_INDEX = ir.IntType(32)


class Lanes(types.Type):
    """A vector of `count` numbers of a type."""

    def __init__(self, dtype: Any, count: int) -> None:
        super().__init__(name=f"Lanes({dtype}, {count})")
        self.dtype, self.count = dtype, count


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.dtype).get_value_type(), kind.count))


def _arithmetic(function: Any, instruction: str) -> None:
    @infer_global(function)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, keywords: Any) -> Any:
            first, second = args
            return signature(first, *args) if isinstance(first, Lanes) and first == second else None

    @lower_builtin(function, Lanes, Lanes)
    def _lowering(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.mul, "fmul")


@cache
def _register_bytes() -> int:
    """64 with AVX-512, else 32 (two of 16 on lesser ones); a tile made for wider ones would live in memory."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return 64 if "+avx512f" in features.split(",") else 32


def _bytes(array: Any) -> int:
    return int(array.dtype.bitwidth) // 8


def _place(context: Any, builder: Any, array: Any, value: Any, indices: Sequence[Any], kind: Any) -> Any:
    """A pointer to a `kind` at array[indices]; what would be other numbers, silently, is refused."""
    number = getattr(kind, "element", kind)
    if array.layout != "C" or len(indices) != array.ndim or number != context.get_value_type(array.dtype):
        raise TypeError(f"{kind} at {len(indices)} indices of {array}: needs a contiguous one of its type, all indices")
    view = context.make_array(array)(context, builder, value)
    pointer = cgutils.get_item_pointer(context, builder, array, view, indices, wraparound=False)
    return builder.bitcast(pointer, ir.PointerType(kind))


def _pick(builder: Any, first: Any, second: Any, lanes: Sequence[int]) -> Any:
    """The vector of these lanes of two vectors; those of `second` count on from the last of `first`."""
    mask = ir.Constant(ir.VectorType(_INDEX, len(lanes)), [_INDEX(i) for i in lanes])
    return builder.shuffle_vector(first, second, mask)


def _zeros(kind: Lanes, *arguments: Any) -> Any:
    return kind(*arguments), lambda context, builder, sig, args: context.get_constant_null(kind)


def _lanes(typing_context: Any, array: Any, count: Any) -> Any:
    return _zeros(Lanes(array.dtype, count.literal_value), array, count)


def _registers(typing_context: Any, array: Any, number: Any) -> Any:
    return _zeros(Lanes(array.dtype, number.literal_value * _register_bytes() // _bytes(array)), array, number)


def _width(typing_context: Any, like: Any) -> Any:
    """How many numbers a vector holds."""
    return types.intp(like), lambda context, builder, sig, args: context.get_constant(types.intp, like.count)


def _first_of(typing_context: Any, value: Any) -> Any:
    return value.dtype(value), lambda context, builder, sig, args: builder.extract_element(args[0], _INDEX(0))


def _load(typing_context: Any, like: Any, array: Any, *indices: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = cgutils.unpack_tuple(builder, args[2])
        place = _place(context, builder, array, args[1], where, context.get_value_type(like))
        return builder.load(place, align=_bytes(array))

    return like(like, array, types.StarArgTuple.from_types(indices)), generate


def _spread(typing_context: Any, like: Any, array: Any, *indices: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = context.get_value_type(like)
        where = cgutils.unpack_tuple(builder, args[2])
        number = builder.load(_place(context, builder, array, args[1], where, kind.element), align=_bytes(array))
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, _INDEX(0))
        return _pick(builder, one, one, [0] * like.count)

    return like(like, array, types.StarArgTuple.from_types(indices)), generate


def _store(typing_context: Any, value: Any, array: Any, *indices: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = cgutils.unpack_tuple(builder, args[2])
        builder.store(args[0], _place(context, builder, array, args[1], where, args[0].type), align=_bytes(array))
        return context.get_dummy_value()

    return types.void(value, array, types.StarArgTuple.from_types(indices)), generate


def _down(builder: Any, row: Any, column: Any) -> Any:
    """The indices of four rows below each other."""
    return [(builder.add(row, ir.Constant(row.type, i)), column) for i in range(4)]


def _load4(typing_context: Any, like: Any, array: Any, row: Any, column: Any) -> Any:
    kind = types.UniTuple(like, 4)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, places = context.get_value_type(like), _down(builder, *args[2:])
        pointers = [_place(context, builder, array, args[1], where, vector) for where in places]
        return context.make_tuple(builder, kind, [builder.load(pointer, align=_bytes(array)) for pointer in pointers])

    return kind(like, array, types.intp, types.intp), generate


def _store4(typing_context: Any, a: Any, b: Any, c: Any, d: Any, array: Any, row: Any, column: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for value, where in zip(args[:4], _down(builder, *args[5:]), strict=True):
            builder.store(value, _place(context, builder, array, args[4], where, value.type), align=_bytes(array))
        return context.get_dummy_value()

    return types.void(a, b, c, d, array, types.intp, types.intp), generate


def _fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once where the processor can; to a shorter c the product's parts are added one by one.

    Of a * b + c * d LLVM chooses which product to round; this says it.
    """

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, second, total = args
        kind = total.type
        name = f"llvm.fmuladd.v{kind.count}{kind.element.intrinsic_name}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        for i in range(0, a.count, c.count):
            parts = (_pick(builder, x, x, range(i, i + c.count)) for x in (first, second))
            total = builder.call(function, (*parts, total))
        return total

    return c(a, b, c), generate


def _choose(typing_context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return x(a, b, x, y), generate


def _totals(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """A vector of four: the sums over the lanes, four or more, of four vectors, in a fixed order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def both(first: Any, second: Any, low: list[int], high: list[int]) -> Any:
            """The sum of two picks of four from every four lanes of both, where those of `second` count from 4."""
            size = first.type.count
            picks = ([g + i % 4 + i // 4 * size for g in range(0, size, 4) for i in four] for four in (low, high))
            return builder.fadd(*(_pick(builder, first, second, pick) for pick in picks))

        ab, cd = (both(args[i], args[i + 1], [0, 4, 1, 5], [2, 6, 3, 7]) for i in (0, 2))
        total = both(ab, cd, [0, 1, 4, 5], [2, 3, 6, 7])
        while total.type.count > 4:
            half = total.type.count // 2
            total = builder.fadd(*(_pick(builder, total, total, range(i, i + half)) for i in (0, half)))
        return total

    return Lanes(a.dtype, 4)(a, b, c, d), generate


def _turn(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Of four vectors of four those of their first, second, third and fourth numbers."""
    kind = types.UniTuple(a, 4)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def pairs(first: Any, second: Any) -> list[Any]:
            return [_pick(builder, first, second, pick) for pick in ([0, 4, 1, 5], [2, 6, 3, 7])]

        (ac_low, ac_high), (bd_low, bd_high) = pairs(args[0], args[2]), pairs(args[1], args[3])
        return context.make_tuple(builder, kind, [*pairs(ac_low, bd_low), *pairs(ac_high, bd_high)])

    return kind(a, b, c, d), generate


lanes: Any = intrinsic(prefer_literal=True)(_lanes)
registers: Any = intrinsic(prefer_literal=True)(_registers)
width: Any = intrinsic(_width)
first_of: Any = intrinsic(_first_of)
load: Any = intrinsic(_load)
spread: Any = intrinsic(_spread)
store: Any = intrinsic(_store)
load4: Any = intrinsic(_load4)
store4: Any = intrinsic(_store4)
fma: Any = intrinsic(_fma)
choose: Any = intrinsic(_choose)
totals: Any = intrinsic(_totals)
turn: Any = intrinsic(_turn)
