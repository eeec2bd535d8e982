"""Killed, interrupted and simultaneous runs keep finished records and compute nothing twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clusters.processes import wait_until
from helpers.fake_cells import fake_record, log_lines, make_cells

from mmrs_bench.evaluation.results.records import load_records, record_path
from mmrs_bench.evaluation.run.claims import cell_lock

SCRIPT = Path(__file__).parents[2] / "helpers" / "run_fake_job.py"
CELLS = 40
TIMEOUT_SECONDS = 60


def start(results: Path, *, compute: str = "slow", cells: int = CELLS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(results), str(cells), "2", compute],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> list[str]:
    _, text = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == status, text
    return text.splitlines()


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


def test_ten_kills_lose_no_record_and_repeat_no_cell(tmp_path: Path) -> None:
    """``kill -9`` of all processes or only of the parent, at ten random moments of a run; then the run is resumed."""
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
        process.communicate(timeout=TIMEOUT_SECONDS)
        wait_until(lambda: all_locks_free(tmp_path))  # workers must end after their parent
        for path in record_files(tmp_path):
            now = identity(path)
            assert seen.setdefault(path, now) == now, f"{path} was written again"

    assert len(seen) < CELLS, "the kills were too late to interrupt the run"
    assert finish(start(tmp_path))[-1].startswith(f"[{CELLS}/{CELLS}]")
    assert {path: identity(path) for path in seen} == seen
    bodies = {record.key: record.body() for record in load_records(tmp_path)}
    assert bodies == {cell.key: fake_record(cell).body() for cell in make_cells(CELLS)}
    assert {line.split()[0] for line in log_lines(tmp_path)} == {"once"}


def test_two_runs_on_one_folder_share_the_work(tmp_path: Path) -> None:
    cells = 4 * CELLS  # so many that no run finishes them before the workers of the other have started
    first, second = start(tmp_path, cells=cells), start(tmp_path, cells=cells)
    lines = finish(first), finish(second)
    assert [line.split()[0] for line in log_lines(tmp_path)] == ["once"] * cells
    assert len({line.split()[2] for line in log_lines(tmp_path)}) > 2, "only one of the runs computed cells"
    assert all(shown[-1].startswith(f"[{cells}/{cells}]") for shown in lines)
    assert len(load_records(tmp_path)) == cells


def test_one_of_two_runs_is_killed_and_the_other_finishes_all_cells(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    wait_until(lambda: len(record_files(tmp_path)) >= 5)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=TIMEOUT_SECONDS)
    finish(second)
    assert {line.split()[0] for line in log_lines(tmp_path)} == {"once"}
    assert len(load_records(tmp_path)) == CELLS


@pytest.mark.parametrize("to_group", [True, False], ids=["Ctrl-C in a terminal", "signal to the parent"])
def test_an_interrupt_ends_the_workers_and_prints_how_to_continue(tmp_path: Path, to_group: bool) -> None:
    process = start(tmp_path)
    wait_until(lambda: len(record_files(tmp_path)) >= 3)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    lines = finish(process, status=130)
    assert "Traceback" not in "\n".join(lines)
    done = len(record_files(tmp_path))
    assert lines[-1] == f"stopped: {done} of {CELLS} cells are done; run the same command again to continue"
    assert all_locks_free(tmp_path), "a worker outlived the run"
    assert not list((tmp_path / "locks").glob("*.stop"))


def test_an_interrupt_while_workers_import_modules_prints_no_traceback(tmp_path: Path) -> None:
    process = start(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list the children of a process")
    wait_until(lambda: len(children.read_text().split()) >= 2)  # the resource tracker and a worker
    os.killpg(process.pid, signal.SIGINT)
    expected = f"stopped: 0 of {CELLS} cells are done; run the same command again to continue"
    assert finish(process, status=130)[-1:] == [expected]


def test_a_worker_that_reports_nothing_ends_with_its_parent(tmp_path: Path) -> None:
    """It sends no message for ten minutes, so it cannot detect a broken pipe."""
    process = start(tmp_path, compute="endless", cells=1)
    wait_until(lambda: len(log_lines(tmp_path)) == 1)
    assert not all_locks_free(tmp_path)
    process.kill()
    process.communicate(timeout=TIMEOUT_SECONDS)
    wait_until(lambda: all_locks_free(tmp_path))
    assert not list((tmp_path / "failures").rglob("*.json"))


def test_a_partly_written_file_is_no_record_and_a_run_completes_over_it(tmp_path: Path) -> None:
    (cell,) = make_cells(1)
    path = record_path(tmp_path, cell.protocol)
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.x1.tmp").write_text('{"schema": 1')
    assert load_records(tmp_path) == []
    finish(start(tmp_path, cells=1))
    assert [record.key for record in load_records(tmp_path)] == [cell.key]
