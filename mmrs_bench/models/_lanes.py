# numba has no types.
# mypy: ignore-errors
"""Vectors of `LANES` float32 numbers in CPU registers, for kernels that are compiled by numba.

Numba leaves it to LLVM to vectorise loops, which fails for loops with many accumulators. These functions emit vector
instructions themselves. A ``group`` is a tuple of `LANES` vectors, in other words a square block of numbers. Arrays are
contiguous, have one dimension, and are indexed without a check.

After a change of this file, delete ``__pycache__/*.nb*``: numba's cache on disk sees changes of the kernels only.
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


def padded(count: int) -> int:
    """The multiple of `LANES` that holds ``count`` numbers."""
    return -(-count // LANES) * LANES


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


def _exchanged(builder, x, y, size):
    """Both vectors after lane l + size of x and lane l of y were exchanged, for all l without the bit ``size``."""
    low = [lane if not lane & size else LANES + lane - size for lane in range(LANES)]
    high = [lane + size if not lane & size else LANES + lane for lane in range(LANES)]
    return [builder.shuffle_vector(x, y, ir.Constant(_INTS, lanes)) for lanes in (low, high)]


def _total(builder, sums):
    """The sum of `CHAINS` vectors."""
    while len(sums) > 1:
        sums = [builder.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


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
            exchanged = list(vectors)
            for r in range(LANES):
                if not r & size:
                    exchanged[r], exchanged[r + size] = _exchanged(builder, vectors[r], vectors[r + size], size)
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
        return _total(builder, sums)

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
def multiply_groups(typing_context, x, y):
    """The group of all x[r] * y[r]."""

    def generate(context, builder, signature, args):
        pairs = zip(*(cgutils.unpack_tuple(builder, group, LANES) for group in args), strict=True)
        return context.make_tuple(builder, signature.return_type, [builder.fmul(*pair) for pair in pairs])

    return _group(_group, _group), generate


@intrinsic
def add_scaled(typing_context, start, group, vector):
    """The group of all start[r] + group[r] * vector."""

    def generate(context, builder, signature, args):
        pairs = zip(*(cgutils.unpack_tuple(builder, each, LANES) for each in args[:2]), strict=True)
        sums = [_call(builder, "fma", factor, args[2], total) for total, factor in pairs]
        return context.make_tuple(builder, signature.return_type, sums)

    return _group(_group, _group, _lanes), generate


@intrinsic
def dot(typing_context, x, y):
    """Sum: sum_r x[r] * y[r]."""

    def generate(context, builder, signature, args):
        sums = [_constant(0.0)] * CHAINS
        pairs = zip(*(cgutils.unpack_tuple(builder, group, LANES) for group in args), strict=True)
        for r, pair in enumerate(pairs):
            sums[r % CHAINS] = _call(builder, "fma", *pair, sums[r % CHAINS])
        return _total(builder, sums)

    return _lanes(_group, _group), generate


@intrinsic
def lane_sums(typing_context, group):
    """The vector whose lane r is the sum of the lanes of group[r]."""

    def generate(context, builder, signature, args):
        vectors = cgutils.unpack_tuple(builder, args[0], LANES)
        while len(vectors) > 1:
            size = len(vectors) // 2
            pairs = zip(vectors[:size], vectors[size:], strict=True)
            vectors = [builder.fadd(*_exchanged(builder, *pair, size)) for pair in pairs]
        return vectors[0]

    return _lanes(_group), generate


@intrinsic
def powers_of_two(typing_context, group, vector):
    """The group of all 2 ** (group[r] * vector); 0 below the exponents of float32, infinity above them."""

    def generate(context, builder, signature, args):
        powers = []
        for factor in cgutils.unpack_tuple(builder, args[0], LANES):
            x = builder.fmul(factor, args[1])
            x = builder.select(builder.fcmp_ordered("<", x, _constant(-127.0)), _constant(-127.0), x)  # keeps NaN
            x = builder.select(builder.fcmp_ordered(">", x, _constant(128.0)), _constant(128.0), x)
            powers.append(_two_to(builder, x))
        return context.make_tuple(builder, signature.return_type, powers)

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


def _two_to(builder, x):
    """2 ** x for x in [-127, 128]; 0 and infinity at the ends."""
    whole = _call(builder, "rint", x)
    part = builder.fsub(x, whole)
    # Taylor coefficients; for |part| <= 1/2 the first omitted term is below a tenth of float32's rounding.
    power = _constant(LN2**7 / math.factorial(7))
    for k in range(6, -1, -1):
        power = _call(builder, "fma", power, part, _constant(LN2**k / math.factorial(k)))
    exponent = builder.add(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [127] * LANES))
    bits = builder.shl(exponent, ir.Constant(_INTS, [23] * LANES))
    return builder.fmul(power, builder.bitcast(bits, _VECTOR))


def _power_of_two(builder, x):
    tiny = builder.fcmp_ordered("<", x, _constant(LOWEST_POWER))  # false for NaN
    power = _two_to(builder, builder.select(tiny, _constant(LOWEST_POWER), x))
    return builder.select(tiny, _constant(0.0), power)


def _decay(builder, x):
    """exp(-|x|), 0 below 2 ** `LOWEST_POWER`."""
    negative = builder.fsub(_constant(0.0), _larger(builder, x, builder.fsub(_constant(0.0), x)))
    return _power_of_two(builder, builder.fmul(negative, _constant(1 / LN2)))


def _softplus(builder, x):
    """max(x, 0) + log(1 + w) with w = exp(-|x|), and log(1 + w) = 2 artanh(q) with q = w / (2 + w)."""
    w = _decay(builder, x)
    q = builder.fdiv(w, builder.fadd(w, _constant(2.0)))
    square = builder.fmul(q, q)
    # Taylor coefficients of 2 artanh(q) / q; for q <= 1/3 the first omitted term is below a tenth of a rounding.
    ratio = _constant(2 / 15)
    for k in range(6, -1, -1):
        ratio = _call(builder, "fma", ratio, square, _constant(2 / (2 * k + 1)))
    return _call(builder, "fma", ratio, q, _larger(builder, _constant(0.0), x))


def _logistic(builder, x):
    w = _decay(builder, x)
    upper = builder.select(builder.fcmp_ordered("<", x, _constant(0.0)), w, _constant(1.0))
    return builder.fdiv(upper, builder.fadd(w, _constant(1.0)))


add = _elementwise(2, lambda builder, x, y: builder.fadd(x, y), "x + y.")
subtract = _elementwise(2, lambda builder, x, y: builder.fsub(x, y), "x - y.")
multiply = _elementwise(2, lambda builder, x, y: builder.fmul(x, y), "x y.")
multiply_add = _elementwise(3, lambda builder, x, y, z: _call(builder, "fma", x, y, z), "x y + z.")
softplus = _elementwise(1, _softplus, "log(1 + exp(x)).")
logistic = _elementwise(1, _logistic, "1 / (1 + exp(-x)), the slope of softplus.")
inverse = _elementwise(1, lambda builder, x: builder.fdiv(_constant(1.0), x), "1 / x.")
larger = _elementwise(2, _larger, "The larger of x and y; y if one of them is NaN.")
power_of_two = _elementwise(1, _power_of_two, "2 ** x for x up to 127; 0 for x below `LOWEST_POWER`.")
