"""Diagrams of boxes and arrows as inline SVG, in the colours of the page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from mmrs_bench.errors import ConfigError
from mmrs_bench.reading import read_yaml
from site_generator.charts import seconds_chart

#: Figures that are no diagrams.
CHARTS = {"seconds": seconds_chart}
FLOWS = Path(__file__).with_name("flows.yaml")
_BOX, _LINE, _GAP_X, _GAP_Y, _PAD, _CHARACTER = 34, 15, 34, 14, 12, 6.7


@cache
def flows() -> dict[str, list[dict[str, Any]]]:
    """Rows of all diagrams by name."""
    found: dict[str, list[dict[str, Any]]] = read_yaml(FLOWS, error=ConfigError, advice="restore the committed file")
    return found


def figure(name: str, caption: str) -> str:
    """The HTML of a figure.

    Args:
        name: Name of a diagram in ``flows.yaml``, or of a chart.
        caption: Text below it.
    """
    drawing = CHARTS[name]() if name in CHARTS else _diagram(name, caption)
    return (
        f'<figure class="flow" markdown="0"><div class="scroll">{drawing}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _diagram(name: str, caption: str) -> str:
    rows = [_Row(row) for row in flows()[name]]
    width = max(row.width for row in rows)
    height = sum(row.height for row in rows)
    parts, y = [], 0.0
    for row in rows:
        parts.append(row.drawn(y))
        y += row.height
    mark = f"arrow-{name}"
    head = (
        f'<defs><marker id="{mark}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" class="tip"/></marker></defs>'
    )
    drawing = "".join(parts).replace("ARROW", mark)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(caption)}">'
        f"{head}{drawing}</svg>"
    )


class _Row:
    """One flow, left to right: columns of boxes, with arrows between neighbouring columns."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.title, columns = row["title"], row["columns"]
        self.columns = [[_Text(text) for text in column] for column in columns]
        self.widths = [max(text.width for text in column) for column in self.columns]
        self.title_height = 22 if self.title else 4
        self.inner = max(self._column_height(column) for column in self.columns)
        self.height = self.title_height + self.inner + 14
        title_width = len(self.title) * 7.2
        self.width = max(sum(self.widths) + _GAP_X * (len(self.columns) - 1), title_width) + 4

    @staticmethod
    def _column_height(column: Sequence[_Text]) -> float:
        return sum(text.height for text in column) + _GAP_Y * (len(column) - 1)

    def drawn(self, top: float) -> str:
        parts = [f'<text x="2" y="{top + 14:.0f}" class="title">{escape(self.title)}</text>'] if self.title else []
        x = 2.0
        before: list[float] = []
        for column, width in zip(self.columns, self.widths, strict=True):
            y = top + self.title_height + (self.inner - self._column_height(column)) / 2
            middles = []
            for text in column:
                parts.append(text.drawn(x, y, width))
                middles.append(y + text.height / 2)
                y += text.height + _GAP_Y
            parts += [self._arrow(x - _GAP_X, start, x, end) for start, end in _pairs(before, middles)]
            before, x = middles, x + width + _GAP_X
        return "".join(parts)

    @staticmethod
    def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
        bend = (x + to_x) / 2
        path = f"M{x + 2:.1f} {y:.1f}C{bend:.1f} {y:.1f} {bend:.1f} {to_y:.1f} {to_x - 2:.1f} {to_y:.1f}"
        return f'<path d="{path}" class="arrow" marker-end="url(#ARROW)"/>'


class _Text:
    """A box with lines of text. ``*`` at the beginning marks what is trained, ``-`` what is frozen."""

    def __init__(self, text: str) -> None:
        self.kind = {"*": "trained", "-": "frozen", "!": "wrong"}.get(text[:1], "plain")
        self.lines = (text if self.kind == "plain" else text[1:]).split("|")
        self.width = max(len(line) for line in self.lines) * _CHARACTER + 2 * _PAD
        self.height = _BOX + _LINE * (len(self.lines) - 1)

    def drawn(self, x: float, y: float, width: float) -> str:
        box = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{self.height}" rx="6" class="{self.kind}"/>'
        first = y + self.height / 2 - _LINE * (len(self.lines) - 1) / 2 + 4.5
        lines = [
            f'<text x="{x + width / 2:.1f}" y="{first + _LINE * number:.1f}" text-anchor="middle">{escape(line)}</text>'
            for number, line in enumerate(self.lines)
        ]
        return box + "".join(lines)


def _pairs(before: Sequence[float], after: Sequence[float]) -> list[tuple[float, float]]:
    """Arrows between two columns: one to one if they have as many boxes, else from all to all."""
    if len(before) == len(after):
        return list(zip(before, after, strict=True))
    return [(start, end) for start in before for end in after]
