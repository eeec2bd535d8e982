"""Environments of users: variables, encodings, folder names and tools that are inherited from the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--methods", "majority", "--budget", "smoke", "--draws", "1", "--workers", "1")


def command(*arguments: str | bytes, cwd: bytes | Path, **variables: str) -> tuple[int, str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "mmrs_bench", *arguments], capture_output=True, env=environment, cwd=cwd, timeout=200
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "no-such-backend", "PYTHONIOENCODING": "ascii"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": "", "PYTHONIOENCODING": "latin-1"},
    ],
    ids=["unknown backend, ascii", "backend with display, latin-1"],
)
def test_inherited_variables_do_not_break_a_run(variables: dict[str, str], tmp_path: Path) -> None:
    status, out, err = command("run", *SMALL, "--results", "r", cwd=tmp_path, **variables)
    assert (status, len(err.splitlines())) == (0, 1), err
    assert "17.55" in out
    status, out, err = command("leaderboard", "--results", "r", cwd=tmp_path, **variables)
    assert (status, err) == (0, "")
    assert "17.55" in out


def test_folders_whose_names_are_not_utf8_work(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    status, _, err = command("run", *SMALL, "--results", b"r\xe9s", cwd=folder)
    assert (status, len(err.splitlines())) == (0, 1), err
    status, _, err = command("map", *SMALL[:4], "--results", b"r\xe9s", cwd=folder)
    assert status == 0, err
    assert os.listdir(folder + b"/r\xe9s/maps")
    status, _, err = command("leaderboard", "--results", b"r\xe9s", cwd=folder)
    assert (status, err) == (0, "")
    for arguments in (("--dataset", b"m\xe9.yaml"), ("--methods", b"m\xe9.yaml")):
        status, _, err = command("plan", *arguments, cwd=folder)
        assert (status, len(err.splitlines())) == (2, 1), err


def test_srun_on_the_path_changes_no_output(tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    path = f"{srun.parent}{os.pathsep}{os.environ['PATH']}"
    status, out, err = command("check", "cnn", cwd=tmp_path, PATH=path)
    assert status == 0, out
    assert "cnn: conforms" in out
    assert "srun" not in out + err
