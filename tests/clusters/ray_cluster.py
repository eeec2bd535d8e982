"""A Ray cluster on this machine in a temporary folder: a head without CPUs, and two nodes of one CPU each.

Usage: ``python tests/clusters/ray_cluster.py start FOLDER`` prints the address; ``... stop FOLDER`` ends it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = 120
NODES = 2
ATTEMPTS = 4
#: Processes that this process started, by process id.
_STARTED: dict[int, subprocess.Popen[bytes]] = {}


def missing() -> str:
    """Why the cluster cannot run here; empty if it can."""
    return "" if importlib.util.find_spec("ray") else "not installed: ray (pip install 'mmrs-bench[ray]')"


def start(folder: Path) -> str:
    """Start the cluster; return its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    address = f"127.0.0.1:{port}"
    place = folder if len(str(folder)) < 40 else Path(tempfile.mkdtemp(prefix="ray-"))  # sockets have short paths
    head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={place}"]
    _node(folder, "head", *head)
    _wait(folder, lambda: _answers(port), "the head")
    for number in range(NODES):  # one after the other, and again if one does not start on a busy machine
        for attempt in range(ATTEMPTS):
            name = f"node{number}-{attempt}"
            _node(folder, name, f"--address={address}", "--num-cpus=1")
            output, process = folder / f"{name}.out", int((folder / f"{name}.process").read_text())
            _wait(folder, lambda: "runtime started" in output.read_text() or _STARTED[process].poll() is not None, name)  # noqa: B023
            if _STARTED[process].poll() is None:
                break
            (folder / f"{name}.process").unlink()
    return address


def stop(folder: Path) -> None:
    """End all processes of the cluster."""
    for path in sorted(folder.glob("*.process"), reverse=True):
        end_group(int(path.read_text()))
        path.unlink()


def end_group(group: int) -> None:
    """End a process group that this script started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        if group in _STARTED:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _STARTED[group].wait(10)
        else:
            time.sleep(2)
    _STARTED.pop(group, None)


def _node(folder: Path, name: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", *arguments]
    with (folder / f"{name}.out").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    _STARTED[process.pid] = process
    (folder / f"{name}.process").write_text(str(process.pid))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _wait(folder: Path, condition: object, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            stop(folder)
            raise RuntimeError(f"{what} did not start within {SECONDS} s; see the logs in {folder}")
        time.sleep(0.2)


if __name__ == "__main__":
    action, place = sys.argv[1:]
    if action == "start":
        sys.stdout.write(f"{start(Path(place).resolve())}\n")
    else:
        stop(Path(place).resolve())
