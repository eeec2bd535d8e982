"""MSFMamba as a method: accuracy, random streams, the order of the modalities, settings, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, make, small_data
from helpers.network_helpers import silent
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


def module_of(channels: dict[str, int], epochs: int = 4, **settings: Any) -> MsfMambaModule:
    module = MsfMambaModule(channels, 4, **{"window": 5, "width": 4, "states": 2, **settings})
    silent(module)
    module.trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    return module


def data_of(bands: dict[str, int], window: int = 5) -> SceneDataModule:
    return SceneDataModule(tiny_scene(striped_map(36, 40), bands=bands), DataConfig(window=window))


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=7)
    targets = data.query_targets
    accuracy = (fitted("msfmamba", tmp_path, data).predict(data, data.query) == targets).mean()
    majority = np.bincount(targets).max() / targets.size
    assert accuracy > majority + 0.3


def test_weights_depend_on_draw_and_seed_only(tmp_path: Path) -> None:
    """Only the draw of the context changes, not the support set."""
    data = small_data(2, window=5)
    one, again, seed, draw = (
        brief(tmp_path, data, **options).module.network.state_dict() for options in ({}, {}, {"seed": 1}, {"draw": 1})
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    for other in (seed, draw):
        assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("bands", [{"hsi": 5, "lidar": 2}, {"hsi": 4, "sar": 2, "dsm": 1}])
def test_a_loaded_network_predicts_the_same_with_modalities_in_any_order(bands: dict[str, int], tmp_path: Path) -> None:
    data = data_of(bands)
    method = brief(tmp_path, data)
    method.save(tmp_path / "saved")
    loaded = make("msfmamba", tmp_path, **BRIEF)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(data, ALL_PIXELS), method.predict(data, ALL_PIXELS))
    assert loaded.parameter_counts() == method.parameter_counts()


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


@pytest.mark.parametrize(("components", "channels"), [(3, 3), (30, 5), (None, 5)])
def test_components_replace_the_bands(components: int | None, channels: int, tmp_path: Path) -> None:
    data = small_data(2, window=5)
    method = brief(tmp_path, data, components=components)
    assert dict(method.blueprint.channels) == {"hsi": channels, "lidar": 2}
    served = data.with_components(components)
    covariance = np.cov(served.features(ALL_PIXELS, ["hsi"]), rowvar=False, ddof=0)
    assert np.allclose(covariance, np.eye(channels), atol=1e-3) == (components is not None), "whitened"


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
        brief(tmp_path, data_of(bands))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("window", "layers", "smallest"), [(3, 1, 5), (5, 2, 7)])
def test_a_window_that_is_too_small_is_refused(window: int, layers: int, smallest: int, tmp_path: Path) -> None:
    message = f"^window {window} is too small .* use a window of at least {smallest}"
    with pytest.raises(ConfigError, match=message) as caught:
        brief(tmp_path, small_data(2, window=window), layers=layers)
    assert "\n" not in str(caught.value)
    data = small_data(2, window=smallest)
    assert brief(tmp_path, data, layers=layers).predict(data, ALL_PIXELS[:3]).shape == (3,)


def test_a_training_step_changes_every_parameter_by_the_cross_entropy() -> None:
    torch.manual_seed(0)
    data = small_data(2, window=7)
    module = module_of(data.channels, window=7, width=6, states=4)
    batch = next(iter(data.train_dataloader()))
    loss = module.training_step(batch, 0)
    softmax = module.network(batch["windows"]).softmax(dim=1)
    expected = -torch.stack([softmax[i, k].log() for i, k in enumerate(batch["target"])]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()  # type: ignore[no-untyped-call]
    before = {name: values.detach().clone() for name, values in module.named_parameters()}
    optimizers = module.configure_optimizers()
    optimizers["optimizer"].step()
    assert [name for name, values in module.named_parameters() if torch.equal(values, before[name])] == []


def test_the_rate_falls_to_zero_or_is_constant() -> None:
    channels = {"hsi": 2, "sar": 1}
    falling = module_of(channels, learning_rate=0.01).configure_optimizers()
    rates = []
    for _ in range(5):
        rates.append(falling["optimizer"].param_groups[0]["lr"])
        falling["optimizer"].step()
        falling["lr_scheduler"].step()
    np.testing.assert_allclose(rates, [0.005 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(5)], atol=1e-12)
    constant = module_of(channels, schedule="constant", learning_rate=0.01).configure_optimizers()
    assert isinstance(constant, torch.optim.Adam)
    assert constant.param_groups[0]["lr"] == 0.01


def test_batch_size_and_symmetries_are_settings(tmp_path: Path) -> None:
    """20 support pixels are 3 batches of at most 8."""
    data = small_data(5, window=5)
    seen: list[float] = []
    plain = brief(tmp_path, data, batch_size=8, symmetries=False, progress=lambda stage, done: seen.append(done))
    assert len(seen) == 2 * 3 + 1
    augmented = brief(tmp_path, data, batch_size=8)
    assert not torch.equal(plain.module.network.head.weight, augmented.module.network.head.weight)


def test_the_chunk_of_the_prediction_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data(2, window=5)
    method = brief(tmp_path, data)
    expected = method.predict(data, ALL_PIXELS)
    monkeypatch.setattr(MsfMambaModule, "cpu_chunk", 7)
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), expected)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = MsfMambaConfig.model_validate(resolve_config(method_card("msfmamba"), "release", budget))
    assert (config.learning_rate, config.schedule, config.epochs, config.batch_size) == (1e-4, "constant", 40, 128)
    assert (config.components, config.layers, config.states, config.expand) == (30, 1, 16, 0.75)
