"""Executors: the table and its use by runs and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import pytest
from helpers.fake_cells import log_lines, make_cells, make_job, run_fakes

from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.evaluation.run.executors import EXECUTORS, make_pool
from mmrs_bench.evaluation.run.jobs import Job, work
from mmrs_bench.evaluation.run.pool import Stage


class InProcessPool:
    """An executor of one class: one worker, in this process."""

    def __init__(self, job: Job, workers: int, options: Mapping[str, str]) -> None:
        self._job = job
        self.alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def poll(self) -> list[Stage]:
        stages: list[Stage] = []
        work(self._job, lambda key, name, done: stages.append(Stage(key, name, done)))
        self.alive = False
        return stages


def test_an_executor_is_one_class_and_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(EXECUTORS, "in-process", f"{__name__}:InProcessPool")
    assert run_fakes(tmp_path, make_cells(3), "quick", executor="in-process") == 0
    assert len(load_records(tmp_path)) == 3
    assert {line.split()[2] for line in log_lines(tmp_path)} == {str(os.getpid())}
    line = refused("run", "--executor", "in-process", "--methods", "nothing")
    assert "unknown method 'nothing'" in line, "the command line does not accept the executor"
    with pytest.raises(ConfigError, match="unknown executor 'in-procces': did you mean in-process"):
        make_pool("in-procces", make_job(tmp_path, make_cells(1)), 1, {})
