"""Progress of a run: a live table on a terminal or in a notebook, and one line per finished cell."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mmrs_bench import errors
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.records import failure_path, load_failure, load_record
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.display.board import Board, ShownCell
from mmrs_bench.evaluation.run.display.console import is_live, print_line, progress_console
from mmrs_bench.evaluation.run.display.view import board_view, share_text

#: Width of the table in a notebook, in characters, and its most lines.
NOTEBOOK_SIZE = (110, 40)
#: Shortest time between two updates of a notebook, in seconds.
NOTEBOOK_SECONDS = 0.2
#: Updates of a terminal in a second.
UPDATES_PER_SECOND = 2.0
#: Seconds between two lines that say how a run gets on, where there is no table.
STATUS_SECONDS = 300.0


class LiveView:
    """Shows a text that changes below the lines of a terminal; on everything else, it shows nothing.

    The cursor stays visible, so that a process that is killed leaves no terminal behind that has to be repaired.

    Args:
        console: The terminal.
        view: Returns what to show, for a width and a height.
    """

    def __init__(self, console: Console, view: Callable[[int, int], Group]) -> None:
        self._console, self._view = console, view
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if is_live(self._console):
            # Standard output may go to a file, which must get what is printed.
            own = self._console.file in (sys.stdout, sys.stderr)
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                transient=True,
                refresh_per_second=UPDATES_PER_SECOND,
                redirect_stdout=own and sys.stdout.isatty(),
                redirect_stderr=own and sys.stderr.isatty(),
            )
            self._live.start()
            self._console.show_cursor(True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            live, self._live = self._live, None
            live.stop()

    def _render(self) -> Group | Text:
        if self._live is None:  # at the end; a table that is higher than the terminal could not be removed
            return Text()
        size = self._console.size
        return self._view(size.width, size.height)


class RunDisplay:
    """Progress of a run. Its methods are callbacks of `mmrs_bench.evaluation.run.executors.execute`.

    On a terminal: a summary with the time left, the stage of every running cell, and a table of methods. Everywhere:
    one line per finished cell.

    Args:
        cells: All cells by key.
        finished: Records of earlier runs that are not computed again.
        results: Folder of the records.
        console: Where to show the progress.
        seconds: Expected seconds of the cells to compute, by key; None if unknown.
        workers: Number of workers.
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
        self.board = Board(map(ShownCell.of, cells.values()), seconds=seconds, workers=workers)
        self._results = results
        self._console = console
        self._start = self._status_at = time.monotonic()
        for record in finished:
            self.board.finish(record.key)
            self.board.score(record.key, record.scores.oa)
        self._live = LiveView(console, self.view)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__()

    def on_stage(self, key: str, stage: str, done: float) -> None:
        """Show the stage of a cell."""
        self.board.stage(key, stage, done, time.monotonic())
        self._refresh()

    def on_outcome(self, cell: Cell, path: Path) -> None:
        """Print the line of a cell that has a record or has failed."""
        if path == failure_path(self._results, cell.protocol):
            text = failure_line(cell.title, path)
            self.board.fail(cell.key)
        else:
            record = load_record(path)
            text = f"{cell.title}: {score_text(record)}"
            self.board.finish(cell.key)
            self.board.score(cell.key, record.scores.oa)
        self._refresh()
        self.line(f"[{len(self.board.ended)}/{self.board.total}] {text}")

    def line(self, text: str) -> None:
        """Print one line above the table."""
        print_line(self._console, text)

    def view(self, width: int, height: int | None = None) -> Group:
        """What is shown now, see `board_view`."""
        now = time.monotonic()
        return board_view(self.board, elapsed=now - self._start, now=now, width=width, height=height)

    def _refresh(self) -> None:
        """Where there is no table, say how the run gets on from time to time; on a terminal, a thread of rich does."""
        now = time.monotonic()
        if now - self._status_at >= STATUS_SECONDS and not is_live(self._console):
            self._status_at = now
            for text in status_lines(self.board, now - self._start):
                self.line(text)


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
        console = Console(file=io.StringIO(), record=True, width=NOTEBOOK_SIZE[0], force_jupyter=False)
        console.print(self.view(*NOTEBOOK_SIZE))
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


def status_lines(board: Board, elapsed: float) -> list[str]:
    """The summary, and the stages of the first running cells."""
    running = list(board.running.values())[:8]
    stages = (f"  {e.cell.title}: {e.stage} {share_text(e.share)}".rstrip() for e in running)
    return [board.summary(elapsed, time.monotonic()), *stages]


def score_text(record: Record) -> str:
    """``OA 81.2 AA 78.0 kappa 76.1 (2.1 s)``."""
    scores = record.scores
    kappa = "-" if scores.kappa is None else f"{100 * scores.kappa:.1f}"
    seconds = sum(record.measured.seconds.values())
    return f"OA {100 * scores.oa:.1f} AA {100 * scores.aa:.1f} kappa {kappa} ({seconds:.1f} s)"


def failure_line(title: str, path: Path) -> str:
    """``FAILED``, the cell, and why; for a defect of the code, with the path of the traceback."""
    failure = load_failure(path)
    known = getattr(errors, failure.error, None)
    if isinstance(known, type) and issubclass(known, errors.BenchError):
        return f"FAILED {title}: {failure.message}"
    return f"FAILED {title}: {failure.error}: {failure.message} (traceback in {path})"
