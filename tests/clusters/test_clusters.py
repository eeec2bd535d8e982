"""Runs on a real Slurm and a real Ray cluster of this machine, while their workers are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from clusters import campaign, ray_cluster, slurm_cluster
from clusters.processes import free_port, wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c")


@pytest.mark.parametrize(("name", "cluster"), [("slurm", slurm_cluster), ("ray", ray_cluster)])
def test_killed_workers_lose_no_cell_and_change_no_number(name: str, cluster: ModuleType, folder: Path) -> None:
    if reason := cluster.missing():
        pytest.skip(reason)
    figures = campaign.compare(name, folder, draws=2, every=20.0)
    expected = {"status": 0, "local status": 0, "cells": 8, "records": 8, "failures": 0, "differ": 0, "tracebacks": 0}
    assert {key: figures[key] for key in expected} == expected, figures


def test_a_slurm_time_out_and_a_killed_driver_lose_no_cell(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal of a time limit puts the job back into the queue; the jobs of a killed driver go on."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    arguments = campaign.command(tmp_path, 2, "--workers", "1", "--executor", "slurm")
    try:
        for name, value in slurm_cluster.start(folder).items():
            monkeypatch.setenv(name, value)
        driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: campaign.workers_of(tmp_path) != [], "a worker", 300)
        subprocess.run(["scancel", "--signal", "USR2", job_ids()[0]], check=True)
        wait_until(lambda: "Requeued job" in logs(tmp_path), "a requeued job", 300)
        wait_until(lambda: campaign.workers_of(tmp_path) != [], "a worker", 300)
        driver.kill()
        driver.wait()
        assert job_ids(), "the jobs ended with the driver"
        again = subprocess.run(arguments, capture_output=True, text=True, check=False)
    finally:
        slurm_cluster.stop(folder)
    assert again.returncode == 0, again.stderr
    assert "Traceback" not in again.stderr
    assert len(campaign.bodies(tmp_path)) == 8


def job_ids() -> list[str]:
    ask = ["squeue", "--noheader", "--array", "--format=%i"]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()


def logs(results: Path) -> str:
    return "".join(path.read_text() for path in (results / "logs" / "submitit").glob("*.out"))


def run_ray(folder: Path, *options: str) -> subprocess.Popen[str]:
    if reason := ray_cluster.missing():
        pytest.skip(reason)
    arguments = campaign.command(folder, 1, "--executor", "ray", "--executor-options", *options)
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_a_ray_head_that_does_not_answer_is_named(folder: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    _, text = run_ray(folder, f"address={address}").communicate(timeout=90)
    estimate, line = text.splitlines()
    assert estimate.startswith("4 cells to compute")
    assert line.startswith("mmrs-bench: error: --executor ray: ")
    assert address in line


def test_ctrl_c_ends_the_wait_for_a_ray_head(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = run_ray(folder, f"address=127.0.0.1:{silent.getsockname()[1]}")
        wait_until((folder / "logs" / "ray.log").exists, "a child process that tries to connect", 60)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in text


def test_the_scripts_can_be_called(folder: Path) -> None:
    for module in (slurm_cluster, ray_cluster):
        assert module.__file__ is not None
        subprocess.run([sys.executable, module.__file__, "stop", str(folder)], check=True)


@pytest.mark.slow
def test_a_killed_pretraining_of_a_detached_run_cancels_what_waits_for_it_and_the_next_run_resumes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    suite = ["--datasets", "simulated", "--methods", "bdgf-cnn", "--draws", "3", "--budget", "smoke"]
    run = [sys.executable, "-m", "mmrs_bench", "run", *suite, "--results", str(results), "--executor", "slurm"]
    try:
        for name, value in slurm_cluster.start(folder).items():
            monkeypatch.setenv(name, value)
        subprocess.run([*run, "--detach"], check=True)
        wait_until(lambda: campaign.workers_of(results) != [], "a worker", 300)
        assert len(job_ids()) > 1
        os.kill(campaign.workers_of(results)[0], signal.SIGKILL)
        wait_until(lambda: job_ids() == [], "the end of all jobs", 120)
        watch = [sys.executable, "-m", "mmrs_bench", "watch", str(results), "--once"]
        shown = subprocess.run(watch, capture_output=True, text=True, check=True).stdout
        assert "of this run have ended; run the same command again" in " ".join(shown.split())
        subprocess.run([*run, "--detach"], check=True)
        wait_until(lambda: len(campaign.bodies(results)) == 3, "all cells", 600)
        wait_until(lambda: list((results / "locks").glob("*.plan")) == [], "the end of the run", 60)
    finally:
        slurm_cluster.stop(folder)
