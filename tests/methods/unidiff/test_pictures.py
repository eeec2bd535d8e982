"""Pictures of a scene, their rows of the class embedding, random crops, and refused protocols."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.method_helpers import refused
from helpers.unidiff_helpers import NAMES, picture_data, picture_scene, settings

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.unidiff import pictures as unidiff_pictures
from mmrs_bench.methods.unidiff.pictures import drift_numbers, picture_row, picture_rows, scene_pictures
from mmrs_bench.scenes.datamodule import SceneDataModule

pytestmark = pytest.mark.usefixtures("small_tiny")


def test_rows_are_the_published_ones() -> None:
    assert [picture_row(name) for name in ("rgb", "pca", "sar", "dsm", "lidar")] == [1, 2, 3, 4, 4]
    assert [picture_row(name) for name in ("lidar0", "lidar1", "dsm2")] == [4, 5, 6]
    for name in ("hsi", "rgb0", "sar1", ""):
        with pytest.raises(ConfigError, match="unknown picture"):
            picture_row(name)


def test_pictures_are_selected_by_name_or_kind() -> None:
    data = picture_data()
    for kinds, expected in (
        ((), NAMES),
        (("lidar", "rgb"), ("rgb", "lidar0", "lidar1")),
        (("rgb", "lidar1"), ("rgb", "lidar1")),
    ):
        found = scene_pictures(settings(pictures=kinds), data)
        assert tuple(found.images) == expected
        assert (len(found.grid), found.grid.tile, found.grid.stride) == (16, 16, 8)


def test_the_hash_depends_on_the_selected_pictures_and_their_content() -> None:
    data, other = picture_data(), SceneDataModule(picture_scene(seed=1))
    assert scene_pictures(settings(pictures=NAMES), data).sha256 == scene_pictures(settings(), data).sha256
    hashes = [scene_pictures(settings(pictures=k), d).sha256 for k in ((), ("rgb",)) for d in (data, other)]
    assert len(set(hashes)) == 4


@pytest.mark.parametrize(
    ("changes", "protocol", "message"),
    [
        ({}, {"normalisation_scope": "support"}, "normalisation_scope support.*whole scene; set pca to none"),
        ({}, {"unlabelled": "train-blocks", "split": "block-v1", "window": 3}, "unlabelled train-blocks.*whole scene"),
        ({}, {"pca": 3}, "^pca 3, .*raw bands"),
        ({"pictures": ("rgb", "dsm")}, {}, "unknown picture of scene tiny 'dsm'.*Known: lidar, .*pca, rgb, sar"),
        ({"anchored": False}, {"modalities": ("sar",)}, "are sar, but the backbone tiny .*hsi to the modalities"),
        ({"backbone": "imagenet"}, {"modalities": ("sar",)}, "are sar, but .*anchored to false"),
        ({"anchored": False, "pictures": ("rgb",)}, {}, "without anchoring, stage A needs a picture other than rgb"),
        ({"tile": 128}, {}, r"raster \(36 x 40 pixels\) is too small for tiles of 128"),
        ({}, {"bands": {"hsi": 5, "dsm": 1, "lidar": 4}}, "have rows .* expected different ones below 8; select fewer"),
    ],
)
def test_unsuitable_settings_and_protocols_are_refused(
    changes: dict[str, Any], protocol: dict[str, Any], message: str
) -> None:
    with refused(ConfigError, message):
        scene_pictures(settings(**changes), picture_data(**protocol))


def test_pictures_of_a_scene_have_rows_of_their_own_and_the_dsm_its_published_one() -> None:
    assert picture_rows(["rgb", "pca", "lidar", "sar", "dsm"]) == [1, 2, 5, 3, 4]
    assert picture_rows(["rgb", "lidar0", "lidar1", "dsm0", "dsm1"]) == [1, 6, 7, 4, 5]
    assert picture_rows(["rgb", "lidar0", "lidar1"], 8) == [picture_row(name) for name in ("rgb", "lidar0", "lidar1")]
    assert tuple(scene_pictures(settings(), picture_data(bands={"hsi": 5, "dsm": 1, "lidar": 1})).images) == (
        "rgb",
        "pca",
        "dsm",
        "lidar",
    )
    with pytest.raises(ConfigError, match="expected different ones"):
        picture_rows(["rgb", "rgb"])


@pytest.mark.parametrize("changes", [{"anchored": False}, {"adaptation": "none"}])
def test_the_pseudo_rgb_is_optional_without_anchoring(changes: dict[str, Any]) -> None:
    found = scene_pictures(settings(backbone="imagenet", **changes), picture_data(modalities=("sar",)))
    assert tuple(found.images) == ("sar",)


def test_drift_tiles_are_spread_over_the_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = scene_pictures(settings(), picture_data()).grid
    assert drift_numbers(grid).tolist() == [*range(16)]
    monkeypatch.setattr(unidiff_pictures, "DRIFT_TILES", 4)
    assert drift_numbers(grid).tolist() == [0, 5, 10, 15]
