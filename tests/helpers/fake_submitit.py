"""A fake of submitit, whose jobs run in this process when their result is looked for."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mmrs_bench.evaluation.run.clusters import slurm
from mmrs_bench.evaluation.run.pool import worker_environment


class FakeTask:
    """A submitit job that runs when its result is looked for, or ends without one in a state."""

    def __init__(self, number: int, state: str, parameters: dict[str, Any], call: tuple[Any, ...]) -> None:
        self.job_id = f"7_{number}"
        self.state = state
        self.parameters = parameters
        self.arguments = call[1:]
        self.paths = types.SimpleNamespace(result_pickle=types.SimpleNamespace(exists=self._run))
        self._call = call
        self._result = ""
        self._error: Exception | None = None
        self.cancelled = False

    def _run(self) -> bool:
        if self.state == "RUNNING" and not self.cancelled and self._call:
            function, *arguments = self._call
            self._call = ()
            try:
                self._result = function(*arguments)
            except Exception as error:  # noqa: BLE001 - as submitit does
                self._error = error
        return self.state == "RUNNING" and not self._call

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> str:
        return self._result

    def cancel(self, check: bool) -> None:
        self.cancelled = True


class FakeExecutor:
    """Submitit's executor; ``states`` are those of the jobs in the order of submission, then RUNNING."""

    arguments: dict[str, Any]
    environment: str | None
    states: list[str]
    tasks: list[FakeTask]

    def __init__(self, **arguments: Any) -> None:
        type(self).arguments = arguments
        self.parameters: dict[str, Any] = {}

    def update_parameters(self, **parameters: Any) -> None:
        if "nonsense" in parameters:
            raise NameError("unknown argument nonsense")
        self.parameters = parameters

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield

    def submit(self, *call: Any) -> FakeTask:
        type(self).environment = os.environ.get("OMP_WAIT_POLICY")
        state = self.states.pop(0) if self.states else "RUNNING"
        task = FakeTask(len(self.tasks), state, self.parameters, call)
        self.tasks.append(task)
        return task


@pytest.fixture
def submitit(monkeypatch: pytest.MonkeyPatch) -> type[FakeExecutor]:
    """The fake in place of submitit and of Slurm's queue."""
    for name, value in worker_environment(1).items():  # workers in this process change its environment
        monkeypatch.setenv(name, value)
    module = types.ModuleType("submitit")
    module.AutoExecutor = FakeExecutor  # type: ignore[attr-defined]
    FakeExecutor.states, FakeExecutor.tasks = [], []
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "STATE_SECONDS", -1.0)
    monkeypatch.setattr(slurm, "UNKNOWN_SECONDS", -1.0)
    monkeypatch.setattr(
        slurm, "read_states", lambda: {task.job_id: task.state for task in FakeExecutor.tasks if task.state != "GONE"}
    )
    return FakeExecutor
