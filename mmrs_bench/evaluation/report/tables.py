"""Format-independent tables, which `mmrs_bench.evaluation.report.render` writes in every format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from mmrs_bench.evaluation.report.statistics import Summary
from mmrs_bench.texts import printable

ABSENT = "–"


class Estimate(NamedTuple):
    """A mean over draws in percent with its sd and 95 % interval (None for a single draw)."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @classmethod
    def percent(cls, summary: Summary) -> Estimate:
        """Convert a summary of fractions to percent."""
        return cls(*(None if v is None else 100 * v for v in summary[1:]))  # type: ignore[arg-type]


Value = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Key of the value in a row, and name in the CSV header.
        title: Heading. A column without one is in the CSV only.
        kind: ``text`` is left-aligned, ``estimate`` is shown as mean ± sd, ``size`` as 1.2k or 3.4M.
        digits: Number of decimals.
        fixed: Whether the text is never wrapped in the terminal.
        shown_only: Whether plain data leaves it out, because other columns contain its value.
    """

    key: str
    title: str = ""
    kind: Literal["text", "number", "estimate", "size"] = "text"
    digits: int = 2
    fixed: bool = False
    shown_only: bool = False

    def plain(self, value: Value) -> dict[str, str | int | float | None]:
        """A value as fields of plain data; an estimate fills ``<key>_mean``, ``_sd``, ``_low`` and ``_high``."""
        if self.shown_only:
            return {}
        if self.kind != "estimate":
            return {self.key: None if isinstance(value, Estimate) else value}
        parts = value if isinstance(value, Estimate) else (None,) * len(Estimate._fields)
        return {f"{self.key}_{name}": part for name, part in zip(Estimate._fields, parts, strict=True)}


@dataclass(frozen=True)
class Section:
    """Rows under a common heading, which may be empty. A row maps column keys to values."""

    title: str
    rows: tuple[Mapping[str, Value], ...]


@dataclass(frozen=True)
class Table:
    """A table with its caption ``title``, the protocol ``card`` above it and the ``notes`` below it.

    ``in_csv`` is false for derived tables and results of papers, whose rows are neither in the CSV nor in data frames.
    """

    title: str
    columns: tuple[Column, ...]
    sections: tuple[Section, ...]
    card: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    in_csv: bool = False

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns of every format but CSV."""
        return tuple(column for column in self.columns if column.title)

    @property
    def rows(self) -> tuple[Mapping[str, Value], ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section.rows)

    def plain_rows(self) -> list[dict[str, str | int | float | None]]:
        """The rows as plain data, with the fields of all columns (see `Column.plain`)."""
        return [
            {name: v for column in self.columns for name, v in column.plain(row.get(column.key)).items()}
            for row in self.rows
        ]

    def printable(self) -> Table:
        """The table with `mmrs_bench.texts.printable` texts."""
        sections = (
            Section(
                printable(section.title),
                tuple({k: printable(v) if isinstance(v, str) else v for k, v in row.items()} for row in section.rows),
            )
            for section in self.sections
        )
        return replace(
            self,
            title=printable(self.title),
            columns=tuple(replace(column, title=printable(column.title)) for column in self.columns),
            sections=tuple(sections),
            card=tuple((printable(label), printable(text)) for label, text in self.card),
            notes=tuple(map(printable, self.notes)),
        )

    def texts(self, row: Mapping[str, Value]) -> list[str]:
        """The formatted values of a row in the `shown` columns."""
        return [format_value(row.get(column.key), column) for column in self.shown]


def format_value(value: Value, column: Column) -> str:
    """Format a value, e.g. as ``80.50 ± 5.20``."""
    if value is None:
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        mean = _format_decimal(value.mean, column.digits)
        return mean if value.sd is None else f"{mean} ± {value.sd:.{column.digits}f}"
    if column.kind == "size":
        return _format_size(value)
    return str(value) if isinstance(value, int) else _format_decimal(value, column.digits)


def _format_decimal(value: float, digits: int) -> str:
    """Format with a typographic minus sign, and without a sign if the number rounds to zero."""
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _format_size(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"
