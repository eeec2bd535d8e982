"""The table below the panels of a sheet: classes with their colours, shares and recalls, and what else is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.maps.panels import ClassRow
from mmrs_bench.texts import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: In inches: height of a row, side of a swatch, width of a character and of the narrowest column.
ROW, SWATCH, CHARACTER, COLUMN = 0.19, 0.13, 0.068, 0.62
FONT = 8
#: Longest name of a class or method, in characters.
LONGEST = 30
GREY = "#555555"


class Legend:
    """Measures and draws the table.

    Args:
        rows: The classes.
        methods: Names of the methods.
        key: Colours and names of pixels that are no class.
        notes: Lines below the table.
        scored: Whether there are recalls.
        labelled: Whether there is a ground truth.
    """

    def __init__(
        self,
        rows: Sequence[ClassRow],
        methods: Sequence[str],
        key: Sequence[tuple[str, str]],
        notes: Sequence[str],
        *,
        scored: bool,
        labelled: bool,
    ) -> None:
        self._rows, self._key, self._notes = rows, key, notes
        self._methods = [_short(name) for name in methods]
        self._values = ("map", "recall") if scored else ("map",)
        self._names = 0.3 + CHARACTER * max(len("class"), *(len(_short(row.name)) for row in rows))
        self._label_column = COLUMN + 0.1 if labelled else 0.0
        widest = CHARACTER * max(map(len, self._methods)) + 0.15
        self._column = max(COLUMN, widest / len(self._values))

    @property
    def width(self) -> float:
        """Width in inches, without notes."""
        return self._names + self._label_column + len(self._methods) * len(self._values) * self._column

    def height(self, width: float) -> float:
        """Height in inches on a sheet of this width."""
        return ROW * (len(self._rows) + 2 + 1.6 * bool(self._key) + len(self._lines(width)) + 0.5)

    def draw(self, axes: Axes, width: float) -> None:
        """Draw the table into axes of this width and of `height`, in inches."""
        axes.set(xlim=(0, width), ylim=(self.height(width), 0))
        axes.axis("off")
        y = 0.5 * ROW
        if self._key:
            self._draw_key(axes, y)
            y += 1.6 * ROW
        y = self._draw_table(axes, y)
        for line in self._lines(width):
            y += ROW
            axes.text(0, y, line, va="center", fontsize=FONT, color=GREY)

    def _draw_key(self, axes: Axes, y: float) -> None:
        x = 0.0
        for colour, name in self._key:
            _swatch(axes, x, y, colour)
            axes.text(x + SWATCH + 0.08, y, name, va="center", fontsize=FONT)
            x += SWATCH + 0.35 + CHARACTER * len(name)

    def _draw_table(self, axes: Axes, y: float) -> float:
        """Draw head and rows from y on; return the y of the last row."""
        start = self._names + self._label_column
        group = len(self._values) * self._column
        bold: dict[str, Any] = {"va": "center", "fontsize": FONT, "fontweight": "bold"}
        for number, name in enumerate(self._methods):
            right = start + (number + 1) * group
            axes.text(right, y, figure_text(name), ha="right", **bold)
            axes.plot([right - group + 0.15, right], [y + ROW / 2] * 2, color=GREY, linewidth=0.4)
        y += ROW
        axes.text(0, y, "class", **bold)
        heads = ["labels %"] if self._label_column else []
        for right, text in zip(
            self._rights(), [*heads, *(f"{v} %" for v in self._values * len(self._methods))], strict=True
        ):
            axes.text(right, y, text, ha="right", va="center", fontsize=FONT, color=GREY)
        axes.plot([0, self.width], [y + ROW / 2] * 2, color="black", linewidth=0.6)
        for row in self._rows:
            y += ROW
            if row.colour is not None:
                _swatch(axes, 0.0, y, row.colour)
            axes.text(0.25 if row.colour else 0.0, y, figure_text(_short(row.name)), va="center", fontsize=FONT)
            values = [row.share] if self._label_column else []
            values += [value for pair in row.methods for value in pair[: len(self._values)]]
            for right, value in zip(self._rights(), values, strict=True):
                text = "" if value is None else f"{value:.1f}"
                axes.text(right, y, text, ha="right", va="center", fontsize=FONT)
        return y + ROW / 2

    def _rights(self) -> Iterable[float]:
        """Right edges of the columns of numbers."""
        x = self._names
        if self._label_column:
            x += self._label_column
            yield x
        for _ in range(len(self._methods) * len(self._values)):
            x += self._column
            yield x

    def _lines(self, width: float) -> list[str]:
        """The notes in lines that fit the width."""
        most = max(40, int(width / CHARACTER))
        return [figure_text(line) for note in self._notes for line in textwrap.wrap(note, most)]


def _swatch(axes: Axes, x: float, y: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y - SWATCH / 2), SWATCH, SWATCH, facecolor=colour, edgecolor="black", linewidth=0.4))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
