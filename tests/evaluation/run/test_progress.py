"""The progress display."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.fake_cells import fake_record, make_cells
from rich.console import Console

from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.evaluation.run.progress import RunDisplay, duration_text


def test_the_display_shows_stages_on_a_terminal(tmp_path: Path) -> None:
    cells = make_cells(3)
    console = Console(force_terminal=True, width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file, RunDisplay({c.key: c for c in cells}, 1, tmp_path, console) as display:
        display.on_stage(cells[0].key, "fit", 0.25)
        assert [task.completed for task in display._bars.tasks] == [1, 25]
        display.on_outcome(cells[0], save_record(tmp_path, fake_record(cells[0])))
        display.on_stage(cells[0].key, "score", 1.0)
        assert [task.completed for task in display._bars.tasks] == [2]
        display.line("[not markup] stays")
    text = console.export_text()
    assert "[not markup] stays" in text
    assert "[2/3] fake fake0-r1" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
