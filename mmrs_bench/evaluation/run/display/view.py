"""The picture of a run: a summary, the running cells with their stages, and a table of methods.

Lines are put together here and not by rich's tables, which take ten times as long; a run draws twice a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.text import Text

from mmrs_bench.evaluation.run.display.board import Board, MethodRow, Running
from mmrs_bench.texts import duration_text, printable

#: Blanks between two columns.
GAP = 2
#: Widest stage, in characters.
STAGE_WIDTH = 32
#: Narrowest title of a running cell that stands beside stage, share and time.
TITLE_WIDTH = 16
#: Running cells that are always shown, however low the terminal is.
FEWEST_RUNNING = 3


class Column(NamedTuple):
    """How a column is shown: its width, on which side its texts stand, and their style."""

    width: int
    right: bool = False
    style: str = ""


def board_view(board: Board, *, elapsed: float, now: float, width: int, height: int | None = None) -> Group:
    """The picture of this moment.

    Args:
        board: The run.
        elapsed: Seconds since the start of the run.
        now: Seconds of the clock that the running cells began by.
        width: Width in characters. Columns that do not fit are left out, titles are cut.
        height: Height in lines; None for as many as there are.
    """
    running = sorted(board.running.values(), key=lambda entry: entry.began)
    rows = board.rows()
    shown, methods = len(running), len(rows)
    summary = board.summary(elapsed, now)
    lines = [_line(text) for text in ([summary] if len(summary) <= width else summary.split("; "))]
    if height is not None:
        room = height - len(lines) - 2  # for the head of the table and the cursor
        shown = _fitting(len(running), max(FEWEST_RUNNING, room // 2))
        methods = _fitting(len(rows), max(0, room - shown - (shown < len(running))))
    if shown:
        lines += _running_lines(board, running[:shown], now, width)
    if shown < len(running):
        lines.append(_line(f"and {len(running) - shown} more running", "dim"))
    if methods:
        if methods < len(rows):  # those that go on come first
            rows.sort(key=lambda row: (not row.running, row.total.done == row.total.total))
        lines += _method_lines(board.columns, rows[:methods], width)
        if methods < len(rows):
            lines.append(_line(f"and {len(rows) - methods} more methods", "dim"))
    return Group(*lines)


def _fitting(count: int, room: int) -> int:
    """How many lines are shown, if one is needed to say that there are more."""
    return count if count <= room else max(room - 1, 0)


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def _row(columns: Sequence[Column], texts: Iterable[str], style: str = "") -> Text:
    """A line of columns; texts that are too long are cut."""
    line = Text(style=style, no_wrap=True, overflow="crop")
    for number, (column, text) in enumerate(zip(columns, texts, strict=True)):
        size = cell_len(text)
        if size > column.width:
            text, size = set_cell_size(text, column.width - 1) + "…", column.width
        blanks = " " * (column.width - size)
        line.append(" " * GAP if number else "")
        line.append(blanks + text if column.right else text + blanks, column.style or None)
    line.rstrip()
    return line


def share_text(share: float) -> str:
    """``25 %``; empty at the start and the end of a stage, where it says nothing."""
    return f"{100 * share:.0f} %" if 0 < share < 1 else ""


def _running_lines(board: Board, running: Iterable[Running], now: float, width: int) -> list[Text]:
    rows = [
        (
            printable(board.short_title(entry.cell)),
            printable(entry.stage),
            share_text(entry.share),
            duration_text(max(0.0, now - entry.began)),
        )
        for entry in running
    ]
    title, stage, _, time = (max(map(cell_len, column)) for column in zip(*rows, strict=True))
    columns = [
        Column(min(stage, STAGE_WIDTH), style="cyan"),
        Column(len("100 %"), right=True),
        Column(time, right=True),
    ]
    while columns and _room(columns, width) < min(title, TITLE_WIDTH):
        columns.pop()  # time, then share, then stage
    columns.insert(0, Column(max(1, min(title, _room(columns, width)))))
    return [_row(columns, row[: len(columns)]) for row in rows]


def _room(columns: Sequence[Column], width: int) -> int:
    """Width that is left for one more column."""
    return width - sum(column.width + GAP for column in columns)


def _method_lines(names: Sequence[str], rows: Sequence[MethodRow], width: int) -> list[Text]:
    """``done`` is the finished part, such as ``3/5``; columns of mean OA are shown as far as they fit."""
    labels = [(printable(row.method), f"{row.total.done}/{row.total.total}") for row in rows]
    heads = [printable(f"{name} OA %".strip()) for name in names]
    columns = [
        Column(max(len("done"), *(len(done) for _, done in labels)), right=True),
        Column(len("running"), right=True, style="cyan"),
        Column(len("failed"), right=True, style="bold red"),
    ]
    method = max(len("method"), *(cell_len(name) for name, _ in labels))
    columns.insert(0, Column(max(1, min(method, _room(columns, width)))))
    fixed = len(columns)
    for number, head in enumerate(heads):
        last = number == len(heads) - 1
        column = Column(max(cell_len(head), len("100.0")), right=True)
        if _room(columns, width) < column.width + (0 if last else GAP + 1):
            break
        columns.append(column)
    shown = len(columns) - fixed
    if 0 < shown < len(heads):
        columns.append(Column(1))
        heads[shown:] = ["…"]
    lines = [_row(columns, ["method", "done", "running", "failed", *heads[: len(columns) - fixed]], "bold")]
    for (name, done), row in zip(labels, rows, strict=True):
        means = [place.mean_oa if place else None for place in row.places[:shown]]
        texts = [name, done, str(row.running or ""), str(row.total.failed or "")]
        texts += ["" if mean is None else f"{100 * mean:.1f}" for mean in means]
        lines.append(_row(columns, [*texts, *[""] * (len(columns) - len(texts))]))
    return lines
