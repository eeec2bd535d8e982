"""Environments of users: variables, encodings, folder names and tools that are inherited from the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.new_process import command

SMALL = ("--methods", "majority", "--budget", "smoke", "--draws", "1", "--workers", "1")


@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "no-such-backend", "PYTHONIOENCODING": "ascii"},
        pytest.param({"MPLBACKEND": "TkAgg", "DISPLAY": "", "PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    ],
    ids=["unknown backend, ascii", "backend with display, latin-1"],
)
def test_inherited_variables_do_not_break_a_run(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("run", *SMALL, "--results", "r", **variables)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 2), done.stderr
    assert "17.55" in done.stdout
    done = command("leaderboard", "--results", "r", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert "17.55" in done.stdout


def test_folders_whose_names_are_not_utf8_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    monkeypatch.chdir(os.fsdecode(folder))
    for arguments, lines in ((("run", *SMALL), {2}), (("map", *SMALL[:4]), range(9)), (("leaderboard",), {0})):
        done = command(*arguments, "--results", b"r\xe9s")
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) in lines, done.stderr
    assert os.listdir(folder + b"/r\xe9s/maps")
    for option in ("--dataset", "--methods"):
        done = command("plan", option, b"m\xe9.yaml")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


@pytest.mark.slow
def test_srun_on_the_path_changes_no_output(tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    done = command("check", "cnn", PATH=f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout
    assert "cnn: conforms" in done.stdout
    assert "srun" not in done.stdout + done.stderr
