"""Fixtures of the tests of UniDiff."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.unidiff_helpers import SMALL

from mmrs_bench.methods.unidiff import config as unidiff_config


@pytest.fixture
def small_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SMALL` is the backbone ``tiny``."""
    monkeypatch.setattr(unidiff_config, "ADM_TINY", SMALL)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for all tests of a file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(cache: Path, small_tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of a file share trainings and features, like the cells of a run."""
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(cache))
