"""The CNN baseline: repeatability, accuracy, settings and both selection rules."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from helpers.method_helpers import fitted, small_data

from mmrs_bench.methods.catalogue import method_card
from mmrs_bench.methods.cnn.module import CnnModule

ALL_PIXELS = np.arange(36 * 40)


def test_learns_a_scene_of_blocks_from_two_shots(tmp_path: Path) -> None:
    data = small_data(2)
    prediction = fitted("cnn", tmp_path, data, steps=60).predict(data, data.query)
    assert (prediction == data.query_targets).mean() > 0.8


def test_steps_are_rounded_up_to_whole_epochs(tmp_path: Path) -> None:
    """At 40 labels and batches of 16 an epoch has 3 batches, so 20 steps become 7 epochs."""
    data = small_data(10)
    data.batch_size = 16
    seen: list[float] = []
    fitted("cnn", tmp_path, data, steps=20, progress=lambda stage, done: seen.append(done))
    assert len(seen) == 21 + 1


def test_the_optimiser_uses_the_settings() -> None:
    module = CnnModule({"hsi": 2}, 3, width=8, weight_decay=0.3, learning_rate=0.01, label_smoothing=0.2)
    module.trainer = L.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False)
    optimizers = module.configure_optimizers()
    group = optimizers["optimizer"].param_groups[0]
    assert (group["weight_decay"], group["lr"], module.label_smoothing) == (0.3, 0.01, 0.2)
    assert optimizers["lr_scheduler"].T_max == 10


def test_budgets_increase() -> None:
    budgets = method_card("cnn").budgets
    assert budgets["smoke"]["steps"] < budgets["quick"]["steps"] < budgets["paper"]["steps"]
