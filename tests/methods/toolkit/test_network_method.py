"""The base of network methods: saved files, refused states, and the steps of fitting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import small_data
from safetensors.torch import load_file, save_file
from torch import nn

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod, description_file, weights_file
from mmrs_bench.scenes.datamodule import SceneDataModule

SETTINGS: dict[str, Any] = {"components": 3, "epochs": 4, "batch_size": 3, "symmetries": True, "rate": 0.1}


class Config(MethodConfig):
    components: int | None
    epochs: int
    batch_size: int
    symmetries: bool
    rate: float


class Network(nn.Module):
    """A linear layer on the means of all channels, half of it frozen."""

    def __init__(self, channels: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(channels.values()), classes)
        self.layer.bias.requires_grad_(False)

    def forward(self, windows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.layer(torch.cat([w.mean(dim=(2, 3)) for w in windows.values()], dim=1))
        return logits


class Module(ClassificationModule):
    def __init__(self, channels: dict[str, int], num_classes: int, *, rate: float) -> None:
        super().__init__(channels, num_classes)
        self.save_hyperparameters()
        self.network, self.rate = Network(channels, num_classes), rate

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=self.rate)


class Linear(NetworkMethod):
    Config = Config
    Module = Module
    name = "linear"
    title = "Linear"


def linear(folder: Path, seed: int = 0, **changes: Any) -> Linear:
    return Linear({**SETTINGS, **changes}, RunContext(seed, 0, folder))


@pytest.fixture
def data() -> SceneDataModule:
    return small_data()


@pytest.fixture
def saved(data: SceneDataModule, tmp_path: Path) -> Path:
    method = linear(tmp_path)
    method.fit(data)
    method.save(tmp_path / "saved")
    return tmp_path / "saved"


def test_fitting_uses_components_epochs_and_batches_of_the_settings(data: SceneDataModule, tmp_path: Path) -> None:
    progress: list[float] = []
    context = RunContext(0, 0, tmp_path, progress=lambda stage, share: progress.append(share))
    method = Linear(SETTINGS, context)
    method.fit(data)
    assert method.blueprint.channels == (("hsi", 3), ("lidar", 2))
    assert len(progress) == 4 * 3 + 1  # 8 support windows in batches of 3, 4 epochs
    assert method.parameter_counts() == (5 * 4 + 4, 5 * 4)


@pytest.mark.parametrize("symmetries", [False, True])
def test_training_windows_are_those_of_the_support_set_or_their_symmetries(
    symmetries: bool, data: SceneDataModule, tmp_path: Path
) -> None:
    method = linear(tmp_path, symmetries=symmetries)
    served = [*method.loaders(method.inputs(data)).train]
    np.testing.assert_array_equal(np.sort(torch.cat([batch["pixel"] for batch in served])), np.sort(data.support))
    plain = 0
    for batch in served:
        np.testing.assert_array_equal(batch["target"], data.scene.labels[batch["pixel"]] - 1)
        whole = method.inputs(data).add_windows({"pixel": batch["pixel"]})["windows"]
        plain += int((batch["windows"]["hsi"] == whole["hsi"]).flatten(1).all(dim=1).sum())
    assert (plain == len(data.support)) != symmetries


def test_initial_weights_depend_on_the_seed(data: SceneDataModule, tmp_path: Path) -> None:
    weights = []
    for seed in (0, 0, 1):
        method = linear(tmp_path, seed)
        method.create(method.inputs(data))
        weights.append(method.module.network.layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_paper_val_keeps_the_best_epoch(data: SceneDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str | None] = []
    monkeypatch.setattr(
        "mmrs_bench.methods.toolkit.training.fit", lambda *args, maximise, **options: chosen.append(maximise)
    )
    for some in (data, small_data(selection="paper-val")):
        linear(tmp_path).fit(some)
    assert chosen == [None, "val/OA"]


def test_a_loaded_method_predicts_the_same(data: SceneDataModule, saved: Path, tmp_path: Path) -> None:
    fitted, loaded = linear(tmp_path), linear(tmp_path)
    fitted.fit(data)
    loaded.load(saved)
    np.testing.assert_array_equal(fitted.predict(data, data.query), loaded.predict(data, data.query))
    assert not loaded.module.training


@pytest.mark.parametrize("settings", [{"window": 7}, {"modalities": ("hsi",)}])
def test_other_windows_or_channels_are_refused(settings: dict[str, Any], saved: Path, tmp_path: Path) -> None:
    method, other = linear(tmp_path), small_data(**settings)
    method.load(saved)
    message = r"^Linear was fitted to windows of 11 with channels hsi 3, lidar 2, but is to classify windows of .* hsi"
    with pytest.raises(ConfigError, match=message):
        method.predict(other, other.query)


def test_other_settings_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"was saved with other settings \(epochs, rate\); use the saved settings"):
        linear(tmp_path, epochs=5, rate=1.0).load(saved)


@pytest.mark.parametrize("file", [description_file, weights_file])
@pytest.mark.parametrize("content", [b"", b"cut off", None])
def test_a_missing_or_damaged_file_is_an_error(file: Any, content: bytes | None, saved: Path, tmp_path: Path) -> None:
    path = file(saved, "linear")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^\S*{path.name}: .*fit and save it again$"):
        linear(tmp_path).load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network.layer.bias": torch.tensor([0, 0, 0, float("nan")])},
            "network.layer.bias have values that are NaN or infinite",
        ),
        ({"network.layer.bias": torch.zeros(3)}, "the weights do not fit linear.json"),
        ({"other": torch.zeros(3)}, "the weights do not fit linear.json"),
    ],
)
def test_unusable_weights_are_refused(
    change: dict[str, torch.Tensor], message: str, saved: Path, tmp_path: Path
) -> None:
    path = weights_file(saved, "linear")
    save_file({**load_file(path), **change}, path)
    with pytest.raises(DataError, match=message):
        linear(tmp_path).load(saved)


def test_a_description_with_wrong_fields_is_refused(saved: Path, tmp_path: Path) -> None:
    path = description_file(saved, "linear")
    path.write_text(json.dumps({**json.loads(path.read_text()), "side": "wide"}))
    with pytest.raises(DataError, match=r"linear\.json: side: .*fit and save it again"):
        linear(tmp_path).load(saved)
