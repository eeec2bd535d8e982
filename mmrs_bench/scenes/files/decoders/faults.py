"""Faults that several formats share, and the limit on what a file may declare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mmrs_bench.errors import DataError

#: Compression expands data by this factor at most (deflate reaches 1032).
MAX_EXPANSION = 1100
#: What any file may declare, in bytes; a raster with empty tiles is smaller than its compression explains.
ALLOWANCE = 64 << 20
#: Number of names that a message lists.
_LISTED = 20


def absent(name: str | int | None, present: Iterable[str]) -> DataError:
    """The error for a name that a file or a struct does not contain, or for a missing key (None or empty)."""
    what = "the manifest gives no key" if name in (None, "") else f"there is no {name!r}"
    return DataError(f"{what}; present: {shown(sorted(present)) or 'nothing'}")


def shown(names: Sequence[str]) -> str:
    """The first names of a file as text; those with invisible characters in quotes, with escapes."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in names[:_LISTED]) + more


def outside(position: int, length: int) -> DataError:
    """The error for a position beyond a list."""
    return DataError(f"position [{position}] is outside a list of {length}")


def damaged(reason: str) -> DataError:
    """The error for a file whose structure is broken."""
    return DataError(f"cannot be read ({reason}); it is cut off or damaged, so fetch it again")


def check_declared(declared: int, stored: int) -> None:
    """Check that ``declared`` bytes of values can come from ``stored`` bytes of a file; else raise a `DataError`."""
    if declared < 0 or declared > max(ALLOWANCE, MAX_EXPANSION * stored):
        raise damaged(f"it declares {declared:,} bytes of values, but contains {stored:,}")
