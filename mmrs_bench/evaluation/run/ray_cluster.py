"""Workers as Ray tasks.

A child process speaks to Ray, because Ray's library waits without an end for some addresses, does not react to Ctrl-C
meanwhile, and ends its process when the head is lost.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.clusters import (
    Options,
    last_line,
    one_line,
    remote_work,
    shared_job,
    worker_variables,
)
from mmrs_bench.evaluation.run.jobs import Job, Worker
from mmrs_bench.evaluation.run.pool import Replacements, Stage
from mmrs_bench.evaluation.run.processes import Child, redirect_output, start_child
from mmrs_bench.evaluation.run.stage_files import last_stage, new_stages
from mmrs_bench.io import end_with_parent
from mmrs_bench.plugins import import_optional

POLL_SECONDS = 1.0
#: Seconds until a Ray cluster must have answered.
CONNECT_SECONDS = 20.0

KILLED = "its Ray worker process was killed or crashed"
LOST = "its Ray node was lost"


class _Connected(NamedTuple):
    """The child process is connected."""


class _Refused(NamedTuple):
    """Ray, or its cluster, cannot do what the options ask for."""

    reason: str


class _Ended(NamedTuple):
    """A worker ended: its name, "" or why it died, and "" or the message of its `BenchError`."""

    name: str
    cause: str
    message: str


class RayPool:
    """Workers as Ray tasks.

    The options are those of ``ray.init`` (``address=auto``), and ``num_gpus``, which each worker reserves. Dead workers
    are replaced. If this process ends, Ray ends the workers.
    """

    def __init__(self, job: Job, workers: int, options: Options) -> None:
        self._job = shared_job(job)
        self._count = min(workers, len(job.cells))
        import_optional("ray", "--executor ray")
        self._options = dict(options)
        self._gpus = self._options.pop("num_gpus", 0)
        if isinstance(self._gpus, bool) or not isinstance(self._gpus, int | float) or self._gpus < 0:
            raise ConfigError(f"--executor ray: num_gpus={self._gpus} is not a number of GPUs; use e.g. 1 or 0.5")
        self._log = self._job.results / "logs" / "ray.log"
        self._child: Child | None = None
        self._connected = False
        self._running: set[str] = set()
        self._next = 0
        self._replacements = Replacements("Ray", self._log)
        self._stages: dict[str, Stage] = {}

    @property
    def alive(self) -> bool:
        """Whether any task runs or is queued."""
        return bool(self._running)

    def __enter__(self) -> Self:
        variables = worker_variables(self._job)
        self._child = start_child(_serve, {}, self._job, self._options, float(self._gpus), variables, str(self._log))
        try:
            wait([self._child.pipe], CONNECT_SECONDS)
            message = next(_messages(self._child.pipe), None)
            if isinstance(message, BenchError):
                raise message
            if not isinstance(message, _Connected):
                reason = message.reason if isinstance(message, _Refused) else f"{self._address} does not answer"
                raise ConfigError(
                    f"--executor ray: {reason}. Check --executor-options, and `ray status` on the head; Ray's messages "
                    f"are in {self._log}."
                )
            self._connected = True
            for _ in range(self._count):
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def _address(self) -> str:
        return f"the Ray cluster at address={self._options.get('address', os.environ.get('RAY_ADDRESS', 'auto'))}"

    def _start(self) -> None:
        assert self._child is not None  # noqa: S101 - inside the context
        number, self._next = self._next, self._next + 1
        worker = Worker(f"ray-{number}", number)
        self._running.add(worker.name)
        try:
            self._child.pipe.send(worker)
        except OSError as error:
            raise self._lost() from error

    def _lost(self) -> BenchError:
        return BenchError(
            f"{self._address} was lost; finished records are kept. Ray's messages are in {self._log}. Start the head "
            "again, then run the command again."
        )

    def __exit__(self, *error: object) -> None:
        if self._child is not None:
            if self._connected:  # let it cancel the tasks
                try:
                    self._child.pipe.send(None)
                    self._child.process.join(10)
                except OSError:
                    pass  # the process has ended
            else:  # Ray's library waits for the head
                self._child.process.kill()
            self._child.end()
            self._child.pipe.close()
            self._child.process.close()
            self._child = None
        self._running.clear()

    def poll(self) -> list[Stage]:
        """Wait, report stages, and replace the workers that died."""
        assert self._child is not None  # noqa: S101 - inside the context
        wait([self._child.pipe, self._child.process.sentinel], POLL_SECONDS)
        lost = self._child.process.exitcode is not None
        stages = new_stages(self._job, self._running, self._stages)
        for message in _messages(self._child.pipe):
            if isinstance(message, _Refused):
                raise BenchError(f"--executor ray: {message.reason}; finished records are kept")
            if isinstance(message, _Ended):
                self._handle_end(message)
        if lost:
            raise self._lost()
        return stages

    def _handle_end(self, ended: _Ended) -> None:
        self._running.discard(ended.name)
        if ended.message:
            raise BenchError(ended.message)
        if not ended.cause:
            return
        self._job.report_end(ended.name, ended.cause)
        took_a_cell = last_stage(self._job, ended.name) is not None
        killed = ended.cause in (KILLED, LOST)
        if self._replacements.allowed(ended.cause, killed=killed, took_a_cell=took_a_cell, others=self.alive):
            self._start()


def _messages(pipe: Connection) -> Iterator[Any]:
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, OSError):  # the other process has ended
        return


def _serve(
    pipe: Connection, job: Job, options: dict[str, Any], gpus: float, variables: dict[str, str], log: str
) -> None:
    """Main function of the child process: connect, start a task for each worker received, report their ends."""
    end_with_parent()
    try:
        redirect_output(Path(log))
        _check_answers(str(options.get("address") or os.environ.get("RAY_ADDRESS", "")))
        import ray

        ray.init(runtime_env={"env_vars": variables}, log_to_driver=False, **options)
    except BenchError as error:
        pipe.send(error)
        return
    except Exception as error:  # noqa: BLE001 - Ray raises many; the parent reports it
        pipe.send(_Refused(one_line(error).rstrip(".")))
        return
    try:
        if reason := impossible(ray, job.execution.threads, gpus):
            pipe.send(_Refused(reason))
            return
        pipe.send(_Connected())
        _run_tasks(ray, pipe, job, gpus, variables)
    except (EOFError, BrokenPipeError):  # the parent has ended
        return
    except Exception as error:  # noqa: BLE001 - Ray raises many; the parent reports it
        pipe.send(_Refused(one_line(error).rstrip(".")))
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise an `OSError` if nothing listens at ``host:port``, for which Ray's library would wait."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS / 2).close()
    except (OSError, OverflowError) as error:
        raise OSError(f"nothing answers at address={address} ({error})") from error


def impossible(ray: ModuleType, cpus: float, gpus: float) -> str:
    """Why no node of the cluster can run a worker; "" if one can."""
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive", node.get("alive"))]
    if any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        return ""
    most = max((node.get("GPU", 0) for node in nodes), default=0)
    if gpus > most:
        return f"no node of the cluster has num_gpus={gpus:g} (the most is {most:g})"
    return f"no node of the cluster has the CPUs ({cpus:g}) and GPUs ({gpus:g}) that a worker needs"


def _run_tasks(ray: ModuleType, pipe: Connection, job: Job, gpus: float, variables: dict[str, str]) -> None:
    # Without retries: the claim counts attempts. One call per process, because libraries read the variables once.
    settings = {"num_cpus": job.execution.threads, "num_gpus": gpus, "max_retries": 0, "max_calls": 1}
    remote = ray.remote(**settings)(remote_work)
    tasks: dict[Any, str] = {}
    while True:
        while pipe.poll(0 if tasks else POLL_SECONDS):
            worker = pipe.recv()
            if worker is None:
                for task in tasks:
                    ray.cancel(task, force=True)
                return
            if reason := impossible(ray, job.execution.threads, gpus):
                pipe.send(_Refused(reason))
                return
            tasks[remote.remote(job, worker, variables)] = worker.name
        ended = ray.wait(list(tasks), timeout=POLL_SECONDS)[0] if tasks else []
        for task in ended:
            pipe.send(_Ended(tasks.pop(task), *_end_of(ray, task)))


def _end_of(ray: ModuleType, task: Any) -> tuple[str, str]:
    """Why a worker died, and the message of its `BenchError`; each is "" if there is none."""
    errors = ray.exceptions
    try:
        return "", ray.get(task)
    except errors.OutOfMemoryError:
        return "its Ray worker ran out of memory, as Ray reports", ""
    except (errors.NodeDiedError, errors.LocalRayletDiedError):
        return LOST, ""
    except errors.WorkerCrashedError:
        return KILLED, ""
    except errors.RayError as error:
        return last_line(error), ""
