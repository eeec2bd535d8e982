"""Code and commands in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def in_new_process(code: str, *arguments: str, **variables: str) -> str:
    """Run Python code; return what it prints. It must succeed."""
    done = run_python("-c", code, *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def command(*arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with arguments and further environment variables."""
    return run_python("-m", "mmrs_bench", *arguments, **variables)


def run_python(*arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments and further environment variables."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    words = [sys.executable, *arguments]
    return subprocess.run(words, capture_output=True, text=True, errors="replace", env=environment, timeout=200)
