"""Figures for two-column papers: accuracy over shots as PDF, and the LaTeX that includes them.

Methods with results for a single number of shots are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrs_bench.evaluation.report.curves import curve_families, curves_stem, draw_curves, style_axes
from mmrs_bench.evaluation.report.entries import Group
from mmrs_bench.evaluation.report.render import latex_escape
from mmrs_bench.io import atomic_write, write_text
from mmrs_bench.texts import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Width of a column and height of the axes with their labels, in inches; sizes of text and legend, in points.
WIDTH, HEIGHT = 3.5, 2.2
TEXT_POINTS, LEGEND_POINTS = 8.0, 7.0
#: Characters of the legend in an inch.
LEGEND_CHARACTERS = 24
#: Fewest shot counts of a method: a point is no curve.
FEWEST_SHOTS = 2
#: matplotlib brings these fonts along; the first one resembles Times, the second one has more characters.
FONTS = ("STIXGeneral", "DejaVu Sans")

_HEAD = """\
% Needs \\usepackage{graphicx} in the preamble, and \\graphicspath{{FOLDER/}} with the folder of this file.
% Written by mmrs-bench leaderboard.
"""


def write_figures(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write a figure of OA over shots for every protocol with at least two shot counts, and a file that includes all.

    Args:
        groups: Groups in the order of `mmrs_bench.evaluation.report.entries.group_records`.
        folder: Folder of the files ``curves-<scene>-<split>-<budget>....pdf`` and ``paper-figures.tex``.

    Returns:
        The files; none if there is no figure.
    """
    files, texts = [], []
    families = [family for family in curve_families(groups) if _shown(family)]
    # A method looks the same in all figures.
    numbers = {label: number for number, label in enumerate(sorted({name for f in families for name in _shown(f)}))}
    for number, family in enumerate(families, 1):
        path = folder / f"{curves_stem(family)}.pdf"
        with paper_style():
            write_pdf(path, curve_figure(family, numbers))
        files.append(path)
        texts.append(_inclusion(family, path.stem, number))
    if files:
        files.append(folder / "paper-figures.tex")
        write_text(files[-1], _HEAD + "\n".join(texts))
    return files


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and write figures of a block as papers want them: a serif font of their size, as TrueType in the file."""
    import matplotlib

    settings: Any = {
        "font.family": list(FONTS),
        "font.size": TEXT_POINTS,
        "axes.labelsize": TEXT_POINTS,
        "xtick.labelsize": TEXT_POINTS,
        "ytick.labelsize": TEXT_POINTS,
        "mathtext.fontset": "stix",
        "axes.linewidth": 0.5,
        "xtick.major.width": 0.5,
        "ytick.major.width": 0.5,
        "legend.handlelength": 2.4,
        "legend.columnspacing": 1.2,
        "legend.labelspacing": 0.35,
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context(settings):
        yield


def curve_figure(family: Sequence[Group], numbers: Mapping[str, int]) -> Figure:
    """OA over shots in the width of a column, within `paper_style`. What a title would say is in the caption.

    Args:
        family: Groups of one protocol.
        numbers: Number of the line style of each method, by label.
    """
    from mmrs_bench.evaluation.report.figures import ShownFigure

    figure = ShownFigure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    shown = {label: numbers[label] for label in _shown(family)}
    draw_curves(axes, family, numbers=shown, markersize=3, linewidth=0.9, elinewidth=0.6, capsize=1.5)
    style_axes(figure, axes, points=LEGEND_POINTS, characters=LEGEND_CHARACTERS)
    return figure


def write_pdf(path: Path, figure: Figure) -> None:
    """Write a figure atomically, as PDF without a date: the same records give the same bytes."""
    atomic_write(path, lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None}))


def _inclusion(family: Sequence[Group], stem: str, number: int) -> str:
    first = family[0]
    draws = sorted({len(entry.draws) for group in family for entry in group.ranked})
    over = str(draws[0]) if len(draws) == 1 else f"{draws[0]} to {draws[-1]}"
    caption = (
        f"{first.scene_label}: overall accuracy over labels per class, mean and 95 % interval over {over} draws; "
        f"{first.protocol_text}.{_left_out(family)}"
    )
    lines = (
        r"\begin{figure}[!t]",
        r"\centering",
        rf"\includegraphics[width=\columnwidth]{{{stem}.pdf}}",
        rf"\caption{{{latex_escape(printable(caption))}}}",
        rf"\label{{fig:mmrs-bench-{number}}}",
        r"\end{figure}",
    )
    return "\n".join(lines) + "\n"


def _shot_counts(family: Sequence[Group]) -> Counter[str]:
    """How many numbers of shots each ranked method has."""
    return Counter(entry.label for group in family for entry in group.ranked)


def _shown(family: Sequence[Group]) -> list[str]:
    """Labels of the methods that have a curve."""
    return [label for label, count in _shot_counts(family).items() if count >= FEWEST_SHOTS]


def _left_out(family: Sequence[Group]) -> str:
    """A sentence that ends the caption if methods are not shown."""
    few = len(_shot_counts(family)) - len(_shown(family))
    methods = "One method" if few == 1 else f"{few} methods"
    return f" {methods} with a single number of labels per class not shown." if few else ""
