"""Targets of the Makefile: the commands they run, and their errors."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from mmrs_bench.paths import REPOSITORY


def make(*words: str) -> subprocess.CompletedProcess[str]:
    # A new environment: these tests may run inside another make, whose variables must not apply here.
    own = {"PATH": os.environ["PATH"]}
    return subprocess.run(["make", *words], cwd=REPOSITORY, env=own, capture_output=True, text=True, timeout=60)


def executable(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose console script prints its arguments, one per line."""
    folder = tmp_path / "my env"
    executable(folder / "bin" / "mmrs-bench", 'printf "%s\\n" "$@"')
    return folder


def test_targets_are_the_commands() -> None:
    words = ["bench", "DATASET=trento muufl", "SHOTS=2 5", "METHODS=svm rf", "DRAWS=10", "BUDGET=paper", "RESULTS=r"]
    if not (REPOSITORY / ".venv/bin/mmrs-bench").exists():
        pytest.skip("there is no .venv in the checkout")
    expected = (
        ".venv/bin/mmrs-bench run --datasets trento muufl --splits random-v1 --shots 2 5 --methods svm rf --draws 10 "
        "--budget paper --results r"
    )
    assert shlex.split(make("--dry-run", *words).stdout) == expected.split()


@pytest.mark.parametrize("target", ["bench", "plan", "map"])
def test_arguments_may_contain_blanks(target: str, venv: Path, tmp_path: Path) -> None:
    manifest, card = tmp_path / "my folder" / "it's mine.yaml", tmp_path / "my folder" / "card.yaml"
    manifest.parent.mkdir()
    manifest.write_text("")
    card.write_text("")
    results = tmp_path / "my results"
    done = make(target, f"VENV={venv}", f"DATASET={manifest}", f"METHODS={card}", "SHOTS=2 5", f"RESULTS={results}")
    arguments = done.stdout.splitlines()
    assert {str(manifest), str(card), str(results), "2", "5"} <= set(arguments), done.stderr


def test_targets_before_set_up_say_so_in_one_line(tmp_path: Path) -> None:
    for target in ("bench", "plan", "leaderboard", "test", "lint"):
        done = make(target, f"VENV={tmp_path / 'none'}")
        (line,) = done.stderr.splitlines()
        assert "run make setup first" in line
        assert done.returncode == 2


@pytest.mark.parametrize("environment_exists", [False, True])
def test_set_up_refuses_an_old_python_before_it_makes_an_environment(environment_exists: bool, tmp_path: Path) -> None:
    text = 'case "$1" in --version) echo "Python 3.10.4";; *) exit 1;; esac'
    old = executable(tmp_path / "python3.10", text)
    venv = tmp_path / "venv"
    if environment_exists:
        executable(venv / "bin" / "python", text)
    done = make("setup", f"VENV={venv}", f"PYTHON={old}")
    assert done.returncode == 2
    assert "is Python 3.10.4, and Python 3.11 or newer is needed" in done.stderr.splitlines()[0]
    assert venv.exists() is environment_exists
    assert "there is no nothing" in make("setup", f"VENV={tmp_path / 'none'}", "PYTHON=nothing").stderr.splitlines()[0]
