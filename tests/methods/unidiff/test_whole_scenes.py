"""Prediction of whole scenes: features of tiles are computed batch by batch, and not stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.unidiff.features import BATCH, TileFeatures
from mmrs_bench.methods.unidiff.method import UniDiff


def test_a_whole_scene_stores_no_features_and_is_classified_as_from_stored_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))
    data, reports, sizes = small_data(), [], []
    method = fitted("unidiff-tiny", tmp_path, data, tile=16, stride=8, progress=lambda *report: reports.append(report))
    assert isinstance(method, UniDiff)
    pixels, compute = np.arange(data.scene.labels.size), TileFeatures.compute

    def stored() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "cache" / "features").rglob("*.h5"))

    monkeypatch.setattr(TileFeatures, "compute", lambda self, tiles: sizes.append(len(tiles)) or compute(self, tiles))
    before = stored()
    reports.clear()
    found = method.predict(data, pixels)
    assert stored() == before
    assert sizes
    assert max(sizes) <= BATCH
    shares = [share for stage, share in reports if stage == "prediction"]
    assert len(shares) == len(reports) > 1
    assert shares == sorted(set(shares))
    assert shares[-1] == 1.0
    method.predict(data, data.query)
    assert stored() > before, "query pixels are shared by draws"
    np.testing.assert_array_equal(method.predict(data, pixels), found)
