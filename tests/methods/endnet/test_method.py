"""EndNet as a method: accuracy, the range of its inputs, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.endnet.method import EndNetConfig


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=3)
    targets = data.query_targets
    accuracy = (fitted("endnet", tmp_path, data, epochs=60, decay_every=30).predict(data, data.query) == targets).mean()
    majority = np.bincount(targets).max() / targets.size
    assert accuracy > majority + 0.2


def test_neither_the_normalisation_of_the_protocol_nor_the_window_changes_a_prediction(tmp_path: Path) -> None:
    """The method has its own normalisation, whose range the decoders reach, and reads centre pixels."""
    predictions = []
    for settings in ({"window": 3}, {"window": 7}, {"window": 3, "normalisation": "minmax"}):
        data = small_data(2, **settings)
        method = fitted("endnet", tmp_path, data, epochs=2)
        for image in method.inputs(data).images.values():
            assert (image.min(), image.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
        predictions.append(method.predict(data, data.query))
    np.testing.assert_array_equal(predictions[0], predictions[1])
    np.testing.assert_array_equal(predictions[0], predictions[2])


def test_batches_of_one_pixel_can_be_trained(tmp_path: Path) -> None:
    data = small_data(2, window=1)
    assert fitted("endnet", tmp_path, data, epochs=1, batch_size=1).predict(data, data.query).shape == data.query.shape


@pytest.mark.parametrize("budget", ["quick", "paper"])
def test_the_variant_release_has_the_released_settings(budget: Any) -> None:
    config = EndNetConfig.model_validate(resolve_config(method_card("endnet"), "release", budget))
    assert (config.epochs, config.batch_size, config.learning_rate, config.weight_decay) == (150, 64, 1e-3, 1e-3)
    assert (config.schedule, config.decay_every, config.decay, config.reconstruction) == ("step", 30, 0.5, 1.0)
    assert config.components is None
