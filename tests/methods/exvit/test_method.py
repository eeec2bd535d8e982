"""ExViT as a method: accuracy, and the released optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.exvit.method import ExvitConfig


def test_it_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2, window=5)
    targets = data.query_targets
    method = fitted("exvit", tmp_path, data, fused_blocks=1, epochs=30)
    accuracy = (method.predict(data, data.query) == targets).mean()
    assert accuracy > np.bincount(targets).max() / targets.size + 0.3


@pytest.mark.parametrize("budget", ["smoke", "quick", "paper"])
def test_the_variant_release_has_the_released_settings_under_every_budget(budget: Any) -> None:
    config = ExvitConfig.model_validate(resolve_config(method_card("exvit"), "release", budget))
    assert (config.learning_rate, config.weight_decay, config.epochs, config.batch_size) == (5e-4, 0, 500, 64)
    assert (config.schedule, config.decay_every, config.decay) == ("step", 20, 0.9)
    assert (config.width, config.branch_blocks, config.fused_blocks, config.dropout) == (64, 4, 2, 0.1)
    assert (config.components, config.symmetries) == (None, False)
