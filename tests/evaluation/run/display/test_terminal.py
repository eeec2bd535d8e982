"""The live table on a real (pseudo) terminal: it goes without a trace, and errors stay whole."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.processes import wait_until
from helpers.screen import Screen, run_on_terminal

SCRIPT = Path(__file__).parents[3] / "helpers" / "run_fake_job.py"


def command(results: Path, compute: str = "slow", cells: int = 6) -> list[str]:
    return [sys.executable, str(SCRIPT), str(results), str(cells), "2", compute]


def outcomes(lines: list[str]) -> set[str]:
    """Lines of finished cells without their numbers, which depend on the order of the workers."""
    return {re.sub(r"^\[\d+/", "[n/", line) for line in lines if line.startswith("[")}


def test_a_low_terminal_keeps_the_lines_that_a_file_gets_and_nothing_else(tmp_path: Path) -> None:
    piped = subprocess.run(command(tmp_path / "a"), stderr=subprocess.PIPE, text=True, check=True).stderr.splitlines()
    screen = Screen(200, 5)
    assert run_on_terminal(command(tmp_path / "b"), screen) == 0
    assert len(screen.shown()) == len(piped)
    assert outcomes(screen.shown()) == outcomes(piped)
    assert screen.cursor_visible
    assert screen.colours


def test_the_table_shows_cells_stages_and_methods(tmp_path: Path) -> None:
    states: list[list[str]] = []

    def keys(screen: Screen) -> bytes:
        states.append(screen.shown())
        return b"\x03" if sum(" 50 %" in line for line in states[-1]) == 2 else b""

    assert run_on_terminal(command(tmp_path, "endless"), Screen(100, 24), keys=keys) == 130
    table = states[-1]
    head = next(number for number, line in enumerate(table) if " of 6 done, 2 running, 0 failed; " in line)
    # Which worker is the first of the table, and so which cell, depends on their start.
    assert sorted(line.split()[:5] for line in table[head + 1 : head + 3]) == [
        ["fake", "draw", "0", "fit", "50"],
        ["fake", "draw", "1", "fit", "50"],
    ]
    assert table[head + 3 :] == ["method  done  running  failed   OA %", "fake     0/6        2"]


def test_ctrl_c_removes_the_table_from_a_small_terminal(tmp_path: Path) -> None:
    screen = Screen(40, 6)
    shown = "[3/40]"
    assert run_on_terminal(command(tmp_path, cells=40), screen, keys=lambda s: b"\x03" * (shown in s.text)) == 130
    assert screen.cursor_visible
    text = "".join(line.ljust(40) for line in screen.lines)
    assert " done, " not in text
    assert "method" not in text
    assert "".join(screen.shown()[-2:]).endswith("cells are done; run the same command again to continue")


def test_an_error_stays_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    screen = Screen(30, 8)
    assert run_on_terminal(command(tmp_path, "fails_on_draw_1"), screen) == 1
    assert "draw 1: the loss is NaN; lower the learning rate" in "".join(line.ljust(30) for line in screen.lines)


def test_a_user_can_have_no_colours(tmp_path: Path) -> None:
    screen = Screen(100, 24)
    assert run_on_terminal(command(tmp_path), screen, variables={"NO_COLOR": "1"}) == 0
    assert "running" in screen.text, "there was no table"
    assert not screen.colours


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"FORCE_COLOR": "1"}])
def test_no_table_is_drawn_where_it_cannot_be_replaced(tmp_path: Path, variables: dict[str, str]) -> None:
    if "TERM" in variables:
        screen = Screen(200, 24)
        assert run_on_terminal(command(tmp_path), screen, variables=variables) == 0
        text = screen.text
    else:
        text = subprocess.run(
            ["env", *(f"{n}={v}" for n, v in variables.items()), *command(tmp_path)], stderr=subprocess.PIPE, text=True
        ).stderr
    assert "[6/6]" in text
    assert "\x1b[1A" not in text
    assert "running" not in text


def test_watching_on_a_terminal_shows_the_table_and_ctrl_c_leaves_the_run_on(tmp_path: Path) -> None:
    with subprocess.Popen(command(tmp_path, "endless"), stderr=subprocess.DEVNULL, start_new_session=True) as run:
        try:
            wait_until(lambda: any((tmp_path / "locks").glob("*.stage")))
            screen = Screen(100, 24)
            watch = [sys.executable, "-m", "mmrs_bench", "watch", str(tmp_path)]
            assert run_on_terminal(watch, screen, keys=lambda s: b"\x03" * ("50 %" in s.text)) == 130
            assert "of 6 done, 2 running, 0 failed; " in screen.text
            assert screen.shown() == ["stopped watching; the run goes on"]
            assert run.poll() is None
        finally:
            os.killpg(run.pid, signal.SIGKILL)
