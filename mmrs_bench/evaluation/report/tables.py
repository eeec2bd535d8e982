"""The one model of a table, which `mmrs_bench.evaluation.report.render` turns into every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mmrs_bench.evaluation.report.statistics import Summary

ABSENT = "–"


class Estimate(NamedTuple):
    """A mean over draws in percent with its sd and 95 % t-interval (None for a single draw)."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @classmethod
    def percent(cls, summary: Summary | None) -> Estimate | None:
        """A summary of fractions in percent."""
        if summary is None:
            return None
        return cls(*(None if v is None else 100 * v for v in summary[1:]))  # type: ignore[arg-type]


Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Name in rows and in CSV headers.
        title: Heading in the other formats.
        kind: ``text`` is aligned left; ``number`` right, with ``digits``; ``estimate`` right, as mean ± sd with
            ``digits``; ``size`` right, as 1.2k or 3.4M.
        fixed: A text that is never wrapped in the terminal.
        data_only: Left out of every format but CSV.
    """

    key: str
    title: str = ""
    kind: Literal["text", "number", "estimate", "size"] = "text"
    digits: int = 2
    fixed: bool = False
    data_only: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under a common heading; an empty title has no heading. Rows map column keys to values."""

    title: str
    rows: tuple[Mapping[str, Value], ...]


@dataclass(frozen=True)
class Table:
    """A table with what is needed to read it rightly.

    Attributes:
        title: Caption.
        columns: In order.
        sections: In order; rows of all sections share the columns.
        card: The protocol card, printed with the table: pairs of label and text.
        notes: Lines under the table.
        tidy: Whether the rows go into the CSV (derived and foreign tables do not).
    """

    title: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    card: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())
    tidy: bool = False

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns of every format but CSV."""
        return tuple(column for column in self.columns if not column.data_only)


def cell_text(value: Value, column: Column) -> str:
    """A value as it is shown, e.g. ``80.50 ± 5.20``; absent values are a dash."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        mean = _decimal(value.mean, column.digits)
        return mean if value.sd is None else f"{mean} ± {value.sd:.{column.digits}f}"
    if column.kind == "size":
        return _size(value)
    return str(value) if isinstance(value, int) else _decimal(value, column.digits)


def _decimal(value: float, digits: int) -> str:
    """A decimal number with a true minus sign, and without one where it rounds to zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _size(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"
