"""Modalities that are missing in predictions: what stands in their place, and that nothing of them is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import refused
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import DataConfig, ProtocolConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.inference import InferenceDataModule
from mmrs_bench.scenes.scene import Scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(striped_map(40, 44), bands={"hsi": 5, "lidar": 2})


def windows(data: SceneDataModule, name: str) -> torch.Tensor:
    return torch.cat([batch["windows"][name] for batch in data.scene_dataloader()])


SETTINGS: dict[str, dict[str, Any]] = {
    "zscore": {},
    "minmax": {"normalisation": "minmax"},
    "cube": {"normalisation": "cube"},
    "support": {"normalisation_scope": "support"},
    "pca": {"pca": 3},
}


@pytest.mark.parametrize("missing", ["hsi", "lidar"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_missing_values_are_the_mean_of_the_normalised_pixels(settings: str, missing: str, scene: Scene) -> None:
    data = SceneDataModule(scene, window=5, **SETTINGS[settings])
    other = data.without([missing])
    scope = data.support if settings == "support" else np.arange(40 * 44)
    for name in data.modalities:
        if name == missing:
            mean = data.features(scope, [name]).mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(
                windows(other, name), np.broadcast_to(mean[:, None, None], windows(other, name).shape), atol=1e-5
            )
        else:
            assert torch.equal(windows(other, name), windows(data, name))
    if "normalisation" not in SETTINGS[settings]:
        assert not windows(other, missing).any(), "exactly 0"
    assert (other.channels, other.modalities, other.absent) == (data.channels, data.modalities, (missing,))
    assert data.without([]) is data
    assert data.without([missing]) is other
    assert data.images_sha256() != other.images_sha256()


def test_missing_values_do_not_reach_anything_that_a_method_sees(scene: Scene) -> None:
    noise = np.random.default_rng(0).normal(3, 2, scene.images["lidar"].shape).astype(np.float32)
    views = []
    for lidar in (scene.images["lidar"], noise):
        data = SceneDataModule(replace(scene, images={**scene.images, "lidar": lidar}), window=5).without(["lidar"])
        views.append((data, data.with_components(2), data.with_normalisation("zscore")))
    for one, other in zip(*views, strict=True):
        assert one.images_sha256() == other.images_sha256()
        np.testing.assert_array_equal(one.features(one.query), other.features(other.query))
    raw = views[0][0].scene.images
    np.testing.assert_allclose(
        raw["lidar"], np.broadcast_to(scene.images["lidar"].mean(axis=(0, 1)), noise.shape), rtol=1e-5
    )
    np.testing.assert_array_equal(raw["hsi"], scene.images["hsi"])


def test_components_and_scales_are_those_with_all_modalities(scene: Scene) -> None:
    data = SceneDataModule(scene, window=5)
    for changed in (data.without(["lidar"]).with_components(2), data.with_components(2).without(["lidar"])):
        assert torch.equal(windows(changed, "hsi"), windows(data.with_components(2), "hsi"))
        assert not windows(changed, "lidar").any()


def test_complete_data_have_all_modalities_of_the_same_protocol(scene: Scene) -> None:
    data = SceneDataModule(scene, window=5)
    assert data.complete is data
    for other, expected in (
        (data.without(["lidar"]), data),
        (data.without(["lidar"]).with_components(2), data.with_components(2)),
        (data.with_components(2).without(["lidar"]), data.with_components(2)),
    ):
        assert other.complete.images_sha256() == expected.images_sha256()
        assert other.complete.scene.images["lidar"] is scene.images["lidar"]


def test_loaders_of_a_dropping_protocol_miss_it_in_test_and_prediction_only(scene: Scene) -> None:
    data = SceneDataModule(scene, window=5, drop=["lidar"], selection="paper-val")
    plain = SceneDataModule(scene, window=5, selection="paper-val")
    for name in ("test", "predict"):
        for batch, other in zip(
            getattr(data, f"{name}_dataloader")(), getattr(plain, f"{name}_dataloader")(), strict=True
        ):
            assert not batch["windows"]["lidar"].any()
            assert torch.equal(batch["windows"]["hsi"], other["windows"]["hsi"])
            assert torch.equal(batch["pixel"], other["pixel"])
    for name in ("train", "val", "unlabelled"):
        for batch, other in zip(
            getattr(data, f"{name}_dataloader")(), getattr(plain, f"{name}_dataloader")(), strict=True
        ):
            assert torch.equal(batch["windows"]["lidar"], other["windows"]["lidar"])
    assert data.images_sha256() == plain.images_sha256(), "trainings share their caches"


def test_another_scene_misses_them_too(scene: Scene) -> None:
    data = InferenceDataModule(scene, DataConfig(window=5, drop=("lidar",)), {"hsi": 5, "lidar": 2}, {})
    assert not windows(data.without(["lidar"]), "lidar").any()
    assert torch.equal(windows(data.without(["lidar"]), "hsi"), windows(data, "hsi"))


@pytest.mark.parametrize(
    ("drop", "modalities", "message"),
    [
        (["sar"], [], "drop sar: methods see hsi and lidar; drop one of these"),
        (["lidar", "hsi"], [], "drop lidar hsi: methods see hsi and lidar only, so nothing would be left"),
        (["lidar"], ["hsi"], "drop lidar: methods see hsi; drop one of these"),
        (["hsi"], ["hsi"], "drop hsi: methods see hsi only, so nothing would be left"),
    ],
)
def test_impossible_drops_are_refused_in_one_line(
    drop: list[str], modalities: list[str], message: str, scene: Scene
) -> None:
    with refused(ConfigError, message):
        SceneDataModule(scene, drop=drop, modalities=modalities).setup()
    with refused(ConfigError, message):
        SceneDataModule(scene, modalities=modalities).without(drop)


def test_protocols_without_drop_are_those_of_earlier_versions() -> None:
    data = DataConfig(draw=3)
    assert "drop" not in data.canonical
    assert "drop" not in data.model_dump()
    protocol = ProtocolConfig(
        scene="a-r1",
        scene_fingerprint="00",
        data=data,
        budget="smoke",
        method="rf",
        variant="default",
        method_version=1,
        method_config={},
        code_version="0.1.0",
    )
    assert protocol.key == "6cee6aa84465217f"
    dropping = protocol.with_data(DataConfig(draw=3, drop=("lidar",)), 0)
    assert dropping.key != protocol.key
    assert ProtocolConfig.model_validate(dropping.model_dump(mode="json")) == dropping
