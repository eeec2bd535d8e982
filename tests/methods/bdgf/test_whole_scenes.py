"""Prediction of whole scenes: features are computed batch by batch, and not stored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bdgf_helpers import SIDE, cheap
from helpers.method_helpers import small_data

from mmrs_bench.evaluation.prediction import classify_all
from mmrs_bench.methods.bdgf.features import DiffusionFeatures
from mmrs_bench.methods.bdgf.method import Bdgf
from mmrs_bench.scenes.datamodule import SceneDataModule

BATCH = 100


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data() -> SceneDataModule:
    made = small_data(window=SIDE)
    made.inference_batch = BATCH
    return made


def fitted(folder: Path, data: SceneDataModule, progress: Callable[[str, float], None] = lambda *report: None) -> Bdgf:
    method = cheap(folder, progress=progress)
    method.pretrain(data)
    method.fit(data)
    return method


def feature_files(folder: Path) -> dict[str, int]:
    """Bytes of the files in the feature cache, its locks included."""
    files = (folder / "cache" / "features").rglob("*")
    return {str(path): path.stat().st_size for path in files if path.is_file()}


def every_pixel(data: SceneDataModule) -> Any:
    return np.arange(data.scene.labels.size)


def test_a_whole_scene_writes_no_features_computes_a_batch_at_a_time_and_reports_every_batch(
    tmp_path: Path, data: SceneDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[tuple[str, float]] = []
    method, computed = fitted(tmp_path, data, lambda *report: reports.append(report)), []
    before, compute = feature_files(tmp_path), DiffusionFeatures.compute

    def spy(self: DiffusionFeatures, pixels: Any) -> Any:
        computed.append(pixels)
        return compute(self, pixels)

    monkeypatch.setattr(DiffusionFeatures, "compute", spy)
    reports.clear()
    method.predict(data, every_pixel(data))
    assert feature_files(tmp_path) == before
    assert max(map(len, computed)) <= BATCH
    assert {stage for stage, _ in reports} == {"prediction"}
    shares = [share for _, share in reports]
    assert all(first < second for first, second in pairwise([0.0, *shares]))
    assert (len(shares), shares[-1]) == (-(-data.scene.labels.size // BATCH), 1.0)


def test_the_map_is_the_same_from_stored_features(
    tmp_path: Path, data: SceneDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without stored features, with those of the cell's query, and with those of all pixels."""
    method = fitted(tmp_path, data)
    without = method.predict(data, every_pixel(data))
    assert len(np.unique(without)) > 1
    query = method.predict(data, data.query)
    size = sum(feature_files(tmp_path).values())
    np.testing.assert_array_equal(method.predict(data, every_pixel(data)), without)
    assert sum(feature_files(tmp_path).values()) == size
    method._features(data).load_or_extract(every_pixel(data))
    monkeypatch.setattr(DiffusionFeatures, "compute", lambda *arguments: pytest.fail("computed again"))
    np.testing.assert_array_equal(method.predict(data, every_pixel(data)), without)
    np.testing.assert_array_equal(method.predict(data, data.query), query)


def test_an_interrupted_map_leaves_no_features(
    tmp_path: Path, data: SceneDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stage: str, done: float) -> None:
        if stage == "prediction" and done > 0.5:
            raise KeyboardInterrupt

    method = fitted(tmp_path, data, interrupt)
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        method.predict(data, every_pixel(data))
    assert not (tmp_path / "cache").exists()


def test_the_map_is_the_same_in_any_number_of_threads(tmp_path: Path, data: SceneDataModule) -> None:
    """Features and scores of the parts of a batch are computed at once."""
    data.inference_batch = 200  # more than three parts
    method = fitted(tmp_path, data)
    one = classify_all(method, data, 1)
    assert method.context.execution.threads == 1
    three = classify_all(method, data, 3)
    assert method.context.execution.threads == 3
    for found, expected in zip(three, one, strict=True):
        np.testing.assert_array_equal(found, expected)
