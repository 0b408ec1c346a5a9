"""Vectors of neighbouring channels, as values in loops that numba compiles. Importing this module needs numba.

Left to itself, the compiler finds SIMD instructions for one loop over channels at a time, and what passes from one loop
to the next goes through memory. With a vector as a value, loops nest as the data wants it (channels outside, time
inside), and a state stays in registers from one time step to the next. `+`, `-`, `*`, `/`, `max` and `min` work on two
vectors, or on a vector and a float32; the other functions are below. Indices are flat, from an array's first element.

Infinities and NaN keep their meaning, and nothing is reordered.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, overload, register_model

LANES = 32
"""Numbers in a vector: two registers of AVX-512, four of AVX2, so that one computes while another waits."""

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""How kernels are compiled."""

_INT = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(_INT, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)
# A product and a sum may become one instruction, and -0 is 0.
_FLAGS = ("contract", "nsz")


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"Vector({LANES} x float32)")


_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any):
        super().__init__(dmm, fe_type, _FLOATS)


def _in_all_lanes(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first, ir.Constant(_INTS, [0] * LANES))


def _define(symbol: Callable[..., Any], build: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> None:
    """Lets an operator or a built-in function work on two vectors, or on a vector and a float32."""

    @intrinsic
    def compute(context, a, b):
        def generate(context, builder, signature, arguments):
            a, b = (
                value if kind == _vector else _in_all_lanes(builder, value)
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            return build(builder, a, b)

        return _vector(a, b), generate

    @overload(symbol)
    def _(a, b):
        if _vector in (a, b) and {a, b} <= {_vector, types.float32}:
            return lambda a, b: compute(a, b)
        return None


_define(operator.add, lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_define(operator.sub, lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_define(operator.mul, lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_define(operator.truediv, lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))
# A comparison with NaN is false, so NaN stays where the first operand has it.
_define(max, lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
_define(min, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a))


@intrinsic
def in_all_lanes(context: Any, number: Any) -> Any:
    """A vector with one float32 in all lanes."""

    def generate(context, builder, signature, arguments):
        return _in_all_lanes(builder, arguments[0])

    return _vector(number), generate


@intrinsic
def where_positive(context: Any, x: Any, number: Any, other: Any) -> Any:
    """The float32 `number` in lanes with x > 0, and those of the vector `other` else."""

    def generate(context, builder, signature, arguments):
        x, number, other = arguments
        positive = builder.fcmp_ordered(">", x, ir.Constant(_FLOATS, [0.0] * LANES))
        return builder.select(positive, _in_all_lanes(builder, number), other)

    return _vector(x, number, other), generate


@intrinsic
def power_of_two(context: Any, x: Any) -> Any:
    """The power of two whose exponent, with its bias, stands in the last bits of each lane."""

    def generate(context, builder, signature, arguments):
        bits = builder.shl(builder.bitcast(arguments[0], _INTS), ir.Constant(_INTS, [23] * LANES))
        return builder.bitcast(bits, _FLOATS)

    return _vector(x), generate


@intrinsic
def total(context: Any, x: Any) -> Any:
    """The sum of all lanes, halves added to halves."""

    def generate(context, builder, signature, arguments):
        x, width = arguments[0], LANES
        while width > 1:
            width //= 2
            order = [width + lane if lane < width else 0 for lane in range(LANES)]
            x = builder.fadd(x, builder.shuffle_vector(x, x, ir.Constant(_INTS, order)), flags=_FLAGS)
        return builder.extract_element(x, ir.Constant(_INT, 0))

    return types.float32(x), generate


@intrinsic
def number_at(context: Any, array: Any, index: Any) -> Any:
    """The number at a flat index of an array of any dimensions."""

    def generate(context, builder, signature, arguments):
        return builder.load(_element(context, builder, signature.args[0], *arguments))

    return array.dtype(array, types.intp), generate


@intrinsic
def load(context: Any, array: Any, index: Any) -> Any:
    """The vector that begins at a flat index."""

    def generate(context, builder, signature, arguments):
        return builder.load(_vector_at(context, builder, signature.args[0], *arguments), align=4)

    return _vector(array, types.intp), generate


@intrinsic
def store(context: Any, array: Any, index: Any, x: Any) -> Any:
    """Writes a vector from a flat index on."""

    def generate(context, builder, signature, arguments):
        array, index, x = arguments
        builder.store(x, _vector_at(context, builder, signature.args[0], array, index), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def load_first(context: Any, array: Any, index: Any, count: Any) -> Any:
    """`load`, but only of the first `count` lanes; the others are 0."""

    def generate(context, builder, signature, arguments):
        array, index, count = arguments
        pointer = _vector_at(context, builder, signature.args[0], array, index)
        function_type = ir.FunctionType(_FLOATS, [pointer.type, _INT, _MASK, _FLOATS])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.masked.load.v{LANES}f32.p0")
        zeros = ir.Constant(_FLOATS, [0.0] * LANES)
        return builder.call(function, [pointer, ir.Constant(_INT, 4), _first_lanes(builder, count), zeros])

    return _vector(array, types.intp, types.intp), generate


@intrinsic
def _store_part(context, array, index, x, count):
    def generate(context, builder, signature, arguments):
        array, index, x, count = arguments
        pointer = _vector_at(context, builder, signature.args[0], array, index)
        function_type = ir.FunctionType(ir.VoidType(), [_FLOATS, pointer.type, _INT, _MASK])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.masked.store.v{LANES}f32.p0")
        builder.call(function, [x, pointer, ir.Constant(_INT, 4), _first_lanes(builder, count)])
        return context.get_dummy_value()

    return types.void(array, types.intp, x, types.intp), generate


@njit(**OPTIONS)
def store_first(array: Any, index: Any, x: Any, count: Any) -> Any:
    """`store`, but only of the first `count` lanes."""
    if count >= LANES:
        store(array, index, x)
    else:
        _store_part(array, index, x, count)


@njit(**OPTIONS)
def buffer(size: Any) -> Any:
    """Memory for `size` numbers that begins where a cache's line does, so that no register's load needs two lines."""
    line = 16
    memory = np.empty(size + line, np.float32)
    first = -(memory.ctypes.data // 4) % line
    return memory[first : first + size]


def _element(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _vector_at(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    return builder.bitcast(_element(context, builder, array_type, array, index), _FLOATS.as_pointer())


def _first_lanes(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    lanes = ir.Constant(_INTS, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _in_all_lanes(builder, builder.trunc(count, _INT)))
