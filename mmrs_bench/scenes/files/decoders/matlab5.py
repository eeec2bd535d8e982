"""Reads variables of MATLAB files of version 5 to 7.

A file is a sequence of elements: a tag (type, number of bytes) and data. An element of type MATRIX contains elements:
flags, dimensions, name, values. Only the elements on the way to the wanted variable are read, so that tables, strings
and function handles beside it do no harm; and each one must lie inside the element that contains it.

Reference: MathWorks, "MAT-File Format", version 5.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from mmrs_bench.errors import DataError
from mmrs_bench.scenes.files.decoders.faults import absent, check_declared, damaged, outside, shown
from mmrs_bench.scenes.files.decoders.raster import AnyArray

#: A field name or a list position.
Step = str | int

HEADER_BYTES = 128
#: Bytes of a compressed variable that contain its name.
_HEAD = 4096
_MATRIX, _COMPRESSED = 14, 15
#: Element types of numbers.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
#: Classes of matrices: cell array, struct, object, text, sparse, first and last numeric one, table and the like.
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FIRST, _LAST, _OPAQUE = 1, 2, 3, 4, 5, 6, 15, 17
_COMPLEX = 0x800


def read_variable(path: Path, steps: list[Step], size: tuple[int, int]) -> AnyArray:
    """Read the array that ``steps`` lead to, in MATLAB's order of axes; a sparse matrix must have the scene's size."""
    content = np.memmap(path, dtype=np.uint8, mode="r").data
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))
    if order is None:
        raise damaged("it is not a MATLAB file")
    found: list[memoryview] = []
    names: list[str] = []
    for element in _top_level(content[HEADER_BYTES:], order):
        name = _variable_name(element, order)
        if name == steps[0]:
            found.append(element.data)
            kind = element.kind
        if name:
            names.append(name)
    if not found:
        raise absent(steps[0], names)
    if len(found) > 1:
        raise DataError(f"contains {len(found)} variables of this name; keep one")
    data = _inflate(found[0], order) if kind == _COMPRESSED else found[0]
    return _find(_parse(data, order), steps[1:]).values(size)


@dataclass(frozen=True)
class _Element:
    kind: int
    data: memoryview


@dataclass(frozen=True)
class _Matrix:
    """A variable, or an item of a cell array or struct."""

    kind: int
    flags: int
    shape: tuple[int, ...]
    name: str
    rest: memoryview
    order: str

    @property
    def count(self) -> int:
        return prod(self.shape)

    def parts(self) -> Iterator[_Element]:
        """The elements after the name."""
        return _elements(self.rest, self.order)

    def fields(self) -> list[str]:
        """Names of the fields of a struct; empty for anything else."""
        if self.kind not in (_STRUCT, _OBJECT):
            return []
        parts = self.parts()
        if self.kind == _OBJECT:
            _next(parts)
        width = int(_numbers(_next(parts), self.order)[0])
        text = bytes(_next(parts).data)
        if width < 1:
            raise damaged(f"its field names have length {width}")
        return [_text(text[start : start + width]) for start in range(0, len(text), width)]

    def item(self, position: int) -> _Matrix:
        """The matrix at a position of a cell array, or of a struct's values."""
        parts = self.parts()
        skipped = position + {_STRUCT: 2, _OBJECT: 3}.get(self.kind, 0)
        for _ in range(skipped):
            _next(parts)
        element = _next(parts)
        if element.kind != _MATRIX:
            raise damaged(f"an item has type {element.kind}")
        return _parse(element.data, self.order)

    def values(self, size: tuple[int, int]) -> AnyArray:
        """The numbers."""
        if self.kind in (_STRUCT, _OBJECT):
            raise DataError(f"is a struct with {shown(self.fields())}; name a numeric field or an item such as [0]")
        if self.kind == _CELL:
            raise DataError(f"is a cell array of {self.count} items; name a numeric field or an item such as [0]")
        if self.kind == _SPARSE:
            return self._dense(size)
        if not _FIRST <= self.kind <= _LAST:
            kind = "text" if self.kind == _CHAR else "a string, table, date or function"
            raise DataError(f"contains {kind}, expected real numbers; save it as a numeric array")
        self._check_real()
        if self.count == 0:
            raise DataError("is empty, expected real numbers; correct the key")
        return self._reshaped(_numbers(_next(self.parts()), self.order))

    def _reshaped(self, values: AnyArray) -> AnyArray:
        if values.size != self.count:
            raise damaged(f"it declares {self.count} values and contains {values.size}")
        return values.astype(values.dtype.newbyteorder("="), copy=False).reshape(self.shape, order="F")

    def _check_real(self) -> None:
        if self.flags & _COMPLEX:
            raise DataError("contains complex numbers, expected real numbers; save abs(x) or real(x)")

    def _dense(self, size: tuple[int, int]) -> AnyArray:
        self._check_real()
        parts = self.parts()
        rows, starts, values = (_numbers(_next(parts), self.order) for _ in range(3))
        return dense(rows, starts, values, self.shape, size)


def dense(
    rows: AnyArray, starts: AnyArray, values: AnyArray, shape: tuple[int, ...], size: tuple[int, int]
) -> AnyArray:
    """A sparse matrix as an array.

    Args:
        rows: Row of each value, column by column; more may be reserved than used.
        starts: Index in ``rows`` at which each column starts; the last one is the number of values.
        values: The values.
        shape: Declared size of the matrix.
        size: (height, width) of the scene, which the matrix must have; transposed is allowed.
    """
    if shape not in (size, size[::-1]):
        raise DataError(
            f"is a sparse matrix of {'x'.join(map(str, shape))}, expected {size[0]}x{size[1]}; save full(x) if this is "
            "no raster, else it belongs to another raster"
        )
    starts = starts.astype(np.int64)
    lengths = np.diff(starts)
    count = int(starts[-1]) if starts.size else -1
    rows = rows[:count].astype(np.int64)
    if starts.size != shape[1] + 1 or starts[0] != 0 or (lengths < 0).any() or not len(rows) == count <= values.size:
        raise damaged("the columns of the sparse matrix are inconsistent")
    if count and not (rows.min() >= 0 and rows.max() < shape[0]):
        raise damaged("a row of the sparse matrix is outside")
    array: AnyArray = np.zeros(shape, dtype=values.dtype.newbyteorder("="))
    array[rows, np.repeat(np.arange(shape[1]), lengths)] = values[:count]
    return array


def _find(node: _Matrix, steps: list[Step]) -> _Matrix:
    """Follow field names and list positions. A position in a list of structs counts for the next field."""
    position: int | None = None
    for step in steps:
        if isinstance(step, int):
            if step >= node.count or node.kind not in (_CELL, _STRUCT, _OBJECT):
                raise outside(step, node.count)
            if node.kind == _CELL:
                node = node.item(step)
            else:
                position = step
            continue
        fields = node.fields()
        if step not in fields:
            raise absent(step, fields)
        if node.count != 1 and position is None:
            raise DataError(f"{step!r} belongs to a list of {node.count} structs; add [0] before it")
        node = node.item((position or 0) * len(fields) + fields.index(step))
        position = None
    return node


def _parse(data: memoryview, order: str) -> _Matrix:
    """Read the head of a matrix; an element without data is an empty array."""
    if not data:
        return _Matrix(_FIRST, 0, (0, 0), "", data, order)
    parts = _elements(data, order)
    flags = int(_numbers(_next(parts), order)[0])
    kind = flags & 0xFF
    if kind == _OPAQUE:  # has no dimensions
        return _Matrix(kind, flags, (1,), _text(bytes(_next(parts).data)), data[len(data) :], order)
    shape = tuple(_numbers(_next(parts), order).tolist())
    name = _text(bytes(_next(parts).data))
    if len(shape) < 2 or min(shape) < 0:
        raise damaged(f"an array has the dimensions {shape}")
    used = sum(_length(data, order) for data in _tails(data, order, 3))
    return _Matrix(kind, flags, shape, name, data[used:], order)


def _tails(data: memoryview, order: str, count: int) -> Iterator[memoryview]:
    for _ in range(count):
        yield data
        data = data[_length(data, order) :]


def _top_level(data: memoryview, order: str) -> Iterator[_Element]:
    """The variables; compressed ones are not padded."""
    while data:
        kind, start, count = _tag(data, order)
        if kind not in (_MATRIX, _COMPRESSED):
            raise damaged(f"an element has type {kind}")
        yield _Element(kind, data[start : start + count])
        data = data[start + count :]


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    while data:
        kind, start, count = _tag(data, order)
        yield _Element(kind, data[start : start + count])
        data = data[_length(data, order) :]


def _tag(data: memoryview, order: str) -> tuple[int, int, int]:
    """Type of an element, where its data start, and their number of bytes."""
    if len(data) < 8:
        raise damaged("an element is cut off")
    kind, count = np.frombuffer(data[:8], dtype=f"{order}u4").tolist()
    start = 8
    if kind >> 16:  # up to four bytes, stored in the tag
        kind, count, start = kind & 0xFFFF, kind >> 16, 4
    if start + count > len(data) or (start == 4 and count > 4):
        raise damaged("an element is longer than the file")
    return kind, start, count


def _length(data: memoryview, order: str) -> int:
    """Bytes of an element with its tag, padded to a multiple of eight."""
    _, start, count = _tag(data, order)
    return 8 if start == 4 else 8 + -(-count // 8) * 8


def _next(elements: Iterator[_Element]) -> _Element:
    for element in elements:
        return element
    raise damaged("a variable ends early")


def _numbers(element: _Element, order: str) -> AnyArray:
    if element.kind not in _NUMBERS:
        raise damaged(f"numbers have type {element.kind}")
    dtype = np.dtype(order + _NUMBERS[element.kind])
    if len(element.data) % dtype.itemsize:
        raise damaged("an array is cut off")
    return np.frombuffer(element.data, dtype=dtype) if element.data else np.empty(0, dtype)


def _text(data: bytes) -> str:
    return data.split(b"\x00")[0].decode("utf-8", errors="replace")


def _variable_name(element: _Element, order: str) -> str:
    """Name of a variable; empty for the data of functions and tables, which MATLAB appends without a name."""
    data = element.data
    if element.kind == _COMPRESSED:
        data = memoryview(_inflate_some(data, _HEAD))[8:]
    elif not data:
        return ""
    parts = _tails(data, order, 3)
    flags = next(parts)
    _, start, count = _tag(flags, order)
    kind = int(np.frombuffer(flags[start : start + 4], dtype=f"{order}u4")[0]) & 0xFF if count >= 4 else 0
    for _ in range(1 if kind == _OPAQUE else 2):
        last = next(parts)
    _, start, count = _tag(last, order)
    return _text(bytes(last[start : start + count]))


def _inflate_some(data: memoryview, count: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data[: 2 * count + 1024], count)
    except zlib.error as error:
        raise damaged(str(error)) from error


def _inflate(data: memoryview, order: str) -> memoryview:
    """The matrix of a compressed element, whose check sum must be right."""
    head = memoryview(_inflate_some(data, 8))
    if len(head) < 8:
        raise damaged("a variable is cut off")
    kind, count = np.frombuffer(head, dtype=f"{order}u4").tolist()
    if kind != _MATRIX:
        raise damaged(f"a variable has type {kind}")
    check_declared(count, len(data))
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, 8 + count)
        rest = b"" if stream.eof else stream.decompress(stream.unconsumed_tail, 64)
    except zlib.error as error:
        raise damaged(str(error)) from error
    if len(content) < 8 + count or rest or not stream.eof:
        raise damaged("a variable is cut off")
    return memoryview(content)[8:]
