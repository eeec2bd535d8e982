"""ENVI rasters: a data file and a text header beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrs_bench.errors import DataError

#: Endings of data files; a data file may also have none.
ENDINGS = ("", ".dat", ".img", ".raw", ".bin", ".bsq", ".bil", ".bip", ".cube")
HEADER_ENDING = ".hdr"
#: NumPy types of the values, by ``data type``.
_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 6: "c8", 9: "c16", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_MAX_HEADER_BYTES = 16 << 20
#: Fields that state where the raster lies.
_PLACE = ("map info", "projection info", "coordinate system string")


@dataclass(frozen=True)
class Header:
    """Fields of an ENVI header.

    Attributes:
        shape: Bands, lines and samples.
        dtype: Type of the values in the machine's byte order.
        interleave: ``bsq``, ``bil`` or ``bip``.
        big_endian: Whether the file has the most significant byte first.
        offset: Bytes before the first value.
        ignore_value: Value of missing pixels; None without one.
        gains: Factor of each band; empty without factors.
        offsets: Summand of each band, after the factor; empty without summands.
        divisor: ``reflectance scale factor``.
        place: Text of the fields that state where the raster lies.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    interleave: str
    big_endian: bool
    offset: int
    ignore_value: float | None
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    divisor: float
    place: dict[str, str]

    def text(self) -> str:
        """The header of the values, as GDAL reads it."""
        bands, lines, samples = self.shape
        code = next(code for code, name in _TYPES.items() if np.dtype(name) == self.dtype)
        fields: dict[str, object] = {
            "samples": samples,
            "lines": lines,
            "bands": bands,
            "header offset": self.offset,
            "file type": "ENVI Standard",
            "data type": code,
            "interleave": self.interleave,
            "byte order": int(self.big_endian),
        }
        return "ENVI\n" + "".join(f"{name} = {value}\n" for name, value in (fields | self.place).items())


def find_pair(path: Path) -> tuple[Path, Path]:
    """The header and the data file of an ENVI raster, given one of them.

    Raises:
        DataError: If the other one is absent, or several files fit.
    """
    if path.suffix.lower() == HEADER_ENDING:
        base = path.with_suffix("").name
        wanted, kind = [base + ending for ending in ENDINGS], "the data file of this ENVI header"
    else:
        wanted, kind = [path.name + HEADER_ENDING, path.stem + HEADER_ENDING], "the ENVI header of this file"
    names = [name.lower() for name in wanted]
    found = sorted(
        (other for other in path.parent.iterdir() if other.name.lower() in names and other.is_file() and other != path),
        key=lambda other: names.index(other.name.lower()),
    )
    if not found:
        raise DataError(f"{kind} is absent, expected {wanted[0]} or {wanted[1]} beside it; list both in the sources")
    if path.suffix.lower() != HEADER_ENDING:
        return found[0], path
    if len(found) > 1:
        listed = " and ".join(other.name for other in found)
        raise DataError(f"{listed} may be the data file of this ENVI header; name the data file instead of the header")
    return path, found[0]


def read_header(path: Path) -> Header:
    """Read a header.

    Raises:
        DataError: If a field is missing or has no valid value.
    """
    fields = _fields(path)
    shape = tuple(_integer(fields, name, least=1) for name in ("bands", "lines", "samples"))
    code = _integer(fields, "data type")
    if code not in _TYPES:
        raise DataError(f"{path.name} has data type {code}, expected one of {', '.join(map(str, _TYPES))}")
    interleave = fields.get("interleave", "bsq").lower()
    if interleave not in ("bsq", "bil", "bip"):
        raise DataError(f"{path.name} has interleave {interleave[:20]!r}, expected bsq, bil or bip")
    if _integer(fields, "file compression", 0):
        raise DataError(f"{path.name} declares a compressed file; save it without compression")
    ignored = _numbers(fields, "data ignore value", (1,))
    divisor = _numbers(fields, "reflectance scale factor", (1,)) or (1.0,)
    gains = _numbers(fields, "data gain values", (shape[0],))
    if 0 in divisor or 0 in gains:
        raise DataError(f"{path.name} declares the scale 0; correct or remove it")
    place = {name: fields[name] for name in _PLACE if name in fields}
    if place.get("map info", "").strip("{ ").lower().startswith("arbitrary"):  # pixel numbers, no place on the earth
        place = {}
    return Header(
        shape=(shape[0], shape[1], shape[2]),
        dtype=np.dtype(_TYPES[code]),
        interleave=interleave,
        big_endian=_integer(fields, "byte order", 0) == 1,
        offset=_integer(fields, "header offset", 0),
        ignore_value=ignored[0] if ignored else None,
        gains=gains,
        offsets=_numbers(fields, "data offset values", (shape[0],)),
        divisor=divisor[0],
        place=place,
    )


def _fields(path: Path) -> dict[str, str]:
    """Fields by lower-case name; a value in braces may span lines."""
    if path.stat().st_size > _MAX_HEADER_BYTES:
        raise DataError(f"{path.name} is too large for an ENVI header; name its header in the manifest")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = re.split("\r\n|\r|\n", text)
    if lines[0].strip() != "ENVI":
        raise DataError(f"{path.name} is not an ENVI header: its first line is not ENVI")
    fields: dict[str, str] = {}
    rest = iter(lines[1:])
    for line in rest:
        name, equals, value = line.partition("=")
        if not equals or line.lstrip().startswith(";"):
            continue
        parts = [value.strip()]
        if parts[0].startswith("{"):
            while "}" not in parts[-1]:
                parts.append(next(rest, "}").strip())
        key = " ".join(name.lower().split())
        if key in fields:
            raise DataError(f"{path.name} contains {key!r} twice; keep one")
        fields[key] = " ".join(parts)
    return fields


def _integer(fields: dict[str, str], name: str, default: int | None = None, least: int = 0) -> int:
    text = fields.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) >= least):
        raise DataError(f"the ENVI header has {name} = {text[:20]!r}, expected an integer of at least {least}")
    return int(text)


def _numbers(fields: dict[str, str], name: str, lengths: tuple[int, ...]) -> tuple[float, ...]:
    """Finite numbers of a field (NaN only for an ignored value); empty if it is absent."""
    if name not in fields:
        return ()
    items = fields[name].strip("{} ").split(",")
    try:
        values = tuple(float(item) for item in items)
    except ValueError:
        values = ()
    if len(values) not in lengths or not (np.isfinite(values).all() or name == "data ignore value"):
        count = f"{lengths[0]} numbers" if lengths[0] > 1 else "a number"
        raise DataError(f"the ENVI header has {name} = {fields[name][:40]!r}, expected {count}")
    return values
