"""Progress display of a run: live bars on a terminal or in a notebook, and one line per finished cell."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mmrs_bench import errors
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failure, load_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.texts import printable

STAGE_WIDTH = 60
#: Width of the bars in a notebook, in characters.
NOTEBOOK_WIDTH = 110
#: Shortest time between two updates of a notebook, in seconds.
NOTEBOOK_SECONDS = 0.2


class RunDisplay:
    """Progress of a run. Its methods are callbacks of `mmrs_bench.evaluation.run.executors.execute`.

    ``done`` counts the cells that have a record, those of earlier runs included; ``failed`` counts failed cells.
    """

    def __init__(self, cells: Mapping[str, Cell], done: int, results: Path, console: Console) -> None:
        self.done = done
        self.failed = 0
        self._cells = cells
        self._results = results
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("cells", total=len(cells), completed=done)
        self._running: dict[str, TaskID] = {}
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def on_stage(self, key: str, stage: str, done: float) -> None:
        """Update the bar of a cell."""
        if key in self._ended:  # the outcome was found before the last message of its worker arrived
            return
        if key not in self._running:
            self._running[key] = self._bars.add_task("", total=100)
        text = printable(f"{self._cells[key].title}: {stage}")
        self._bars.update(self._running[key], description=text[:STAGE_WIDTH], completed=round(100 * done))
        self._refresh()

    def on_outcome(self, cell: Cell, path: Path) -> None:
        """Print the line of a cell that has a record or has failed."""
        self._ended.add(cell.key)
        if cell.key in self._running:
            self._bars.remove_task(self._running.pop(cell.key))
        if path == failure_path(self._results, cell.protocol):
            self.failed += 1
            text = f"FAILED {cell.title}: {failure_text(path)}"
        else:
            self.done += 1
            text = f"{cell.title}: {score_text(load_record(path))}"
        self._bars.update(self._all, completed=self.done + self.failed)
        self._refresh()
        self.line(f"[{self.done + self.failed}/{len(self._cells)}] {text}")

    def line(self, text: str) -> None:
        """Print one line above the bars."""
        print_line(self._console, text)

    def _refresh(self) -> None:
        """Show the new state of the bars; on a terminal, a thread of rich does that."""


class NotebookDisplay(RunDisplay):
    """Progress of a run in a notebook: bars that are replaced in place, and the lines below them."""

    def __init__(self, cells: Mapping[str, Cell], done: int, results: Path, console: Console) -> None:
        super().__init__(cells, done, results, console)
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
        console.print(self._bars.get_renderable())
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def make_display(cells: Mapping[str, Cell], done: int, results: Path, *, shown: bool = True) -> RunDisplay:
    """The display that fits where this process runs; with ``shown=False``, one that shows nothing."""
    console = progress_console(shown=shown)
    notebook = shown and Console().is_jupyter
    return (NotebookDisplay if notebook else RunDisplay)(cells, done, results, console)


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


def duration_text(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
