"""Sheets: one figure with the class maps of several methods beside the sensors and the ground truth."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.maps.colours import (
    CORRECT,
    DISTINCT,
    SUPPORT,
    UNLABELLED,
    colour_faults,
    error_colour,
)
from mmrs_bench.evaluation.report.maps.legend import Legend
from mmrs_bench.evaluation.report.maps.panels import (
    MethodMap,
    Panel,
    class_rows,
    method_panels,
    scale_bar,
    scene_panels,
)
from mmrs_bench.evaluation.report.maps.rasters import ARRAY_SUFFIX, NO_GEOTIFF, RASTER_SUFFIXES, write_raster
from mmrs_bench.io import atomic_write
from mmrs_bench.plugins import import_optional
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.texts import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

FIGURE_SUFFIXES = (".png", ".pdf")
#: Ratio of width and height of a sheet that layouts aim at.
PAGE = 1.5
#: Area of a panel in square inches, and the largest width of all panels with their gaps in inches.
PANEL_AREA, MOST_WIDTH = 11.0, 18.0
#: In inches: edge of the sheet, space between panels, heading, colour bar, line and character of a title.
MARGIN, GAP, HEADING, BAR, TITLE_LINE, TITLE_CHARACTER = 0.12, 0.1, 0.36, 0.6, 0.15, 0.075
#: Dots per inch: at least the first, and as many as pixels of the scene need up to the second.
DPI = (150, 300)


@dataclass(frozen=True, eq=False)
class MapSheet:
    """The class maps of one or more methods on one scene.

    Attributes:
        scene: The scene.
        maps: The maps, at least one.
        scored: Flat indices of the query pixels, which errors and recalls are counted on; empty without a split.
        support: Flat indices of the support pixels; None without a split.
        title: What the maps have in common: the protocol.
        notes: Lines below the table of classes.
    """

    scene: Scene
    maps: tuple[MethodMap, ...]
    scored: IntArray
    support: IntArray | None
    title: str
    notes: tuple[str, ...] = ()

    @cached_property
    def warnings(self) -> list[str]:
        """Classes with colours that look alike, one line each."""
        return colour_faults(self.scene.manifest.classes)

    def write(self, path: Path) -> list[Path]:
        """Write a figure (``.png``, ``.pdf``); or, of a single map, the class ids (see `write_raster`).

        Returns:
            The files.

        Raises:
            ConfigError: If the suffix is unknown, or the sheet has several maps and the format holds one.
            DataError: If predictions do not fit the scene.
            BenchError: If a file cannot be written.
        """
        check_map_path(path)
        suffix = path.suffix.lower()
        if suffix not in FIGURE_SUFFIXES:
            if len(self.maps) > 1:
                raise ConfigError(f"{path}: a {suffix} file has the classes of one method, not of {len(self.maps)}")
            return write_raster(path, self.scene, self.maps[0].targets)
        figure = self.figure()
        dpi = self._dots_per_inch()
        atomic_write(path, lambda file: figure.savefig(file, format=suffix[1:], dpi=dpi))
        return [path]

    def figure(self) -> Figure:
        """The sheet.

        Raises:
            DataError: If predictions do not fit the scene.
        """
        from mmrs_bench.evaluation.report.figures import ShownFigure

        parts = [self._scene_panels]
        parts += [method_panels(self.scene, shown, self.scored, self.support) for shown in self.maps]
        panels = {(number, place): panel for number, part in enumerate(parts) for place, panel in enumerate(part)}
        grid, legend = self._grid, self._legend()
        title = TITLE_LINE * max(len(self._title_lines(panel)) for panel in panels.values()) + 0.12
        width = 2 * MARGIN + max(grid.columns * (grid.width + GAP) + BAR, legend.width)
        top = HEADING + grid.rows * (grid.height + title + GAP)
        height = top + legend.height(width - 2 * MARGIN) + MARGIN
        figure = ShownFigure(figsize=(width, height))
        figure.text(MARGIN / width, 1 - 0.2 / height, figure_text(self._heading()), fontsize=11, va="center")

        def axes_at(left: float, upper: float, wide: float, high: float) -> Axes:
            """Axes with this left and upper edge and this size, in inches."""
            return figure.add_axes((left / width, 1 - (upper + high) / height, wide / width, high / height))

        with_confidence: list[tuple[float, AxesImage]] = []
        for (number, place), panel in panels.items():
            row, column = grid.place(number, place)
            upper = HEADING + row * (grid.height + title + GAP) + title
            axes = axes_at(MARGIN + column * (grid.width + GAP), upper, grid.width, grid.height)
            self._draw(axes, panel, bold=number > 0 and place == 0)
            if (number, place) == (0, 0):
                self._draw_scale(axes)
            if panel.kind == "confidence" and panel.image is not None:
                with_confidence.append((upper, axes.images[0]))
        if with_confidence:
            first, image = with_confidence[0]
            left = MARGIN + grid.columns * (grid.width + GAP)
            bar = figure.colorbar(image, cax=axes_at(left, first, 0.14, with_confidence[-1][0] + grid.height - first))
            bar.set_label("confidence %", fontsize=8)
            bar.ax.tick_params(labelsize=7)
        legend.draw(axes_at(MARGIN, top, width - 2 * MARGIN, height - top - MARGIN), width - 2 * MARGIN)
        return figure

    def _title_lines(self, panel: Panel) -> list[str]:
        return textwrap.wrap(panel.title, max(12, int(self._grid.width / TITLE_CHARACTER)))

    def _draw(self, axes: Axes, panel: Panel, *, bold: bool) -> None:
        title = "\n".join(map(figure_text, self._title_lines(panel)))
        axes.set_title(title, fontsize=9, loc="left", pad=3, fontweight="bold" if bold else "normal")
        axes.set_xticks([])
        axes.set_yticks([])
        if panel.image is None:
            axes.set_facecolor("#f0f0f0")
            text = "no class\nprobabilities"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color="#555555")
        elif panel.kind == "confidence":
            axes.imshow(100 * panel.image, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
        else:
            axes.imshow(panel.image, interpolation="nearest")
        if panel.kind == "errors" and self.support is not None:
            # Dots, because a single pixel is invisible on a large scene.
            rows, columns = np.divmod(self.support, self.scene.width)
            axes.plot(columns, rows, "o", color=SUPPORT, markersize=2.2, markeredgecolor="white", markeredgewidth=0.3)

    def _draw_scale(self, axes: Axes) -> None:
        """A scale bar in the lower left corner, readable on every picture."""
        bar = scale_bar(self.scene)
        if bar is None:
            return
        from matplotlib.patches import Rectangle

        unit = self.scene.width / (72 * self._grid.width)  # pixels of a point
        x, y = 6 * unit, self.scene.height - 6 * unit
        box = (x - 3 * unit, y - 14 * unit)
        width = max(bar.pixels, 5 * len(bar.text) * unit) + 6 * unit
        axes.add_patch(Rectangle(box, width, 18 * unit, facecolor="white", alpha=0.8, linewidth=0))
        axes.plot([x, x + bar.pixels], [y, y], color="black", linewidth=2, solid_capstyle="butt")
        axes.text(x, y - 2.5 * unit, bar.text, fontsize=7, va="bottom")

    def _legend(self) -> Legend:
        manifest, scored = self.scene.manifest, bool(self.scored.size)
        key = []
        if scored:
            key = [
                (CORRECT, "correct"),
                (error_colour(manifest.classes), "wrong"),
                (UNLABELLED, f"no label, or none of the {self.scored.size:,} query pixels"),
            ]
            if self.support is not None:
                key.append((SUPPORT, f"support ({self.support.size} pixels)"))
        notes = [*self.notes]
        if self.warnings:
            lines = "; ".join(self.warnings)
            notes.append(f"Colours that look alike (CIEDE2000 difference below {DISTINCT:.0f}): {lines}.")
        if scale_bar(self.scene) is None:
            notes.append("No scale bar: the size of a pixel is unknown (gsd_m of the manifest, or the files' CRS).")
        return Legend(
            class_rows(self.scene, self.maps, self.scored),
            [shown.label for shown in self.maps],
            key,
            notes,
            scored=scored,
            labelled=bool(self.scene.ground_truth.any()),
        )

    def _heading(self) -> str:
        heading = f"{'SIMULATED: ' if self.scene.manifest.simulated else ''}{self.scene.manifest.title}"
        return f"{heading} · {self.title}" if self.title else heading

    @cached_property
    def _scene_panels(self) -> list[Panel]:
        return scene_panels(self.scene)

    @cached_property
    def _grid(self) -> Grid:
        kinds = len(self._scene_panels), 3 if self.scored.size else 2
        return best_grid(len(self.maps), kinds, self.scene.width / self.scene.height)

    def _dots_per_inch(self) -> int:
        least, most = DPI
        return min(most, max(least, math.ceil(self.scene.width / self._grid.width)))


class Grid(NamedTuple):
    """Places of the panels.

    Attributes:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Width of a panel in inches.
        height: Height of a panel in inches.
        step: Rows and columns from one method to the next.
        within: Rows and columns from one panel of a method to the next.
    """

    rows: int
    columns: int
    width: float
    height: float
    step: tuple[int, int]
    within: tuple[int, int]

    def place(self, number: int, panel: int) -> tuple[int, int]:
        """Row and column of a panel of the scene (number 0) or of a method (number from 1)."""
        (down, right), (down_within, right_within) = self.step, self.within
        return number * down + panel * down_within, number * right + panel * right_within


def best_grid(methods: int, kinds: tuple[int, int], aspect: float) -> Grid:
    """The arrangement whose shape is nearest to `PAGE`: a method is a row, a column, or a part of one row.

    Args:
        methods: Number of methods.
        kinds: Number of panels of the scene, and of each method.
        aspect: Width of the scene by its height.
    """
    most = max(kinds)
    shapes = [
        ((1 + methods, most), (1, 0), (0, 1)),
        ((most, 1 + methods), (0, 1), (1, 0)),
        ((1, most * (1 + methods)), (0, most), (0, 1)),
    ]

    def distance(shape: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> float:
        rows, columns = shape[0]
        return abs(math.log(columns * aspect / rows / PAGE))

    (rows, columns), step, within = min(shapes, key=distance)
    width = min(math.sqrt(PANEL_AREA * aspect), MOST_WIDTH / columns - GAP)
    return Grid(rows, columns, width, width / aspect, step, within)


def check_map_path(path: Path) -> None:
    """Raise a `ConfigError` if there is no format for a path, or the format needs a package that is missing."""
    suffix = path.suffix.lower()
    known = (*FIGURE_SUFFIXES, *RASTER_SUFFIXES, ARRAY_SUFFIX)
    if suffix not in known:
        found = suffix or "a path without suffix"
        raise ConfigError(f"{path}: {found} is not a map format; use one of {', '.join(known)}")
    if suffix in RASTER_SUFFIXES:
        import_optional("rasterio", NO_GEOTIFF)
