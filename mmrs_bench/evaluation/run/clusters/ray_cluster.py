"""Workers as Ray tasks.

A child process speaks to Ray, because Ray's library waits without an end for some addresses, does not react to Ctrl-C
meanwhile, and ends its process when the head is lost.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.evaluation.run.clusters.crew import Crew, Start
from mmrs_bench.evaluation.run.clusters.groups import Group, make_batches
from mmrs_bench.evaluation.run.clusters.profile import RayProfile
from mmrs_bench.evaluation.run.clusters.remote import (
    Options,
    Task,
    last_line,
    one_line,
    remote_work,
    shared_job,
    worker_variables,
)
from mmrs_bench.evaluation.run.jobs import Job
from mmrs_bench.evaluation.run.needs import Needs
from mmrs_bench.evaluation.run.pool import Replacements, Stage
from mmrs_bench.evaluation.run.processes import Child, redirect_output, start_child
from mmrs_bench.evaluation.run.stage_files import last_stages, new_stages
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


class _Order(NamedTuple):
    """Start a worker: what it computes, what it reserves, and the worker that must have ended well before."""

    name: str
    task: Task
    reserves: dict[str, Any]
    after: str


class _Cancel(NamedTuple):
    """End a worker, which is not reported any more."""

    name: str


class _Ended(NamedTuple):
    """A worker ended: its name, "" or why it died, and "" or the message of its `BenchError`."""

    name: str
    cause: str
    message: str


class RayPool:
    """Workers as Ray tasks.

    A worker reserves the CPUs, GPUs and memory that its cells need. The workers of cells that share a pretraining get
    the result of the task that trains it as an argument, so Ray starts them after it.

    The options are those of ``ray.init`` (``address=auto``), and ``num_gpus``, which each worker reserves in place of
    what its cells need. Dead workers are replaced. If this process ends, Ray ends the workers.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        options: Options,
        *,
        groups: Sequence[Group] = (),
        profile: RayProfile | None = None,
    ) -> None:
        self._job = shared_job(job)
        self._workers = workers
        self._groups = list(groups) or [Group(needs=Needs(), free=job.cells)]
        self._profile = profile or RayProfile(executor="ray")
        import_optional("ray", "--executor ray")
        self._options = {**self._profile.pool_options, **options}
        self._gpus = self._options.pop("num_gpus", None)
        wrong = isinstance(self._gpus, bool) or not isinstance(self._gpus, int | float | None)
        if wrong or (self._gpus or 0) < 0:
            raise ConfigError(f"--executor ray: num_gpus={self._gpus} is not a number of GPUs; use e.g. 1 or 0.5")
        self._log = self._job.results / "logs" / "ray.log"
        self._child: Child | None = None
        self._connected = False
        self._crew = Crew(self._job, self._groups, "ray")
        self._replacements = Replacements("Ray", self._log)
        self._stages: dict[str, list[Stage]] = {}
        self._variables = worker_variables(self._job)

    @property
    def alive(self) -> bool:
        """Whether any task runs or is queued."""
        return bool(self._crew.running)

    def __enter__(self) -> Self:
        self._child = start_child(_serve, {}, self._options, self._reservations(), self._variables, str(self._log))
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
            for starts in self._crew.first_starts(make_batches(self._groups, self._workers, [1] * len(self._groups))):
                for start in starts:
                    self._start(start)
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def _address(self) -> str:
        return f"the Ray cluster at address={self._options.get('address', os.environ.get('RAY_ADDRESS', 'auto'))}"

    def _reservations(self) -> list[dict[str, Any]]:
        """What the workers of each group reserve."""
        return [self._reserves(group) for group in self._groups]

    def _reserves(self, group: Group) -> dict[str, Any]:
        nodes = self._profile.nodes(group.needs)
        gpus = next((value for value in (self._gpus, nodes.gpus) if value is not None), group.needs.gpus)
        reserves: dict[str, Any] = {"num_cpus": self._job.execution.threads, "num_gpus": float(gpus)}
        if memory := max(group.needs.memory_gb or 0.0, nodes.memory_gb or 0.0):
            reserves["memory"] = int(memory * 1e9)
        return reserves | ({"resources": dict(nodes.resources)} if nodes.resources else {})

    def _start(self, start: Start) -> None:
        share = start.share
        task = Task(self._crew.job_of(share), start.worker, self._variables, share.rest)
        self._send(_Order(start.name, task, self._reserves(self._groups[share.group]), start.after))

    def _send(self, message: _Order | _Cancel) -> None:
        assert self._child is not None  # noqa: S101 - inside the context
        try:
            self._child.pipe.send(message)
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
        self._crew.running.clear()

    def poll(self) -> list[Stage]:
        """Wait, report stages, and replace the workers that died."""
        assert self._child is not None  # noqa: S101 - inside the context
        wait([self._child.pipe, self._child.process.sentinel], POLL_SECONDS)
        lost = self._child.process.exitcode is not None
        stages = new_stages(self._job, self._crew.running, self._stages)
        for message in _messages(self._child.pipe):
            if isinstance(message, _Refused):
                raise BenchError(f"--executor ray: {message.reason}; finished records are kept")
            if isinstance(message, _Ended):
                self._handle_end(message)
        if lost:
            raise self._lost()
        return stages

    def _handle_end(self, ended: _Ended) -> None:
        if ended.message:
            raise BenchError(ended.message)
        start = self._crew.running.get(ended.name)
        if start is None or not ended.cause:
            self._crew.ended(ended.name)
            return
        self._job.report_end(ended.name, ended.cause)
        replace = self._crew.is_needed(start)
        if replace:
            others, took_a_cell = len(self._crew.running) > 1, bool(last_stages(self._job, ended.name))
            killed = ended.cause in (KILLED, LOST)
            replace = self._replacements.allowed(ended.cause, killed=killed, took_a_cell=took_a_cell, others=others)
        follow = self._crew.died(ended.name, replace=replace)
        for name in follow.cancel:
            self._send(_Cancel(name))
        for again in follow.start:
            self._start(again)


def _messages(pipe: Connection) -> Iterator[Any]:
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, OSError):  # the other process has ended
        return


def _serve(
    pipe: Connection, options: dict[str, Any], reserves: list[dict[str, Any]], variables: dict[str, str], log: str
) -> None:
    """Main function of the child process: connect, start a task for each order received, report their ends."""
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
        if reason := next(filter(None, (_impossible(ray, of_group) for of_group in reserves)), ""):
            pipe.send(_Refused(reason))
            return
        pipe.send(_Connected())
        _run_tasks(ray, pipe)
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


def _impossible(ray: ModuleType, reserves: dict[str, Any]) -> str:
    custom = reserves.get("resources", {})
    return impossible(ray, reserves["num_cpus"], reserves["num_gpus"], reserves.get("memory", 0) / 1e9, custom)


def impossible(
    ray: ModuleType, cpus: float, gpus: float, memory_gb: float = 0.0, custom: Mapping[str, float] | None = None
) -> str:
    """Why no node of the cluster can run a worker; "" if one can."""
    wanted = {"CPU": cpus, "GPU": gpus, "memory": memory_gb * 1e9, **(custom or {})}
    nodes = [node.get("Resources", {}) for node in ray.nodes() if node.get("Alive", node.get("alive"))]
    if any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
        return ""
    most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
    if gpus > most["GPU"]:
        return f"no node of the cluster has num_gpus={gpus:g} (the most is {most['GPU']:g})"
    if wanted["memory"] > most["memory"]:
        return f"no node of the cluster has {memory_gb:g} GB for a worker (the most is {most['memory'] / 1e9:.1f} GB)"
    for name, count in (custom or {}).items():
        if count > most[name]:
            return f"no node of the cluster has the resource {name}={count:g} (the most is {most[name]:g})"
    return f"no node of the cluster has the CPUs ({cpus:g}) and GPUs ({gpus:g}) that a worker needs"


def _work(task: Task, after: object) -> str:
    """`remote_work`, once ``after`` is known, which is what another worker returned."""
    return remote_work(task)


def _run_tasks(ray: ModuleType, pipe: Connection) -> None:
    # Without retries: the claim counts attempts. One call per process, because libraries read the variables once.
    remote = ray.remote(max_retries=0, max_calls=1)(_work)
    tasks: dict[Any, str] = {}
    by_name: dict[str, Any] = {}
    while True:
        while pipe.poll(0 if tasks else POLL_SECONDS):
            message = pipe.recv()
            if message is None:
                for task in tasks:
                    ray.cancel(task, force=True)
                return
            if isinstance(message, _Cancel):
                task = by_name.pop(message.name)
                if tasks.pop(task, None):
                    ray.cancel(task, force=True)
                continue
            if reason := _impossible(ray, message.reserves):
                pipe.send(_Refused(reason))
                return
            task = remote.options(**message.reserves).remote(message.task, by_name.get(message.after))
            tasks[task], by_name[message.name] = message.name, task
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
