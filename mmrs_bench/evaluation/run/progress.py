"""Progress display of a run: a live table on a terminal or in a notebook, and one line per finished cell."""

from __future__ import annotations

import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmrs_bench import errors
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failure, load_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.texts import duration_text, printable, rough_duration

STAGE_WIDTH = 60
#: Width of the table in a notebook, in characters.
NOTEBOOK_WIDTH = 110
#: Shortest time between two updates of a notebook, in seconds.
NOTEBOOK_SECONDS = 0.2
#: Most columns of the table; cells of more scenes, splits and shots are counted in one column.
MOST_COLUMNS = 6

_Place = tuple[str, str]


class ScoreTable:
    """Finished cells and mean OA by method (rows), and by scene, split and shots (columns).

    Args:
        cells: All cells of the run.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        cells = list(cells)
        self._single = len({(c.protocol.scene, c.protocol.data.split) for c in cells}) == 1
        self._columns = list(dict.fromkeys(map(self._column, cells)))
        self._pooled = len(self._columns) > MOST_COLUMNS
        self._total: dict[_Place, int] = defaultdict(int)
        for cell in cells:
            self._total[self._place(cell)] += 1
        self._rows = list(dict.fromkeys(cell.method_label for cell in cells))
        self._oa: dict[_Place, list[float]] = defaultdict(list)
        self._failed: dict[_Place, int] = defaultdict(int)

    def add(self, cell: Cell, record: Record | None) -> None:
        """Count a finished cell, or a failed one, which has no record."""
        if record is None:
            self._failed[self._place(cell)] += 1
        else:
            self._oa[self._place(cell)].append(record.scores.oa)

    def table(self) -> Table:
        """The table of this moment: ``3/5  81.2`` is three of five cells with a mean OA of 81.2 %."""
        columns = ["cells"] if self._pooled else self._columns
        table = Table("method", *(f"{printable(column)}: done, OA %" for column in columns), box=None, pad_edge=False)
        for row in self._rows:
            table.add_row(printable(row), *(self._text((row, column)) for column in columns))
        return table

    def _text(self, place: _Place) -> str:
        total, oa, failed = self._total.get(place, 0), self._oa.get(place, []), self._failed.get(place, 0)
        if not total:
            return ""
        mean = "" if self._pooled or not oa else f"  {100 * fmean(oa):.1f}"
        return f"{len(oa)}/{total}{mean}{f'  {failed} failed' if failed else ''}"

    def _place(self, cell: Cell) -> _Place:
        return cell.method_label, "cells" if self._pooled else self._column(cell)

    def _column(self, cell: Cell) -> str:
        data = cell.protocol.data
        shots = f"{data.shots}-shot"
        return shots if self._single else f"{cell.protocol.scene} {data.split} {shots}"


class RunDisplay:
    """Progress of a run. Its methods are callbacks of `mmrs_bench.evaluation.run.executors.execute`.

    On a terminal: a table of methods and shots with finished draws and mean OA, the stage of every running cell, and
    the time left. Everywhere: one line per finished cell.

    Args:
        cells: All cells by key.
        finished: Records of earlier runs that are not computed again.
        results: Folder of the records.
        console: Where to show the progress.
        seconds: Expected seconds of the cells to compute, by key; None if unknown.
        workers: Number of workers.

    Attributes:
        done: Number of cells that have a record, those of earlier runs included.
        failed: Number of failed cells.
    """

    def __init__(
        self,
        cells: Mapping[str, Cell],
        finished: Iterable[Record],
        results: Path,
        console: Console,
        *,
        seconds: Mapping[str, float | None] | None = None,
        workers: int = 1,
    ) -> None:
        self.done = self.failed = 0
        self._cells = cells
        self._results = results
        self._console = console
        self._seconds = seconds or {}
        self._workers = workers
        self._scores = ScoreTable(cells.values())
        self._running: dict[str, str] = {}
        self._ended: set[str] = set()
        self._start = time.monotonic()
        for record in finished:
            self.done += 1
            self._scores.add(cells[record.key], record)
        self._live = Live(get_renderable=self.view, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def on_stage(self, key: str, stage: str, done: float) -> None:
        """Show the stage of a cell."""
        if key in self._ended:  # the outcome was found before the last message of its worker arrived
            return
        share = f" {100 * done:.0f} %" if 0 < done < 1 else ""
        text = printable(f"{self._cells[key].title}: {stage}")
        self._running[key] = f"{text[:STAGE_WIDTH]}{share}"
        self._refresh()

    def on_outcome(self, cell: Cell, path: Path) -> None:
        """Print the line of a cell that has a record or has failed."""
        self._ended.add(cell.key)
        self._running.pop(cell.key, None)
        if path == failure_path(self._results, cell.protocol):
            self.failed += 1
            self._scores.add(cell, None)
            text = f"FAILED {cell.title}: {failure_text(path)}"
        else:
            self.done += 1
            record = load_record(path)
            self._scores.add(cell, record)
            text = f"{cell.title}: {score_text(record)}"
        self._refresh()
        self.line(f"[{self.done + self.failed}/{len(self._cells)}] {text}")

    def line(self, text: str) -> None:
        """Print one line above the table."""
        print_line(self._console, text)

    def view(self) -> Group:
        """What is shown now: the summary, the stages of the running cells, and the table."""
        lines = [self.summary(time.monotonic() - self._start), *list(self._running.values())]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines), self._scores.table())

    def summary(self, elapsed: float) -> str:
        """``12 of 50 cells, 1 failed; 1 min 20 s, about 5 minutes left``, after these seconds."""
        known = [value for value in self._seconds.values() if value is not None]
        typical = fmean(known) if known else 1.0
        weights = {key: typical if value is None else value for key, value in self._seconds.items()}
        ended = sum(weights.get(key, typical) for key in list(self._ended))
        left = seconds_left(sum(weights.values()), ended, elapsed, self._workers if known else 0)
        failed = f", {self.failed} failed" if self.failed else ""
        rest = "" if left is None else f", {rough_duration(left)} left"
        return f"{self.done} of {len(self._cells)} cells{failed}; {duration_text(elapsed)}{rest}"

    def _refresh(self) -> None:
        """Show the new state in a notebook; on a terminal, a thread of rich does that."""


class NotebookDisplay(RunDisplay):
    """Progress of a run in a notebook: a table that is replaced in place, and the lines below it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ipython: Any = import_module("IPython.display")  # every notebook has it, no other place needs it
        self._handle: Any = None
        self._shown_at = 0.0

    def __enter__(self) -> Self:
        self._handle = self._ipython.display(self._ipython.HTML(self._html()), display_id=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.update(self._ipython.HTML(""))

    def _refresh(self) -> None:
        if time.monotonic() - self._shown_at > NOTEBOOK_SECONDS:
            self._handle.update(self._ipython.HTML(self._html()))
            self._shown_at = time.monotonic()

    def _html(self) -> str:
        console = Console(file=io.StringIO(), record=True, width=NOTEBOOK_WIDTH, force_jupyter=False)
        console.print(self.view())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def make_display(
    cells: Mapping[str, Cell], finished: Iterable[Record], results: Path, *, shown: bool = True, **options: Any
) -> RunDisplay:
    """The display that fits where this process runs; with ``shown=False``, one that shows nothing.

    Other arguments are those of `RunDisplay`.
    """
    console = progress_console(shown=shown)
    notebook = shown and Console().is_jupyter
    return (NotebookDisplay if notebook else RunDisplay)(cells, finished, results, console, **options)


def progress_console(*, shown: bool = True) -> Console:
    """The console of progress: standard error, and standard output in a notebook, which shows errors in red."""
    if Console().is_jupyter:
        return Console(file=sys.stdout, force_jupyter=False, quiet=not shown)
    return Console(stderr=True, quiet=not shown)


def line_printer(*, shown: bool = True) -> Callable[[str], None]:
    """A function that prints one line to the console of progress."""
    return partial(print_line, progress_console(shown=shown))


def print_line(console: Console, text: str) -> None:
    """Print one line."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def score_text(record: Record) -> str:
    """``OA 81.2 AA 78.0 kappa 76.1 (2.1 s)``."""
    scores = record.scores
    kappa = "-" if scores.kappa is None else f"{100 * scores.kappa:.1f}"
    seconds = sum(record.measured.seconds.values())
    return f"OA {100 * scores.oa:.1f} AA {100 * scores.aa:.1f} kappa {kappa} ({seconds:.1f} s)"


def failure_text(path: Path) -> str:
    """Why a cell failed, in one line; for a defect of the code, with the path of the traceback."""
    failure = load_failure(path)
    known = getattr(errors, failure.error, None)
    if isinstance(known, type) and issubclass(known, errors.BenchError):
        return failure.message
    return f"{failure.error}: {failure.message} (traceback in {path})"


def seconds_left(total: float, ended: float, elapsed: float, workers: int) -> float | None:
    """Expected seconds until the end of a run, first by expectation, later by its own pace; None if there is neither.

    Args:
        total: Sum of the expected seconds of its cells.
        ended: The part of ``total`` that has ended.
        elapsed: Seconds since the start.
        workers: Number of workers; 0 if ``total`` is only relative.
    """
    rest = 1 - ended / total if total else 0.0
    if workers:
        return rest * (rest * total / workers + elapsed)
    return rest * elapsed / (1 - rest) if rest < 1 else None
