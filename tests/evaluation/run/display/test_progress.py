"""The progress display."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, make_cells
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from mmrs_bench.config import PRETRAINING
from mmrs_bench.errors import TrainingError
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.run.display import progress
from mmrs_bench.evaluation.run.display.board import Board, ShownCell, seconds_left
from mmrs_bench.evaluation.run.display.progress import RunDisplay
from mmrs_bench.evaluation.run.display.view import board_view
from mmrs_bench.evaluation.run.jobs import DEFERRED
from mmrs_bench.texts import duration_text, printable, rough_duration


def shown(display: RunDisplay, width: int = 120, height: int | None = None) -> list[str]:
    """The lines of the live part, as a terminal shows them."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(display.view(width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_terminal_shows_the_stages_and_the_table_of_methods(tmp_path: Path) -> None:
    cells = [*make_cells(3), *make_cells(1, method="other")]
    earlier = fake_record(cells[0])
    console = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
    with RunDisplay({c.key: c for c in cells}, [earlier], tmp_path, console) as display:
        display.on_stage(cells[1].key, "fit", 0.25)
        display.on_stage(cells[3].key, "data", 0.0)
        summary, *stages = shown(display)[:3]
        assert summary.startswith("1 of 4 done, 2 running, 0 failed; ")
        assert [line.split() for line in stages] == [
            ["fake", "draw", "1", "fit", "25", "%", "0", "s"],
            ["other", "draw", "0", "data", "0", "s"],
        ]
        records = [fake_record(cell) for cell in cells]
        display.on_outcome(cells[1], save_record(tmp_path, records[1]))
        display.on_stage(cells[1].key, "score", 1.0)  # its last message arrives after the outcome
        display.on_outcome(cells[3], save_failure(tmp_path, cells[3].protocol, TrainingError("no")))
        mean = 50 * (records[0].scores.oa + records[1].scores.oa)
        assert [line.split() for line in shown(display)[1:]] == [
            ["method", "done", "running", "failed", "OA", "%"],
            ["fake", "2/3", f"{mean:.1f}"],
            ["other", "0/1", "1"],
        ]
        assert shown(display)[0].startswith("2 of 4 done, 0 running, 1 failed; ")
        display.line("[not markup] stays")
    text = console.export_text()
    assert "[not markup] stays" in text
    assert "[2/4] fake fake0-r1" in text
    assert "FAILED other fake0-r1 random-v1 2-shot draw 0: no" in text


def test_without_a_terminal_there_are_lines_only(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    console = Console(width=120, file=io.StringIO())
    with RunDisplay({cell.key: cell}, [], tmp_path, console) as display:
        display.on_stage(cell.key, "fit", 0.5)
        display.on_outcome(cell, save_record(tmp_path, fake_record(cell)))
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("[1/1] fake fake0-r1 random-v1 2-shot draw 0: OA ")


def test_without_a_terminal_a_long_run_says_how_it_gets_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "STATUS_SECONDS", 0.0)
    cells = make_cells(2)
    console = Console(width=120, file=io.StringIO())
    with RunDisplay({c.key: c for c in cells}, [], tmp_path, console) as display:
        display.on_stage(cells[1].key, "fit", 0.5)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["0 of 2 done, 1 running, 0 failed; 0 s", "  fake fake0-r1 random-v1 2-shot draw 1: fit 50 %"]


def test_scenes_have_columns_of_their_own_as_far_as_they_fit(tmp_path: Path) -> None:
    cells = make_cells(7, scenes=7)
    display = RunDisplay({c.key: c for c in cells}, [fake_record(cells[0])], tmp_path, Console(file=io.StringIO()))
    assert shown(display, 200)[1].split("  ")[-1] == "fake6-r1 OA %"
    assert shown(display, 70)[1].split()[-4:] == ["fake1-r1", "OA", "%", "…"]
    assert shown(display, 40)[2].split() == ["method", "done", "running", "failed"]


def test_a_low_terminal_shows_what_goes_on(tmp_path: Path) -> None:
    cells = [cell for number in range(20) for cell in make_cells(2, method=f"method-{number}")]
    display = RunDisplay({c.key: c for c in cells}, [], tmp_path, Console(file=io.StringIO()))
    for cell in cells[30:38]:
        display.on_stage(cell.key, "fit", 0.0)
    lines = shown(display, 100, 16)
    assert len(lines) == 15
    assert lines[6] == "and 3 more running"
    assert [line.split()[0] for line in lines[8:14]] == [f"method-{n}" for n in (15, 16, 17, 18, 0, 1)]
    assert lines[14] == "and 14 more methods"


@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=8),
    st.text(max_size=40),
    st.integers(1, 150),
    st.integers(4, 40),
)
def test_the_table_fits_every_terminal_whatever_names_contain(
    names: list[str], stage: str, width: int, height: int
) -> None:
    cells = [
        ShownCell(str(n), "", (name, name, "random-v1", "2-shot", f"draw {n}", "", "")) for n, name in enumerate(names)
    ]
    board = Board(cells)
    for cell in cells:
        board.stage(cell.key, stage, 0.5, 0.0)
    view = board_view(board, elapsed=9.0, now=5000.0, width=width, height=height)
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(view)
    lines = console.export_text().splitlines()
    assert all(cell_len(line) <= width and printable(line) == line for line in lines)
    assert len(lines) < height or height < 8  # three running cells are always shown


def test_the_time_left_goes_from_the_expectation_to_the_pace_of_the_run() -> None:
    assert seconds_left(600, 0, 0, workers=2) == 300
    assert seconds_left(600, 300, 150, workers=2) == pytest.approx(150)  # as expected
    assert 150 < (seconds_left(600, 300, 300, workers=2) or 0) < 300  # slower than expected
    assert seconds_left(600, 600, 500, workers=2) == 0
    assert seconds_left(10, 0, 5, workers=0) is None
    assert seconds_left(10, 5, 5, workers=0) == 5


def test_the_summary_tells_the_time_left(tmp_path: Path) -> None:
    cells = make_cells(4)
    seconds = {cell.key: 600.0 for cell in cells[:3]} | {cells[3].key: None}
    display = RunDisplay(
        {c.key: c for c in cells}, [], tmp_path, Console(file=io.StringIO()), seconds=seconds, workers=2
    )
    assert display.board.summary(0.0) == "0 of 4 done, 0 running, 0 failed; 0 s, about 20 minutes left"
    display.on_outcome(cells[0], save_record(tmp_path, fake_record(cells[0])))
    assert display.board.summary(300.0) == "1 of 4 done, 0 running, 0 failed; 5 min 00 s, about 15 minutes left"


def test_running_cells_count_for_the_time_left(tmp_path: Path) -> None:
    cells = [ShownCell.of(cell) for cell in make_cells(4)]
    board = Board(cells, seconds={cell.key: 600.0 for cell in cells}, workers=2)
    for cell in cells[:2]:
        board.stage(cell.key, "fit", 0.0, began=100.0)
    assert board.summary(300.0, now=400.0).endswith("; 5 min 00 s, about 15 minutes left")
    assert board.summary(3000.0, now=3100.0).endswith("about 34 minutes left"), "late cells are not taken as finished"


def test_a_cell_that_is_left_for_later_does_not_run() -> None:
    cells = [ShownCell.of(cell) for cell in make_cells(2)]
    board = Board(cells)
    for cell in cells:
        board.stage(cell.key, PRETRAINING, 0.0, began=0.0)
    board.stage(cells[1].key, DEFERRED, 0.0, began=0.0)
    assert board.summary(0.0).startswith("0 of 2 done, 1 running")


def test_a_pretraining_passes_by_its_share_on_a_faster_machine() -> None:
    cells = [ShownCell.of(cell) for cell in make_cells(2)]
    board = Board(cells, seconds={cells[0].key: 36_000.0, cells[1].key: 0.0}, workers=1)
    assert board.summary(0.0, now=0.0).endswith("about 10 hours left")
    board.stage(cells[0].key, "data", 0.0, began=0.0)
    board.stage(cells[0].key, PRETRAINING, 0.8, began=0.0)
    assert board.summary(400.0, now=400.0).endswith("about 49 minutes left"), "28 % of the work at a pace between both"
    board.stage(cells[0].key, "fit", 0.0, began=0.0)
    board.stage(cells[0].key, "predict", 0.5, began=0.0)
    assert board.summary(500.0, now=500.0).endswith("about 7 minutes left"), "a tenth of the work"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than 10 seconds"),
        (42, "about 40 seconds"),
        (89, "about 90 seconds"),
        (91, "about 2 minutes"),
        (440, "about 7 minutes"),
        (7300, "about 2 hours"),
        (200_000, "about 2 days"),
    ],
)
def test_rough_durations_are_what_people_say(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text
