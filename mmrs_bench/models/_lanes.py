# numba has no types.
# mypy: ignore-errors
"""Vectors of `LANES` float32 numbers in CPU registers, for kernels that are compiled by numba.

Numba leaves it to LLVM to vectorise loops, which fails for loops with many accumulators. These functions emit vector
instructions themselves. A ``group`` is a tuple of `LANES` vectors, in other words a square block of numbers. Arrays are
contiguous, have one dimension, and are indexed without a check.
"""

from __future__ import annotations

import math

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from mmrs_bench.models._compiled import LN2

#: One AVX-512 register, or two registers of AVX2 or NEON.
LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8

#: Sums that are computed beside each other, because each addition waits for the one before it.
CHAINS = 4

#: Smaller powers of two are 0. Beside a weight of 1 they do not count in float32, and their products would be so small
#: that CPUs compute them a hundred times slower (subnormal numbers).
LOWEST_POWER = -64.0

_INT = ir.IntType(32)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(_INT, LANES)


class _Lanes(types.Type):
    def __init__(self):
        super().__init__(name=f"lanes{LANES}")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _VECTOR)


_lanes = _Lanes()
_group = types.UniTuple(_lanes, LANES)


def _constant(number):
    return ir.Constant(_VECTOR, [number] * LANES)


def _repeat(builder, number):
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _call(builder, name, *vectors):
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * len(vectors))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32"), vectors)


def _address(context, builder, array_type, array, index, offset=0):
    start = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return builder.gep(start, [ir.Constant(_INT, offset)])


def _load(builder, address):
    vector = builder.load(builder.bitcast(address, _VECTOR.as_pointer()))
    vector.align = 4
    return vector


def _store(builder, address, vector):
    builder.store(vector, builder.bitcast(address, _VECTOR.as_pointer())).align = 4


@intrinsic
def load(typing_context, array, index):
    """The vector at ``array[index:]``."""

    def generate(context, builder, signature, args):
        return _load(builder, _address(context, builder, signature.args[0], *args))

    return _lanes(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, vector):
    """Write a vector to ``array[index:]``."""

    def generate(context, builder, signature, args):
        _store(builder, _address(context, builder, signature.args[0], *args[:2]), args[2])
        return context.get_dummy_value()

    return types.none(array, types.intp, _lanes), generate


@intrinsic
def prefetch(typing_context, array, index):
    """Ask the CPU to read ``array[index:]`` into its cache."""

    def generate(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        address = builder.bitcast(_address(context, builder, signature.args[0], *args), byte)
        options = [ir.Constant(_INT, number) for number in (0, 3, 1)]  # to read, into the nearest cache, data
        builder.call(function, [address, *options])
        return context.get_dummy_value()

    return types.none(array, types.intp), generate


@intrinsic
def load_group(typing_context, array, index, stride):
    """The group whose vector r is at ``array[index + r * stride:]``."""

    def generate(context, builder, signature, args):
        array, index, stride = args
        vectors = []
        for _ in range(LANES):
            vectors.append(_load(builder, _address(context, builder, signature.args[0], array, index)))
            index = builder.add(index, stride)
        return context.make_tuple(builder, signature.return_type, vectors)

    return _group(array, types.intp, types.intp), generate


@intrinsic
def store_group(typing_context, array, index, group):
    """Write the vectors of a group one after the other to ``array[index:]``."""

    def generate(context, builder, signature, args):
        for r, vector in enumerate(cgutils.unpack_tuple(builder, args[2], LANES)):
            _store(builder, _address(context, builder, signature.args[0], *args[:2], r * LANES), vector)
        return context.get_dummy_value()

    return types.none(array, types.intp, _group), generate


@intrinsic
def transposed(typing_context, group):
    """The group with rows and columns exchanged."""

    def generate(context, builder, signature, args):
        vectors = cgutils.unpack_tuple(builder, args[0], LANES)
        size = LANES // 2
        while size:  # exchange the off-diagonal blocks of this size
            low = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
            high = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
            exchanged = list(vectors)
            for r in range(LANES):
                if not r & size:
                    pair = vectors[r], vectors[r + size]
                    exchanged[r] = builder.shuffle_vector(*pair, ir.Constant(_INTS, low))
                    exchanged[r + size] = builder.shuffle_vector(*pair, ir.Constant(_INTS, high))
            vectors, size = exchanged, size // 2
        return context.make_tuple(builder, signature.return_type, vectors)

    return _group(_group), generate


@intrinsic
def zero_group(typing_context):
    """A group of zeros."""

    def generate(context, builder, signature, args):
        return context.make_tuple(builder, signature.return_type, [_constant(0.0)] * LANES)

    return _group(), generate


@intrinsic
def add_products(typing_context, start, group, array, index):
    """Sum: start + sum_r group[r] * array[index + r]."""

    def generate(context, builder, signature, args):
        start, group, *place = args
        sums = [start, *[_constant(0.0)] * (CHAINS - 1)]
        for r, vector in enumerate(cgutils.unpack_tuple(builder, group, LANES)):
            factor = _repeat(builder, builder.load(_address(context, builder, signature.args[2], *place, r)))
            sums[r % CHAINS] = _call(builder, "fma", vector, factor, sums[r % CHAINS])
        while len(sums) > 1:
            sums = [builder.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        return sums[0]

    return _lanes(_lanes, _group, array, types.intp), generate


@intrinsic
def add_outer(typing_context, group, vector, array, index):
    """The group of all group[r] + vector * array[index + r]."""

    def generate(context, builder, signature, args):
        group, vector, *place = args
        sums = []
        for r, total in enumerate(cgutils.unpack_tuple(builder, group, LANES)):
            factor = builder.load(_address(context, builder, signature.args[2], *place, r))
            sums.append(_call(builder, "fma", vector, _repeat(builder, factor), total))
        return context.make_tuple(builder, signature.return_type, sums)

    return _group(_group, _lanes, array, types.intp), generate


@intrinsic
def scale_group(typing_context, group, vector):
    """The group of all group[r] * vector."""

    def generate(context, builder, signature, args):
        products = [builder.fmul(each, args[1]) for each in cgutils.unpack_tuple(builder, args[0], LANES)]
        return context.make_tuple(builder, signature.return_type, products)

    return _group(_group, _lanes), generate


@intrinsic
def repeat(typing_context, number):
    """The vector whose lanes are all equal to a number."""
    return _lanes(types.float32), lambda context, builder, signature, args: _repeat(builder, args[0])


def _elementwise(arity, generate, doc):
    def typed(typing_context, *vectors):
        return _lanes(*[_lanes] * arity), lambda context, builder, signature, args: generate(builder, *args)

    # Intrinsics need explicit names of their arguments.
    functions = {1: lambda typing_context, x: typed(typing_context, x)}
    functions[2] = lambda typing_context, x, y: typed(typing_context, x, y)
    functions[3] = lambda typing_context, x, y, z: typed(typing_context, x, y, z)
    function = functions[arity]
    function.__doc__ = doc
    return intrinsic(function)


def _larger(builder, x, y):
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _power_of_two(builder, x):
    tiny = builder.fcmp_ordered("<", x, _constant(LOWEST_POWER))  # false for NaN
    x = builder.select(tiny, _constant(LOWEST_POWER), x)
    whole = _call(builder, "rint", x)
    part = builder.fsub(x, whole)
    # Taylor coefficients; for |part| <= 1/2 the first omitted term is below a tenth of float32's rounding.
    power = _constant(LN2**7 / math.factorial(7))
    for k in range(6, -1, -1):
        power = _call(builder, "fma", power, part, _constant(LN2**k / math.factorial(k)))
    exponent = builder.add(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [127] * LANES))
    bits = builder.shl(exponent, ir.Constant(_INTS, [23] * LANES))
    return builder.select(tiny, _constant(0.0), builder.fmul(power, builder.bitcast(bits, _VECTOR)))


subtract = _elementwise(2, lambda builder, x, y: builder.fsub(x, y), "x - y.")
multiply = _elementwise(2, lambda builder, x, y: builder.fmul(x, y), "x y.")
multiply_add = _elementwise(3, lambda builder, x, y, z: _call(builder, "fma", x, y, z), "x y + z.")
inverse = _elementwise(1, lambda builder, x: builder.fdiv(_constant(1.0), x), "1 / x.")
larger = _elementwise(2, _larger, "The larger of x and y; y if one of them is NaN.")
power_of_two = _elementwise(1, _power_of_two, "2 ** x for x up to 127; 0 for x below `LOWEST_POWER`.")
