"""What stage 1 of BDGF refuses before any training: scenes, settings and hyperparameters that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.bdgf_helpers import CHANNELS, SIDE, cheap, pretrainer
from helpers.method_helpers import refused, small_data
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.datamodule import SceneDataModule


@pytest.fixture
def data() -> SceneDataModule:
    return small_data(window=SIDE)


@contextmanager
def refused_before_training(error: type[Exception], message: str, folder: Path) -> Iterator[None]:
    with refused(error, message):
        yield
    assert not [*folder.rglob("*.safetensors"), *folder.rglob("*.ckpt")]


@pytest.mark.parametrize(
    ("rule", "selected"),
    [("none", True), ("fixed", True), ("adaptive", True), ("gradient", True), ("adaptive", False)],
)
def test_scenes_with_one_modality_need_the_rule_none(rule: str, selected: bool, tmp_path: Path) -> None:
    data = small_data(window=SIDE, modalities=("hsi",))
    if not selected:
        data = SceneDataModule(tiny_scene(striped_map(36, 40), bands={"hsi": 5}), DataConfig(window=SIDE))
    method = cheap(tmp_path, mask_rule=rule)
    if rule == "none":
        method.pretrain(data)
        method.fit(data)
        assert method.predict(data, data.query).shape == data.query.shape
        return
    with refused_before_training(
        ConfigError, f"^mask_rule {rule} has nothing to balance: hsi.*variant mask-none", tmp_path
    ):
        method.pretrain(data)


@pytest.mark.parametrize(
    ("window", "changes", "message"),
    [
        (3, {"multipliers": (1, 2, 4), "mask_patch": 1}, "too small for 3 levels"),
        (1, {"mask_patch": 1, "mask_most": 0.4}, "too small for 2 levels"),
        (5, {"mask_patch": 5}, "a mask ratio of 0.75 masks all 1 squares.*nothing to learn"),
        (5, {"mask_patch": 5, "mask_rule": "gradient"}, "a mask ratio of 0.75 masks all 1 squares"),
        (5, {"mask_rule": "fixed", "mask_least": 1.0, "mask_most": 1.0}, "a mask ratio of 1 masks all 9 squares"),
        (5, {"mask_patch": 6}, "mask_patch 6 does not fit a window of 5 pixels; use 1 to 5"),
        (5, {"mask_least": 0.8}, "mask_least 0.8 and mask_most 0.75 must satisfy"),
    ],
)
def test_settings_that_do_not_fit_the_window_are_refused_before_the_training(
    window: int, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with refused_before_training(ConfigError, message, tmp_path):
        cheap(tmp_path, **changes).pretrain(small_data(window=window))


@pytest.mark.parametrize("components", [None, 3])
@pytest.mark.parametrize("name", ["hsi", "lidar"])
@pytest.mark.parametrize("where", ["everywhere", "in the normalisation scope"])
def test_a_constant_modality_is_refused_before_the_training(
    where: str, name: str, components: int | None, tmp_path: Path
) -> None:
    scene = small_data().scene
    image = scene.images[name].copy()
    image[:] = 0.1 + np.arange(image.shape[2], dtype=np.float32)  # sums of tenths are rounded
    scope: dict[str, Any] = {}
    if where == "in the normalisation scope":
        scope = {"normalisation_scope": "support"}
        support = small_data(window=SIDE).support
        elsewhere = np.setdiff1d(np.arange(image.shape[0] * image.shape[1]), support)
        image.reshape(-1, image.shape[2])[elsewhere[::2]] += 1
    constant = replace(scene, images={**scene.images, name: image})
    data = SceneDataModule(constant, DataConfig(window=SIDE, **scope))
    with refused_before_training(DataError, f"^modality {name} of scene tiny is constant", tmp_path):
        cheap(tmp_path, components=components).pretrain(data)


def test_a_constant_channel_among_others_is_accepted(tmp_path: Path) -> None:
    scene = small_data().scene
    image = scene.images["hsi"].copy()
    image[..., 2] = 7
    data = SceneDataModule(replace(scene, images={**scene.images, "hsi": image}), DataConfig(window=SIDE))
    cheap(tmp_path).pretrain(data)


OUT_OF_RANGE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("base", "blocks", "mask_warmup", "mask_every", "mask_temperature", "pretrain_rate"), (0,)),
    **{"mask_rule": ("random",), "mask_most": (1.5,), "mask_decay": (1.0,), "mask_whole": (1.0,), "width": (6, 52)},
    **{"multipliers": ((), (1, 0)), "timesteps": ((), (1000,), (-1,)), "branches": ((), ("cnn", "cnn"), ("rnn",))},
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused_by_name(name: str, tmp_path: Path) -> None:
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(ConfigError, match=f"settings of Bdgf: {name}"):
            cheap(tmp_path, **{name: value})


def test_fixed_masks_may_have_a_bound_of_one() -> None:
    """They mask half of each of two modalities, where adaptive masks could mask all of one."""
    assert pretrainer(mask_rule="fixed", mask_most=1.0).ratios() == dict.fromkeys(CHANNELS, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_rule": "random"}, "mask_rule random is unknown; use one of none, fixed"),
        ({"mask_every": 0}, "mask_every 0 at least 1"),
        ({"mask_temperature": 0.0}, "mask_temperature 0.0 must be positive"),
        ({"mask_whole": 1.0}, "mask_whole is 1.0"),
        ({"loss_weights": "pixels"}, "loss_weights is pixels"),
        ({"mask_patch": 0}, "mask_patch 0 does not fit"),
        ({"blocks": 0}, "blocks 0 .* must be at least 1"),
        ({"mask_most": 1.0}, "masks all 9 squares"),
    ],
)
def test_a_module_with_impossible_hyperparameters_is_refused(changes: dict[str, Any], message: str) -> None:
    with refused(ConfigError, message):
        pretrainer(**changes)
