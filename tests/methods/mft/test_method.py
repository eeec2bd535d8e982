"""MFT as a method: accuracy, and the released optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.mft.method import MftConfig


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=5)
    targets = data.query_targets
    method = fitted("mft", tmp_path, data, epochs=40, learning_rate=0.002)
    accuracy = (method.predict(data, data.query) == targets).mean()
    assert accuracy > np.bincount(targets).max() / targets.size + 0.3


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = MftConfig.model_validate(resolve_config(method_card("mft"), "release", budget))
    assert (config.learning_rate, config.weight_decay, config.epochs, config.batch_size) == (5e-4, 5e-3, 500, 64)
    assert (config.schedule, config.decay_every, config.decay) == ("step", 50, 0.9)
    assert (config.components, config.width, config.dropout, config.symmetries) == (None, 64, 0.1, False)
