"""A run of many cells while its workers are killed. ``python tests/clusters/campaign.py slurm|ray|local DRAWS SECONDS``
prints the figures: four cheap methods on the simulated scene, and one worker killed every SECONDS.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusters import ray_cluster, slurm_cluster

from mmrs_bench.evaluation.results.records import load_failures, load_records

METHODS = ("majority", "nearest-prototype", "rf", "svm")
TIMEOUT_SECONDS = 1500


def command(results: Path, draws: int, *options: str) -> list[str]:
    """The command line of a run."""
    suite = ["--datasets", "simulated", "--methods", *METHODS, "--draws", str(draws), "--budget", "smoke"]
    return [sys.executable, "-m", "mmrs_bench", "run", *suite, "--results", str(results), *options]


def bodies(results: Path) -> dict[str, dict[str, Any]]:
    """Bodies of all records by key, without the state of the checkout."""
    found = {record.key: record.body() for record in load_records(results)}
    for body in found.values():
        for name in ("commit", "dirty"):
            body["provenance"].pop(name)
    return found


def workers_of(results: Path) -> list[int]:
    """Processes that hold the lock of a cell of this results folder."""
    locks = {path.stat().st_ino for path in (results / "locks").glob("*.lock") if ".owner." not in path.name}
    holders = []
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and "->" not in fields and int(fields[5].rpartition(":")[2]) in locks:
            holders.append(int(fields[4]))
    return [pid for pid in holders if pid > 1]


def kill_worker(results: Path) -> str:
    """Kill a process that computes a cell with SIGKILL; "" if there is none."""
    holders = workers_of(results)
    if not holders:
        return ""
    pid = random.Random(len(holders)).choice(holders)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return ""
    return f"kill -9 {pid}"


def cancel_job(results: Path) -> str:
    """Cancel the Slurm job of a process that computes a cell; "" if there is none."""
    for pid in workers_of(results):
        variables = dict(
            text.split("=", 1) for text in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in text
        )
        array = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}" if "SLURM_ARRAY_JOB_ID" in variables else "{SLURM_JOB_ID}"
        job = array.format(**variables)
        subprocess.run(["scancel", job], env={**os.environ, "SLURM_CONF": variables["SLURM_CONF"]}, check=False)
        return f"scancel {job}"
    return ""


def run_while(
    arguments: list[str],
    variables: Mapping[str, str],
    interrupt: Callable[[int], str],
    every: float,
    timeout: float = TIMEOUT_SECONDS,
) -> tuple[int, str, list[str]]:
    """Run a command and interrupt its workers; return its exit status, standard error, and what was done."""
    done: list[str] = []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            arguments, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
        end = time.monotonic() + timeout
        due = time.monotonic() + every
        while process.poll() is None:
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
            if time.monotonic() > due:  # at fixed times: a worker that still imports modules is left alone
                due += every
                done += [what for what in [interrupt(len(done))] if what]
            time.sleep(0.05)
        log.seek(0)
        return process.returncode, log.read(), done


def compare(executor: str, folder: Path, draws: int, every: float) -> dict[str, Any]:
    """Run the cells on a cluster and locally; return the figures."""
    cluster, results, reference = folder / "c", folder / "results", folder / "reference"
    variables: dict[str, str] = {}
    options = ["--workers", "2", "--executor", executor]
    ways = [kill_worker, cancel_job] if executor == "slurm" else [kill_worker]
    module = {"slurm": slurm_cluster, "ray": ray_cluster}.get(executor)
    try:
        if executor == "slurm":
            variables = slurm_cluster.start(cluster)
        elif executor == "ray":
            options += ["--executor-options", f"address={ray_cluster.start(cluster)}"]
        start = time.monotonic()
        run = command(results, draws, *options)
        status, text, killed = run_while(run, variables, lambda count: ways[count % len(ways)](results), every)
        seconds = time.monotonic() - start
    finally:
        if module is not None:
            module.stop(cluster)
    local = subprocess.run(command(reference, draws), capture_output=True, text=True, check=False)
    found, expected = bodies(results), bodies(reference)
    return {
        "status": status,
        "seconds": round(seconds),
        "killed": len(killed),
        "interruptions": killed,
        "cells": len(expected),
        "records": len(found),
        "failures": len(load_failures(results)),
        "differ": sum(found.get(key) != body for key, body in expected.items()),
        "tracebacks": text.count("Traceback"),
        "local status": local.returncode,
        "last lines": text.splitlines()[-3:],
    }


if __name__ == "__main__":
    name, count, gap = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="mb-", dir=os.environ.get("CAMPAIGN_DIR")) as place:
        for key, value in compare(name, Path(place), int(count), float(gap)).items():
            sys.stdout.write(f"{key}: {value}\n")
