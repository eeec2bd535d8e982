"""A part of the diagnosis: a table, with what is wrong in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmrs_bench.evaluation.report.tables import Column, Section, Table, Value

GIB = 1 << 30


@dataclass(frozen=True)
class Part:
    """A part of the diagnosis.

    Attributes:
        name: Its key in the JSON file.
        table: What was found.
        notes: What the user may want to change, one line each, with the remedy.
        failures: Self-tests that failed, one line each.
    """

    name: str
    table: Table
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def make_table(title: str, columns: Iterable[Column], rows: Iterable[Mapping[str, Value]]) -> Table:
    """A table of one section."""
    return Table(title, tuple(columns), (Section("", tuple(rows)),), in_csv=True)


def size_text(count: int | None) -> str | None:
    """A number of bytes in GiB or MiB."""
    if count is None:
        return None
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{1024 * count / GIB:.0f} MiB"
