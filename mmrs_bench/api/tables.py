"""Tables that a terminal prints and a notebook shows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.render import html_fragment, render
from mmrs_bench.evaluation.report.tables import Table

if TYPE_CHECKING:
    import pandas as pd

#: Width of the text where there is no terminal, in characters.
TEXT_WIDTH = 120


@dataclass(frozen=True, repr=False)
class Tables:
    """One or more tables. Printed, they are text; as the last line of a notebook's cell, they are HTML.

    Attributes:
        tables: The tables with their captions, protocol cards and notes.
    """

    tables: tuple[Table, ...]

    def __str__(self) -> str:
        return render(self.tables, "terminal", width=shutil.get_terminal_size((TEXT_WIDTH, 24)).columns)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_fragment(self.tables)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows as dictionaries, with the columns of `frame`."""
        return (row for table in self.tables if table.in_csv for row in table.plain_rows())

    def to(self, fmt: str) -> str:
        """The tables as a text in a format: ``md``, ``csv``, ``tex`` (booktabs) or ``html`` (a whole page).

        Raises:
            ConfigError: If the format is unknown.
        """
        return render(self.tables, fmt)

    def frame(self) -> pd.DataFrame:
        """The rows as a data frame.

        A mean over draws fills four columns, all in percent: ``<name>_mean``, ``<name>_sd``, and ``<name>_low`` and
        ``<name>_high`` of the 95 % interval. Missing values are NaN.
        """
        import pandas as pd

        return pd.DataFrame([{name: math.nan if v is None else v for name, v in row.items()} for row in self])
