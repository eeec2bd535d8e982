"""The progress display."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, make_cells
from rich.console import Console

from mmrs_bench.errors import TrainingError
from mmrs_bench.evaluation.results.records import save_failure, save_record
from mmrs_bench.evaluation.run.progress import RunDisplay, seconds_left
from mmrs_bench.texts import duration_text, rough_duration


def shown(display: RunDisplay) -> list[str]:
    """The lines of the live part, as a terminal of 120 columns shows them."""
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(display.view())
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_a_terminal_shows_the_table_of_methods_and_shots_and_the_stages(tmp_path: Path) -> None:
    cells = [*make_cells(3), *make_cells(1, method="other")]
    earlier = fake_record(cells[0])
    console = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
    with RunDisplay({c.key: c for c in cells}, [earlier], tmp_path, console) as display:
        display.on_stage(cells[1].key, "fit", 0.25)
        display.on_stage(cells[3].key, "data", 0.0)
        summary, *stages = shown(display)[:3]
        assert summary.startswith("1 of 4 cells; ")
        assert stages == [
            "fake fake0-r1 random-v1 2-shot draw 1: fit 25 %",
            "other fake0-r1 random-v1 2-shot draw 0: data",
        ]
        records = [fake_record(cell) for cell in cells]
        display.on_outcome(cells[1], save_record(tmp_path, records[1]))
        display.on_stage(cells[1].key, "score", 1.0)  # its last message arrives after the outcome
        display.on_outcome(cells[3], save_failure(tmp_path, cells[3].protocol, TrainingError("no")))
        mean = 50 * (records[0].scores.oa + records[1].scores.oa)
        assert [line.split() for line in shown(display)[1:]] == [
            ["method", "2-shot:", "done,", "OA", "%"],
            ["fake", "2/3", f"{mean:.1f}"],
            ["other", "0/1", "1", "failed"],
        ]
        assert shown(display)[0].startswith("2 of 4 cells, 1 failed; ")
        display.line("[not markup] stays")
    text = console.export_text()
    assert "2-shot: done, OA %" in text  # the live part itself
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


def test_scenes_have_columns_of_their_own_until_there_are_too_many(tmp_path: Path) -> None:
    for scenes, header in ((2, "fake1-r1 random-v1 2-shot: done, OA %"), (7, "cells: done, OA %")):
        cells = make_cells(7, scenes=scenes)
        display = RunDisplay({c.key: c for c in cells}, [fake_record(cells[0])], tmp_path, Console(file=io.StringIO()))
        assert header in shown(display)[1]
        assert ("1/7" in shown(display)[2]) == (scenes == 7)


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
    assert display.summary(0.0) == "0 of 4 cells; 0 s, about 20 minutes left"
    display.on_outcome(cells[0], save_record(tmp_path, fake_record(cells[0])))
    assert display.summary(300.0) == "1 of 4 cells; 5 min 00 s, about 15 minutes left"


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
