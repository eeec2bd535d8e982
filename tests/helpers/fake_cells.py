"""Cells and cell functions without torch and scenes, for tests of the code that runs cells."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.synthetic_records import make_record

from mmrs_bench.config import DataConfig, ExecutionConfig, ProtocolConfig
from mmrs_bench.errors import TrainingError
from mmrs_bench.evaluation.cells import Cell
from mmrs_bench.evaluation.results.provenance import measured
from mmrs_bench.evaluation.results.records import record_path
from mmrs_bench.evaluation.results.schema import Record
from mmrs_bench.evaluation.run.executors import execute, make_pool
from mmrs_bench.evaluation.run.jobs import Job, stale_outcomes
from mmrs_bench.evaluation.run.pool import worker_environment
from mmrs_bench.evaluation.run.session import run_cells

EXECUTION = ExecutionConfig()

Callback = Callable[..., None]


def make_cells(count: int, *, scenes: int = 1, method: str = "fake") -> list[Cell]:
    return [
        Cell(
            dataset="simulated",
            protocol=ProtocolConfig(
                scene=f"fake{number % scenes}-r1",
                scene_fingerprint=f"{number % scenes:064x}",
                data=DataConfig(draw=number // scenes),
                budget="smoke",
                method=method,
                variant="default",
                method_version=1,
                method_config={},
            ),
        )
        for number in range(count)
    ]


def fake_record(
    cell: Cell, execution: ExecutionConfig = EXECUTION, seconds: float = 0.0, predict: float = 0.0
) -> Record:
    """A record whose numbers depend only on the cell's key; ``seconds`` are those of its fitting."""
    a, b, c, d = hashlib.sha256(cell.key.encode()).digest()[:4]
    record = make_record(protocol=cell.protocol, confusion=((a + 1, b), (c, d + 1)), simulated=True)
    return record.model_copy(
        update={"execution": execution, "measured": measured({"fit": seconds, "predict": predict})}
    )


def make_job(
    results: Path, cells: Sequence[Cell], compute: str = "quick", *, force: bool = False, keep_going: bool = False
) -> Job:
    stale = stale_outcomes(results, cells, force=force)
    compute = f"helpers.fake_cells:{compute}"
    job = Job(results, tuple(cells), EXECUTION, keep_going=keep_going, stale=stale, compute=compute)
    job.open()
    return job


def run_job(executor: str, job: Job, workers: int = 2, **options: Any) -> list[str]:
    """Run a job; return the keys of its cells in the order of their outcomes."""
    keys: list[str] = []
    pool = make_pool(executor, job, workers, options)
    execute(job, pool, on_stage=no_stage, on_outcome=lambda cell, path: keys.append(cell.key))
    return keys


def run_fakes(results: Path, cells: Sequence[Cell], compute: str, *, workers: int = 2, **options: Any) -> int:
    return run_cells(cells, results, EXECUTION, workers=workers, compute=f"helpers.fake_cells:{compute}", **options)


def no_stage(key: str, stage: str, done: float) -> None:
    pass


def log_lines(results: Path) -> list[str]:
    path = results / "computed.log"
    return path.read_text().splitlines() if path.exists() else []


def _log(results: Path, text: str) -> None:
    handle = os.open(results / "computed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def quick(cell: Cell, execution: ExecutionConfig, results: Path, progress: Callback, wait: Callback) -> Record:
    """Logs the call, and whether the cell had a record already."""
    _log(results, f"{'AGAIN' if record_path(results, cell.protocol).exists() else 'once'} {cell.key} {os.getpid()}")
    progress("fit", 0.5)
    return fake_record(cell, execution)


def slow(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    record = quick(cell, execution, results, *callbacks)
    time.sleep(0.03)
    return record


def endless(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    record = quick(cell, execution, results, *callbacks)
    time.sleep(600)
    return record


def fails_on_draw_1(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    if cell.protocol.data.draw == 1 and not (results / "repaired").exists():
        raise TrainingError("the loss is NaN;\nlower the learning rate")
    return quick(cell, execution, results, *callbacks)


def defect_on_draw_1(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    if cell.protocol.data.draw == 1:
        raise ZeroDivisionError("no such luck")
    return quick(cell, execution, results, *callbacks)


def waits_on_draw_0(
    cell: Cell, execution: ExecutionConfig, results: Path, progress: Callback, wait: Callback
) -> Record:
    if cell.protocol.data.draw == 0:
        wait("another")
    return fake_record(cell, execution)


def dies_on_draw_1(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    if cell.protocol.data.draw == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(cell, execution, results, *callbacks)


def reports_environment(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    names = worker_environment(1)
    _log(results, " ".join(f"{name}={os.environ.get(name)}" for name in names))
    _log(results, f"SIGINT blocked: {signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())}")
    sys.stdout.write("a library prints something\n")
    return fake_record(cell, execution)


def dies_twice_on_draw_1(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    _log(results, f"start {cell.protocol.data.draw}")
    if cell.protocol.data.draw == 1 and log_lines(results).count("start 1") < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_record(cell, execution)


def injects_fault_on_draw_1(cell: Cell, execution: ExecutionConfig, results: Path, *callbacks: Callback) -> Record:
    """Replaces the path that the file ``fault`` names, beside the results folder, in the way that it names."""
    fault = results.parent / "fault"
    if cell.protocol.data.draw == 1 and fault.exists():
        name, way = fault.read_text().split()
        fault.unlink()
        path = results / name
        if path.exists():
            path.rename(results.parent / "moved")
        if way == "file":
            path.write_text("a file")
        elif way == "folder":
            path.mkdir()
        elif way == "fifo":
            os.mkfifo(path)
        elif way == "symlink":
            path.symlink_to(results.parent / "elsewhere")
    return fake_record(cell, execution)
