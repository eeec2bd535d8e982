"""Processes that a cluster of this machine consists of, each with a file ``NAME.process`` in the cluster's folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Processes that this process started, by process id; other processes end them by the files in the folder.
_STARTED: dict[int, subprocess.Popen[bytes]] = {}


def start(folder: Path, name: str, command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Start a process in a group of its own, with its output in ``NAME.out``; return its process id."""
    with (folder / f"{name}.out").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(variables or {})},
            start_new_session=True,
        )
    _STARTED[process.pid] = process
    (folder / f"{name}.process").write_text(str(process.pid))
    return process.pid


def has_ended(pid: int) -> bool:
    """Whether a process that this process started has ended."""
    return _STARTED[pid].poll() is not None


def stop_all(folder: Path) -> None:
    """End all processes of a cluster with their groups, in the reverse order of their names."""
    for path in sorted(folder.glob("*.process"), reverse=True):
        _end_group(int(path.read_text()))
        path.unlink()


def _end_group(group: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        if group in _STARTED:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _STARTED[group].wait(10)
        else:
            time.sleep(2)
    _STARTED.pop(group, None)


def free_port() -> int:
    """A port of this machine that no process listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str = "the condition", seconds: float = 60) -> None:
    """Wait for a condition; a `RuntimeError` reports that it did not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)
