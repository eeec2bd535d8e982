"""Coupled CNNs as a method: accuracy, weights of the outputs, settings, and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from helpers.coupled_cnn_reference import weights
from helpers.method_helpers import fitted, refused, small_data
from helpers.module_cases import trainer

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.coupled_cnn.method import CoupledCnnConfig
from mmrs_bench.methods.coupled_cnn.module import CoupledCnnModule
from mmrs_bench.scenes.datamodule import SceneDataModule


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=7)
    targets = data.query_targets
    accuracy = (fitted("coupled-cnn", tmp_path, data, learns=True).predict(data, data.query) == targets).mean()
    majority = np.bincount(targets).max() / targets.size
    assert accuracy > majority + 0.3


def expected_weights(module: CoupledCnnModule, data: SceneDataModule) -> torch.Tensor:
    """The weights from all support windows at once, without symmetries."""
    batch = next(iter(data.pixel_dataloader(data.support, data.support_targets)))
    with torch.no_grad():
        found = module.network.eval().outputs(batch["windows"]).argmax(dim=2).T.tolist()
    return torch.tensor(weights(found, batch["target"].tolist(), data.num_classes))


def test_after_training_the_weights_are_those_of_the_support(tmp_path: Path) -> None:
    data = small_data(5, window=5)
    method = fitted("coupled-cnn", tmp_path, data, epochs=2, symmetries=False)
    module = method.module
    torch.testing.assert_close(module.network.weights, expected_weights(module, method.inputs(data)))
    assert module.network.weights.std(dim=0).max() > 0, "the outputs find different windows"
    assert not module.network.training


class WeightsAtValidation(L.Callback):
    """Records for each epoch whether the weights are up to date at the first validation batch."""

    def __init__(self, data: SceneDataModule) -> None:
        self.data, self.right = data, list[bool]()

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if batch_idx == 0:
            self.right.append(torch.allclose(module.network.weights, expected_weights(module, self.data)))


def test_validation_sees_the_weights_of_its_epoch(tmp_path: Path) -> None:
    data = SceneDataModule(small_data().scene, shots=5, window=5, selection="paper-val", batch_size=7, augment=False)
    callback = WeightsAtValidation(data)
    own = trainer(tmp_path, 3, callbacks=[callback], num_sanity_val_steps=0)
    module = CoupledCnnModule(data.channels, data.num_classes)
    own.fit(module, datamodule=data)
    assert callback.right == [True, True, True]
    kept = module.network.weights.clone()
    own.validate(module, datamodule=data, verbose=False)
    assert torch.equal(module.network.weights, kept), "only training changes the weights"
    trainer(tmp_path, 1, limit_val_batches=0).fit(module, datamodule=data)
    torch.testing.assert_close(module.network.weights, expected_weights(module, data))


def test_validation_leaves_batch_statistics_alone(tmp_path: Path) -> None:
    data = SceneDataModule(small_data().scene, shots=5, window=5, selection="paper-val", batch_size=7)
    found: list[bool] = []

    class Statistics(L.Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            found.append(module.network.training)
            self.before = [values.clone() for values in module.network.buffers()]

        def on_validation_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            found.append(not all(map(torch.equal, self.before, module.network.buffers())))

    own = trainer(tmp_path, callbacks=[Statistics()], num_sanity_val_steps=0)
    own.fit(CoupledCnnModule(data.channels, data.num_classes), datamodule=data)
    assert found
    assert not any(found), "validation pixels are query pixels, and must not be learned"


def test_a_single_modality_is_refused() -> None:
    with refused(ConfigError, "need two modalities or more, .* but the only one is hsi; add one"):
        CoupledCnnModule({"hsi": 5}, 3)


@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_the_variant_release_has_the_released_settings(budget: Any) -> None:
    config = CoupledCnnConfig.model_validate(resolve_config(method_card("coupled-cnn"), "release", budget))
    assert (config.epochs, config.batch_size, config.learning_rate, config.weight_decay) == (200, 64, 1e-3, 0.0)
    assert (config.schedule, config.dropout, config.single_loss) == ("constant", 0.5, 0.01)
    assert (config.components, config.symmetries) == (20, False)
