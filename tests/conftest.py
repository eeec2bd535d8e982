"""Shared fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.small_release import LocalServer, local_server

import mmrs_bench  # noqa: F401 - before lightning, see mmrs_bench/_torchvision_guard.py
from mmrs_bench.cli import main

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real measurements beside the checkout; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data beside the checkout (../shared/data) is absent")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path) -> Iterator[None]:
    """Give every test its own data and cache folders, even if the test undoes its own patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_DATA", str(tmp_path / "data-root"))
        patch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache-root"))
        yield


@pytest.fixture
def same_start() -> None:
    """Networks of a test start with the same weights in every run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """A web server of this machine."""
    with local_server() as running:
        yield running


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls the command line; returns what it prints to standard output."""

    def call(*arguments: object, status: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == status
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls the command line with arguments that it refuses; returns the only line of the error."""

    def call(*arguments: object, progress: int = 0) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()[progress:]
        assert line.startswith("mmrs-bench: error: ")
        assert shown.out == ""
        return line

    return call
