"""The spatial forest on real scenes, against accuracies of an independent implementation in 10 draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.method_helpers import make
from helpers.tiny import tiny_manifest

from mmrs_bench.config import DataConfig
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene


def lite_scene(folder: Path, name: str) -> Scene:
    with np.load(folder / f"{name}_lite.npz", allow_pickle=False) as arrays:
        truth = np.maximum(arrays["gt"].astype(np.int64), 0)
        images = {"hsi": arrays["rgb"].astype(np.float32), "lidar": arrays["lidar"].astype(np.float32)}
    bands = {modality: image.shape[2] for modality, image in images.items()}
    return Scene(tiny_manifest(*truth.shape, int(truth.max()), bands), images, truth)


@pytest.mark.parametrize(
    ("name", "shots", "expected", "deviation"),
    # At 40 shots the standard deviations are our own: the independent result is only a mean.
    [("trento", 2, 80.5, 5.2), ("trento", 40, 97.3, 1.3), ("muufl", 40, 78.7, 2.0)],
)
def test_rf_spatial_reaches_the_expected_accuracy(
    name: str, shots: int, expected: float, deviation: float, shared_data: Path, tmp_path: Path
) -> None:
    """The mean of three draws lies within 2.5 standard errors of the difference of two such means."""
    scene = lite_scene(shared_data, name)
    accuracy = []
    for draw in range(3):
        data = SceneDataModule(scene, DataConfig(shots=shots, draw=draw))
        # One choice: tuning takes most of the time and changes the mean by less than 1 %.
        method = make("rf-spatial", tmp_path, draw=draw, trees=300, max_features=("sqrt",))
        method.fit(data)
        accuracy.append(100 * (method.predict(data, data.query) == data.query_targets).mean())
    tolerance = 2.5 * deviation * np.sqrt(1 / 3 + 1 / 10)
    assert abs(np.mean(accuracy) - expected) < tolerance, accuracy
