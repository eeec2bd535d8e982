"""Local workers in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.fake_cells import log_lines, make_cells, make_job, run_fakes, run_job

from mmrs_bench.config import usable_cores
from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.results.records import load_failures, load_records
from mmrs_bench.evaluation.run.pool import worker_environment


def test_the_first_worker_of_a_process_ignores_ctrl_c(tmp_path: Path) -> None:
    """multiprocessing starts its resource tracker with the first process, which unblocks the signal."""
    script = Path(__file__).parents[2] / "helpers" / "run_fake_job.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "1", "1", "reports_environment"], check=True)
    assert log_lines(tmp_path)[-1] == "SIGINT blocked: True"


def test_workers_start_with_the_right_environment_and_keep_the_terminal_clean(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    assert run_fakes(tmp_path, make_cells(1), "reports_environment") == 0
    expected = " ".join(f"{name}={value}" for name, value in worker_environment(1).items())
    assert log_lines(tmp_path) == [expected, "SIGINT blocked: True"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert dict(os.environ) == before
    shown = capfd.readouterr()
    assert "prints something" not in shown.out + shown.err
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text() == "a library prints something\n"


def test_a_killed_worker_fails_only_its_cell(tmp_path: Path) -> None:
    assert run_fakes(tmp_path, make_cells(6), "dies_on_draw_1", keep_going=True) == 1
    assert [record.protocol.data.draw for record in load_records(tmp_path)] == [0, 2, 3, 4, 5]
    (failure,) = load_failures(tmp_path)
    assert failure.protocol.data.draw == 1
    assert "ended 3 times before the cell was finished: killed by signal 9 (SIGKILL). If memory" in failure.message


def test_a_cell_whose_worker_was_killed_is_computed_again(tmp_path: Path) -> None:
    assert run_fakes(tmp_path, make_cells(4), "dies_twice_on_draw_1") == 0
    assert len(load_records(tmp_path)) == 4
    assert log_lines(tmp_path).count("start 1") == 3
    assert [path.suffix for path in (tmp_path / "locks").iterdir() if path.suffix not in (".lock", "")] == []


def test_a_worker_that_cannot_write_ends_the_run_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file where a folder is needed")
    (tmp_path / "failures").write_text("a file where a folder is needed")
    with pytest.raises(BenchError, match="cannot write"):
        run_job("local", make_job(tmp_path, make_cells(2)), 1)


def test_a_log_that_cannot_be_written_ends_the_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where a folder is needed")
    with pytest.raises(BenchError, match="logs: cannot be used"):
        run_job("local", make_job(tmp_path, make_cells(2)))


def test_workers_that_fail_before_their_first_cell_are_not_replaced_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmrs_bench.evaluation.run.local._work_and_report", os._exit)  # a pipe is no exit code
    with pytest.raises(BenchError, match=r"local workers die before they take a cell \(ended with exit code 1\)"):
        run_job("local", make_job(tmp_path, make_cells(2)))


def test_usable_cores_are_those_of_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
