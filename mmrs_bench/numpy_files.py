"""Reads ``.npy`` and ``.npz`` files of users and other machines; every fault becomes one `BenchError`.

`numpy.load` evaluates the header with Python's parser and allocates what the header declares. Here, a header is short
and plain, and the declared size must be the size of the data.
"""

from __future__ import annotations

import ast
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import BenchError
from mmrs_bench.texts import one_line

#: Longest header in bytes; that of a plain array has about 100.
MAX_HEADER_BYTES = 10_000
#: Largest number of arrays in an ``.npz`` file.
MAX_MEMBERS = 1_000
#: Deflate cannot compress more than this.
MAX_RATIO = 1_032

_MAGIC = b"\x93NUMPY"
#: Bytes of the field that holds the header's length, by version of the format.
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}
#: Booleans, numbers and texts; no Python objects, no records.
_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufcSU]\d{0,9}")
#: Exceptions of `zipfile`, `zlib` and numpy on damaged files.
_FAULTS = (OSError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, EOFError, MemoryError)
_FAULTS += (SyntaxError, BadZipFile, zlib.error, struct.error)  # type: ignore[assignment]


def read_npy(path: Path, *, error: type[BenchError], advice: str) -> NDArray[Any]:
    """Read an ``.npy`` file.

    Args:
        path: The file.
        error: Class of the error to raise.
        advice: What the user should do about an unreadable file; ends the message.

    Returns:
        The array in its own type (booleans, numbers or texts) and order.

    Raises:
        BenchError: An ``error`` if the file cannot be read or is no plain array.
    """
    array: NDArray[Any] = _read(path, ".npy", read_values, error, advice)
    return array


def read_npz(path: Path, *, error: type[BenchError], advice: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of an ``.npz`` file by name; arguments and errors as `read_npy`."""
    arrays: dict[str, NDArray[Any]] = _read(path, ".npz", _arrays, error, advice)
    return arrays


def _read(path: Path, kind: str, read: Callable[[IO[bytes], int], Any], error: type[BenchError], advice: str) -> Any:
    try:
        if not path.is_file():
            raise ValueError("is not a regular file" if path.exists() else "does not exist")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, about odd headers
            return read(file, os.fstat(file.fileno()).st_size)
    except _FAULTS as fault:
        reason = one_line(str(fault)) or type(fault).__name__
        raise error(f"{path}: cannot be read as an {kind} file ({reason}); {advice}") from fault


def _arrays(file: IO[bytes], size: int) -> dict[str, NDArray[Any]]:
    with ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"has {len(members):,} members, expected at most {MAX_MEMBERS:,}")
        if sum(member.compress_size for member in members) > size:
            raise ValueError("its members are larger than the file")
        arrays: dict[str, NDArray[Any]] = {}
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise ValueError(f"its member {member.filename!r} is not an .npy file, or is there twice")
            if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                raise ValueError(f"its member {member.filename!r} is compressed by an unknown method")
            if member.file_size > MAX_RATIO * member.compress_size:
                raise ValueError(f"its member {member.filename!r} declares more bytes than it can contain")
            with archive.open(member) as opened:
                arrays[name] = read_values(opened, member.file_size)
                opened.read(1)  # checks the checksum
        return arrays


def read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    """Read shape, order of axes and type of an array from a file with ``size`` bytes; they fit that size.

    Raises:
        ValueError: If the header is damaged, or the array has no plain type; Python's parser raises other types, too.
    """
    start = file.read(8)
    width = _LENGTH_BYTES.get(start[6:], 0)
    if start[:6] != _MAGIC or not width:
        raise ValueError("does not begin as a NumPy array")
    length = int.from_bytes(file.read(width), "little")
    if length > min(MAX_HEADER_BYTES, size):
        raise ValueError(f"its header has {length:,} bytes, expected at most {min(MAX_HEADER_BYTES, size):,}")
    header = ast.literal_eval(file.read(length).decode("utf-8" if start[6] == 3 else "latin-1").strip())
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header does not have the fields descr, fortran_order, shape")
    shape = header["shape"]
    order: Literal["C", "F"] = "F" if header["fortran_order"] is True else "C"
    if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side < 2**48 for side in shape):
        raise ValueError("its header has no valid shape")
    if not isinstance(header["descr"], str) or not _PLAIN_DTYPE.fullmatch(header["descr"]):
        raise ValueError("contains objects or records, expected plain numbers or texts")
    dtype = np.dtype(header["descr"])
    found, declared = size - 8 - width - length, math.prod(shape) * dtype.itemsize
    if not dtype.itemsize or declared != found:
        raise ValueError(f"declares {declared:,} bytes, but contains {found:,}")
    return shape, order, dtype


def read_values(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read an array from a file with ``size`` bytes; errors as `read_header`."""
    shape, order, dtype = read_header(file, size)
    array = np.empty(math.prod(shape), dtype)
    rest = array.view(np.uint8).data
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("is cut off")
        rest = rest[count:]
    return array.reshape(shape, order=order)
