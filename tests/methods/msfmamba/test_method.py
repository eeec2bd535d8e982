"""MSFMamba as a method: accuracy, random streams, the order of the modalities, settings, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, make, small_data
from helpers.tiny import striped_map, tiny_manifest, tiny_scene

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.msfmamba.method import MsfMambaConfig
from mmrs_bench.methods.msfmamba.module import MsfMambaModule
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene

ALL_PIXELS = np.arange(36 * 40)
#: Too small to learn.
BRIEF = {"width": 6, "states": 2, "epochs": 2}


def brief(folder: Path, data: SceneDataModule, **options: Any) -> Any:
    return fitted("msfmamba", folder, data, **{**BRIEF, **options})


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=7)
    targets = data.query_targets
    accuracy = (fitted("msfmamba", tmp_path, data, learns=True).predict(data, data.query) == targets).mean()
    majority = np.bincount(targets).max() / targets.size
    assert accuracy > majority + 0.3


def test_the_hsi_is_the_first_modality_for_any_order_in_the_manifest(tmp_path: Path) -> None:
    scene = small_data().scene
    reordered = {name: scene.images[name] for name in ("lidar", "hsi")}
    manifest = tiny_manifest(36, 40, 4, {name: image.shape[2] for name, image in reordered.items()})
    predictions = []
    for version in (scene, Scene(manifest, reordered, scene.ground_truth)):
        data = SceneDataModule(version, DataConfig(window=5))
        method = brief(tmp_path, data)
        assert tuple(method.module.network.modalities) == ("hsi", "lidar")
        predictions.append(method.predict(data, ALL_PIXELS))
    np.testing.assert_array_equal(*predictions)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"hsi": 5}, "needs a second modality beside the hsi"),
        ({"lidar": 2}, "needs an hsi, but the modalities are lidar"),
        ({"lidar": 1, "sar": 2}, "needs an hsi, but the modalities are lidar, sar"),
    ],
)
def test_unsuitable_modalities_are_refused(bands: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        brief(tmp_path, SceneDataModule(tiny_scene(striped_map(36, 40), bands=bands), DataConfig(window=5)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("window", "layers", "smallest"), [(3, 1, 5), (5, 2, 7)])
def test_a_window_that_is_too_small_is_refused(window: int, layers: int, smallest: int, tmp_path: Path) -> None:
    message = f"^window {window} is too small .* use a window of at least {smallest}"
    with pytest.raises(ConfigError, match=message) as caught:
        brief(tmp_path, small_data(2, window=window), layers=layers)
    assert "\n" not in str(caught.value)
    data = small_data(2, window=smallest)
    assert brief(tmp_path, data, layers=layers).predict(data, ALL_PIXELS[:3]).shape == (3,)


def test_the_rate_falls_to_zero_or_is_constant() -> None:
    module, constant = (
        MsfMambaModule({"hsi": 2, "sar": 1}, 4, width=4, learning_rate=0.01, schedule=schedule)
        for schedule in ("cosine", "constant")
    )
    module.trainer = L.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    falling = module.configure_optimizers()
    rates = []
    for _ in range(5):
        rates.append(falling["optimizer"].param_groups[0]["lr"])
        falling["optimizer"].step()
        falling["lr_scheduler"].step()
    np.testing.assert_allclose(rates, [0.005 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(5)], atol=1e-12)
    optimizer = constant.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    (group,) = optimizer.param_groups
    assert group["lr"] == 0.01
    assert len(group["params"]) == len(list(constant.parameters()))


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = MsfMambaConfig.model_validate(resolve_config(method_card("msfmamba"), "release", budget))
    assert (config.learning_rate, config.schedule, config.epochs, config.batch_size) == (1e-4, "constant", 40, 128)
    assert (config.components, config.layers, config.states, config.expand) == (30, 1, 16, 0.75)
    assert (config.width, config.drop_last) == (None, True)
    for name, changed in (("release-augsburg", {"states": 8}), ("release-berlin", {"layers": 2})):
        expected = config.model_copy(update=changed)
        assert MsfMambaConfig.model_validate(resolve_config(method_card("msfmamba"), name, budget)) == expected


@pytest.mark.parametrize(
    ("drop_last", "size", "sizes"),
    [(True, 8, [8, 8]), (True, 20, [20]), (True, 21, [20]), (False, 8, [7, 7, 6])],
)
def test_incomplete_batches_are_left_out_unless_they_are_the_only_ones(
    drop_last: bool, size: int, sizes: list[int], tmp_path: Path
) -> None:
    """Of 20 windows; every epoch leaves out others."""
    data = small_data(5, window=5)
    method = make("msfmamba", tmp_path, **BRIEF, batch_size=size, drop_last=drop_last)
    loader = method.loaders(data).train
    epochs = [list(loader) for _ in range(5)]
    assert all([len(batch["pixel"]) for batch in epoch] == sizes for epoch in epochs)
    seen = {int(pixel) for epoch in epochs for batch in epoch for pixel in batch["pixel"]}
    assert seen == {*data.support.tolist()}
