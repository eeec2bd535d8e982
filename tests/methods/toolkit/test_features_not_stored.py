"""Features that are computed when they are read, and not stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmrs_bench.errors import DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract
from mmrs_bench.scenes.scene import IntArray

SHAPES = {"coarse": (2,), "fine": (1, 3)}
CONTEXT = RunContext(seed=0, draw=0, work_dir=Path("never used"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Network:
    """Features that are made of the row's number; remembers what was computed."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, rows: IntArray) -> dict[str, torch.Tensor]:
        self.rows += rows.tolist()
        values = torch.from_numpy(rows).float() / 7
        return {"coarse": torch.stack([values, -values], 1), "fine": values[:, None, None].expand(-1, 1, 3) + 0.1}


def features(rows: list[int], network: Network, *, store: bool) -> FeatureStore:
    return load_or_extract({}, np.array(rows), SHAPES, network, CONTEXT, store=store)


def test_nothing_is_written_and_the_values_are_those_of_stored_features(cache: Path) -> None:
    network, order = Network(), np.array([8, 3, 3, 5])
    read = features([3, 5, 8], network, store=False).read(order)
    assert not cache.exists()
    assert network.rows == [3, 5, 8], "each row of a call is computed once"
    stored = features([3, 5, 8], Network(), store=True).read(order)
    assert all(torch.equal(read[name], stored[name]) for name in SHAPES)


def test_stored_rows_are_read_and_only_the_others_computed() -> None:
    features([3, 8], Network(), store=True)
    network, order = Network(), np.array([9, 8, 5, 3, 9])
    read = features([3, 5, 8, 9], network, store=False).read(order)
    assert network.rows == [5, 9]
    expected = Network()(order)
    assert all(torch.equal(read[name], expected[name].half()) for name in SHAPES)


def test_what_stored_features_refuse_is_refused_too() -> None:
    def broken(rows: IntArray) -> dict[str, torch.Tensor]:
        return {name: torch.full((len(rows), *shape), 1e6) for name, shape in SHAPES.items()}

    rows = np.array([4])
    with pytest.raises(TrainingError, match=r"'coarse' has values that are beyond ±65504, .* first in row 4"):
        load_or_extract({}, rows, SHAPES, broken, CONTEXT, store=False).read(rows)
    with pytest.raises(DataError, match="features of row 5 were not extracted"):
        features([4], Network(), store=False).read(np.array([5]))
