"""Runs that are killed, stopped or doubled: finished records stay as they are and nothing is computed twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.fake_cells import fake_record, log_lines, make_cells

from mmrs_bench.evaluation.results.records import load_records, record_path
from mmrs_bench.evaluation.run.jobs import cell_lock

SCRIPT = Path(__file__).parents[2] / "helpers" / "run_fake_job.py"
CELLS = 40
PATIENCE_SECONDS = 60


def start(results: Path, *, compute: str = "slow", cells: int = CELLS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(results), str(cells), "2", compute],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    _, text = process.communicate(timeout=PATIENCE_SECONDS)
    return text.splitlines()


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def record_files(results: Path) -> list[Path]:
    return sorted((results / "records").rglob("*.json"))


def identity(path: Path) -> tuple[int, int, bytes]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, path.read_bytes()


def all_locks_free(results: Path) -> bool:
    for path in (results / "locks").glob("*.lock"):
        with cell_lock(path.parent, path.stem) as free:
            if not free:
                return False
    return True


def bodies(results: Path) -> dict[str, dict[str, Any]]:
    return {record.key: record.body() for record in load_records(results)}


def test_ten_kills_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    """``kill -9`` at ten random moments of a 40-cell run, of all processes or the parent alone, then a resume."""
    rng = random.Random(0)
    seen: dict[Path, tuple[int, int, bytes]] = {}
    for kill in range(10):
        process = start(tmp_path)
        enough = len(record_files(tmp_path)) + rng.randrange(4)
        wait_until(lambda enough=enough: len(record_files(tmp_path)) >= enough)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        if kill % 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE_SECONDS)
        wait_until(lambda: all_locks_free(tmp_path))  # orphaned workers must end by themselves
        for path in record_files(tmp_path):
            now = identity(path)
            assert seen.setdefault(path, now) == now, f"{path} was touched again"

    assert len(seen) < CELLS, "the kills came too late to interrupt anything"
    last = start(tmp_path)
    assert finish(last)[-1].startswith(f"[{CELLS}/{CELLS}]")
    assert last.returncode == 0
    assert {path: identity(path) for path in seen} == seen
    assert bodies(tmp_path) == {cell.key: fake_record(cell).body() for cell in make_cells(CELLS)}
    assert {line.split()[0] for line in log_lines(tmp_path)} == {"once"}


def test_two_runs_on_one_folder_share_the_work(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    lines = finish(first), finish(second)
    assert (first.returncode, second.returncode) == (0, 0)
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * CELLS
    assert len({line.split()[2] for line in log_lines(tmp_path)}) > 2, "only one of the runs did anything"
    assert all(shown[-1].startswith(f"[{CELLS}/{CELLS}]") for shown in lines)
    assert len(load_records(tmp_path)) == CELLS


def test_one_of_two_runs_is_killed_and_the_other_finishes_its_cells(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    wait_until(lambda: len(record_files(tmp_path)) >= 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=PATIENCE_SECONDS)
    finish(second)
    assert second.returncode == 0
    assert {line.split()[0] for line in log_lines(tmp_path)} == {"once"}
    assert len(load_records(tmp_path)) == CELLS


@pytest.mark.parametrize("to_group", [True, False], ids=["Ctrl-C in a terminal", "signal to the parent"])
def test_interrupt_stops_cleanly_and_says_how_to_go_on(tmp_path: Path, to_group: bool) -> None:
    process = start(tmp_path)
    wait_until(lambda: len(record_files(tmp_path)) >= 3)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    lines = finish(process)
    assert process.returncode == 130
    assert "Traceback" not in "\n".join(lines)
    done = len(record_files(tmp_path))
    assert lines[-1] == f"stopped: {done} of {CELLS} cells are done; the same command goes on from here"
    assert all_locks_free(tmp_path), "a worker outlived the run"
    assert not list((tmp_path / "locks").glob("*.stop"))


def test_an_interrupt_while_workers_start_is_as_clean(tmp_path: Path) -> None:
    """A process that Ctrl-C finds importing modules would print a traceback."""
    process = start(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    wait_until(lambda: len(children.read_text().split()) >= 2)  # a worker, beside multiprocessing's own helper
    os.killpg(process.pid, signal.SIGINT)
    lines = finish(process)
    assert (process.returncode, lines) == (
        130,
        [f"stopped: 0 of {CELLS} cells are done; the same command goes on from here"],
    )


def test_a_worker_deep_in_a_computation_ends_with_its_parent(tmp_path: Path) -> None:
    """It tells nothing for ten minutes, so it cannot notice by a broken pipe."""
    process = start(tmp_path, compute="endless", cells=1)
    wait_until(lambda: len(log_lines(tmp_path)) == 1)
    assert not all_locks_free(tmp_path)
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    wait_until(lambda: all_locks_free(tmp_path))
    assert not list((tmp_path / "failures").rglob("*.json"))


def test_a_record_half_written_is_never_seen(tmp_path: Path) -> None:
    """What a kill leaves of a write is a temporary file, which is no record."""
    (cell,) = make_cells(1)
    path = record_path(tmp_path, cell.protocol)
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.x1.tmp").write_text('{"schema": 1')
    assert load_records(tmp_path) == []
    process = start(tmp_path, cells=1)
    finish(process)
    assert process.returncode == 0
    assert json.loads(path.read_text())["key"] == cell.key
