"""MSFMamba as a method: learns from few labels, puts the HSI first, and refuses what it cannot fuse or scan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import fitted, make, small_data
from helpers.tiny import striped_map, tiny_manifest, tiny_scene
from safetensors.torch import load_file, save_file

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.msfmamba import method as msfmamba
from mmrs_bench.methods.msfmamba.method import MsfMambaConfig, MsfMambaModule
from mmrs_bench.methods.msfmamba.network import MSFMamba
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene

ALL_PIXELS = np.arange(36 * 40)
#: Enough to run through everything, too little to learn.
BRIEF = {"width": 6, "states": 2, "epochs": 2}


def brief(folder: Path, data: SceneDataModule, **options: Any) -> Any:
    return fitted("msfmamba", folder, data, **{**BRIEF, **options})


def data_of(bands: dict[str, int], window: int = 5) -> SceneDataModule:
    return SceneDataModule(tiny_scene(striped_map(36, 40), bands=bands), DataConfig(window=window))


def test_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=7)
    targets = data.query_targets
    accuracy = (fitted("msfmamba", tmp_path, data).predict(data, data.query) == targets).mean()
    majority = np.bincount(targets).max() / targets.size
    assert accuracy > majority + 0.3


def test_weights_hang_on_draw_and_seed_only(tmp_path: Path) -> None:
    """The draw is that of the context alone here, so that the support set is the same."""
    data = small_data(2, window=5)
    one, again, seed, draw = (
        brief(tmp_path, data, **options)._network.state_dict() for options in ({}, {}, {"seed": 1}, {"draw": 1})
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    for other in (seed, draw):
        assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize("bands", [{"hsi": 5, "lidar": 2}, {"hsi": 4, "sar": 2, "dsm": 1}])
def test_saved_and_loaded_it_predicts_the_same(bands: dict[str, int], tmp_path: Path) -> None:
    """Not even the order of the modalities gets lost, which the second stem's channels stand in."""
    data = data_of(bands)
    method = brief(tmp_path, data)
    method.save(tmp_path / "saved")
    loaded = make("msfmamba", tmp_path, **BRIEF)
    loaded.load(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.predict(data, ALL_PIXELS), method.predict(data, ALL_PIXELS))
    assert loaded.parameter_counts() == method.parameter_counts()


def test_the_hsi_comes_first_wherever_the_manifest_has_it(tmp_path: Path) -> None:
    scene = small_data().scene
    turned = {name: scene.images[name] for name in ("lidar", "hsi")}
    manifest = tiny_manifest(36, 40, 4, {name: image.shape[2] for name, image in turned.items()})
    predictions = []
    for version in (scene, Scene(manifest, turned, scene.ground_truth)):
        data = SceneDataModule(version, DataConfig(window=5))
        method = brief(tmp_path, data)
        assert tuple(method._network.modalities) == ("hsi", "lidar")
        predictions.append(method.predict(data, ALL_PIXELS))
    np.testing.assert_array_equal(*predictions)


@pytest.mark.parametrize(("components", "channels"), [(3, 3), (30, 5), (None, 5)])
def test_components_take_the_place_of_the_bands(components: int | None, channels: int, tmp_path: Path) -> None:
    data = small_data(2, window=5)
    method = brief(tmp_path, data, components=components)
    assert dict(method._blueprint.channels) == {"hsi": channels, "lidar": 2}
    served = data.with_components(components)
    covariance = np.cov(served.features(ALL_PIXELS, ["hsi"]), rowvar=False, ddof=0)
    assert np.allclose(covariance, np.eye(channels), atol=1e-3) == (components is not None), "whitened"


@pytest.mark.parametrize("modality", ["hsi", "lidar"])
def test_one_modality_is_told(modality: str, tmp_path: Path) -> None:
    data = small_data(2, modalities=(modality,))
    message = {"hsi": "the method sees hsi alone; add a second modality", "lidar": "sees lidar; add modality hsi"}
    with pytest.raises(ConfigError, match=message[modality]) as caught:
        brief(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_modalities_without_an_hsi_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the method sees lidar, sar; add modality hsi"):
        brief(tmp_path, data_of({"lidar": 1, "sar": 2}))


@pytest.mark.parametrize(("window", "layers", "smallest"), [(3, 1, 5), (5, 2, 7)])
def test_a_window_that_is_too_small_is_told(window: int, layers: int, smallest: int, tmp_path: Path) -> None:
    message = f"^window {window} is too small .* use a window of at least {smallest}"
    with pytest.raises(ConfigError, match=message) as caught:
        brief(tmp_path, small_data(2, window=window), layers=layers)
    assert "\n" not in str(caught.value)
    data = small_data(2, window=smallest)
    assert brief(tmp_path, data, layers=layers).predict(data, ALL_PIXELS[:3]).shape == (3,)


def test_a_training_step_moves_every_parameter() -> None:
    """The gradient of the mean of -log p, where p is what the network gives the right class."""
    torch.manual_seed(0)
    data = small_data(2, window=7)
    module = MsfMambaModule(MSFMamba(data.channels, 7, 4, width=6, states=4), MsfMambaConfig())
    module.log = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    batch = data.add_windows(next(iter(data.train_dataloader())))
    loss = module.training_step(batch, 0)
    shares = module.network(batch["windows"]).softmax(dim=1)
    expected = -torch.stack([shares[i, k].log() for i, k in enumerate(batch["target"])]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()  # type: ignore[no-untyped-call]
    before = {name: values.detach().clone() for name, values in module.named_parameters()}
    optimizers = module.configure_optimizers()
    optimizers["optimizer"].step()
    assert [name for name, values in module.named_parameters() if torch.equal(values, before[name])] == []


def test_the_rate_falls_to_zero_or_stays() -> None:
    network = MSFMamba({"hsi": 2, "sar": 1}, 5, 3, width=4, states=2)
    falling = MsfMambaModule(network, MsfMambaConfig(epochs=4, learning_rate=0.01)).configure_optimizers()
    rates = []
    for _ in range(5):
        rates.append(falling["optimizer"].param_groups[0]["lr"])
        falling["optimizer"].step()
        falling["lr_scheduler"].step()
    np.testing.assert_allclose(rates, [0.005 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(5)], atol=1e-12)
    constant = MsfMambaModule(network, MsfMambaConfig(schedule="constant", learning_rate=0.01)).configure_optimizers()
    assert isinstance(constant, torch.optim.Adam)
    assert constant.param_groups[0]["lr"] == 0.01


def test_batches_and_symmetries_are_those_of_the_settings(tmp_path: Path) -> None:
    """At 5 shots of 4 classes, batches of at most 8 are 3 an epoch."""
    data = small_data(5, window=5)
    seen: list[float] = []
    still = brief(tmp_path, data, batch_size=8, symmetries=False, progress=lambda stage, done: seen.append(done))
    assert len(seen) == 2 * 3 + 1
    turned = brief(tmp_path, data, batch_size=8)
    assert not torch.equal(still._network.head.weight, turned._network.head.weight)


def test_how_many_windows_are_classified_at_once_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_data(2, window=5)
    method = brief(tmp_path, data)
    expected = method.predict(data, ALL_PIXELS)
    monkeypatch.setattr(msfmamba, "CPU_CHUNK", 7)
    np.testing.assert_array_equal(method.predict(data, ALL_PIXELS), expected)
    assert len(set(expected)) > 1


def test_paper_val_keeps_a_state_that_is_no_worse_on_the_validation_pixels(tmp_path: Path) -> None:
    chosen, last = small_data(2, window=5, selection="paper-val"), small_data(2, window=5)
    accuracy = {}
    for data in (chosen, last):
        method = brief(tmp_path / data.config.selection, data, epochs=6, learning_rate=0.01)
        prediction = method.predict(data, chosen.validation)
        accuracy[data.config.selection] = (prediction == chosen.validation_targets).mean()
    assert chosen.validation.size == 200
    assert accuracy["paper-val"] >= accuracy["last"]


def test_other_inputs_than_those_it_was_fitted_to_are_told(tmp_path: Path) -> None:
    method = brief(tmp_path, small_data(2, window=5))
    with pytest.raises(ConfigError, match=r"fitted to windows of 5 with .*, but is to classify windows of 7 with"):
        method.predict(small_data(2, window=7), ALL_PIXELS)
    with pytest.raises(ConfigError, match=r"channels hsi 5, lidar 2, but is to classify .* channels hsi 5, sar 2; fit"):
        method.predict(data_of({"hsi": 5, "sar": 2}), ALL_PIXELS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("msfmamba")
    brief(folder, small_data(2, window=5)).save(folder / "saved")
    return folder / "saved"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def _one_nan(file: Path) -> None:
    weights = load_file(file)
    weights["head.bias"][0] = float("nan")
    save_file(weights, file)


def _more_classes(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "class_names": list("abcde")}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("msfmamba.json", _cut, "no saved msfmamba can be read here"),
        ("msfmamba.safetensors", _cut, "no saved msfmamba can be read here"),
        ("msfmamba.safetensors", _one_nan, "head.bias hold values that are not numbers"),
        ("msfmamba.json", _more_classes, "the weights do not fit msfmamba.json beside them"),
    ],
)
def test_a_damaged_model_is_one_clear_line(
    file: str, damage: Callable[[Path], None], message: str, saved: Path, tmp_path: Path
) -> None:
    for name in ("msfmamba.json", "msfmamba.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    damage(tmp_path / file)
    with pytest.raises(DataError, match=f"{message}.*; fit and save it again") as caught:
        make("msfmamba", tmp_path, **BRIEF).load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_of_other_settings_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"saved with other settings \(width, epochs\)"):
        make("msfmamba", tmp_path, **{**BRIEF, "width": 8, "epochs": 3}).load(saved)


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_is_the_released_optimisation_under_every_budget(budget: Any) -> None:
    config = MsfMambaConfig.model_validate(resolve_config(method_card("msfmamba"), "release", budget))
    assert (config.learning_rate, config.schedule, config.epochs, config.batch_size) == (1e-4, "constant", 40, 128)
    assert (config.components, config.layers, config.states, config.expand) == (30, 1, 16, 0.75)


def test_the_cards_settings_are_the_classes_defaults() -> None:
    assert MsfMambaConfig.model_validate(method_card("msfmamba").config) == MsfMambaConfig()
