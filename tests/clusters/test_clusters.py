"""Runs on a real Slurm and a real Ray cluster of this machine, while their workers are killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from clusters import campaign, ray_cluster, slurm_cluster

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("c")


@pytest.mark.parametrize(("name", "cluster"), [("slurm", slurm_cluster), ("ray", ray_cluster)])
def test_killed_workers_lose_no_cell_and_change_no_number(name: str, cluster: ModuleType, folder: Path) -> None:
    if reason := cluster.missing():
        pytest.skip(reason)
    figures = campaign.compare(name, folder, draws=2, every=20.0)
    expected = {"status": 0, "local status": 0, "cells": 8, "records": 8, "failures": 0, "differ": 0, "tracebacks": 0}
    assert {key: figures[key] for key in expected} == expected, figures


def run_ray(folder: Path, *options: str) -> subprocess.Popen[str]:
    if reason := ray_cluster.missing():
        pytest.skip(reason)
    arguments = campaign.command(folder, 1, "--executor", "ray", "--executor-options", *options)
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def test_a_ray_head_that_does_not_answer_is_named(folder: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        _, text = run_ray(folder, f"address={address}").communicate(timeout=90)
    (line,) = text.splitlines()
    assert line.startswith("mmrs-bench: error: --executor ray: ")
    assert address in line


def test_ctrl_c_ends_the_wait_for_a_ray_head(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = run_ray(folder, f"address=127.0.0.1:{silent.getsockname()[1]}")
        end = time.monotonic() + 60
        while not (folder / "logs" / "ray.log").exists():  # the child process tries to connect
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in text


def test_the_scripts_can_be_called(folder: Path) -> None:
    for module in (slurm_cluster, ray_cluster):
        assert module.__file__ is not None
        subprocess.run([sys.executable, module.__file__, "stop", str(folder)], check=True)
