"""A Ray cluster on this machine in a temporary folder: a head without CPUs, and two nodes of one CPU each.

Usage: ``python tests/clusters/ray_cluster.py start FOLDER`` prints the address; ``... stop FOLDER`` ends it.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusters import processes

SECONDS = 120
NODES = 2
ATTEMPTS = 4


def missing() -> str:
    """Why the cluster cannot run here; empty if it can."""
    return "" if importlib.util.find_spec("ray") else "not installed: ray (pip install 'mmrs-bench[ray]')"


def start(folder: Path) -> str:
    """Start the cluster; return its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = processes.free_port()
    address = f"127.0.0.1:{port}"
    place = folder if len(str(folder)) < 40 else Path(tempfile.mkdtemp(prefix="ray-"))  # sockets have short paths
    head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={place}"]
    try:
        _node(folder, "head", *head)
        processes.wait_until(lambda: _answers(port), f"start of the head, see {folder}", SECONDS)
        for number in range(NODES):  # one after the other, and again if one does not start on a busy machine
            _ = any(_node_starts(folder, f"node{number}-{attempt}", address) for attempt in range(ATTEMPTS))
    except RuntimeError:
        stop(folder)
        raise
    return address


def stop(folder: Path) -> None:
    """End all processes of the cluster."""
    processes.stop_all(folder)


def _node_starts(folder: Path, name: str, address: str) -> bool:
    """Start a node; return False if it ends at once."""
    process, output = _node(folder, name, f"--address={address}", "--num-cpus=1"), folder / f"{name}.out"
    settled = lambda: "runtime started" in output.read_text() or processes.has_ended(process)  # noqa: E731
    processes.wait_until(settled, f"start of {name}, see {folder}", SECONDS)
    if not processes.has_ended(process):
        return True
    (folder / f"{name}.process").unlink()
    return False


def _node(folder: Path, name: str, *arguments: str) -> int:
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000", *arguments]
    return processes.start(folder, name, command)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    action, place = sys.argv[1:]
    if action == "start":
        sys.stdout.write(f"{start(Path(place).resolve())}\n")
    else:
        stop(Path(place).resolve())
