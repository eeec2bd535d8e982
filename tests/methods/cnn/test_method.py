"""The CNN baseline: repeatability, accuracy, settings and both selection rules."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import torch
from helpers.method_helpers import fitted, small_data
from safetensors.torch import load_file

from mmrs_bench.methods.catalogue import method_card
from mmrs_bench.methods.cnn.module import CnnModule

ALL_PIXELS = np.arange(36 * 40)


def weights(folder: Path, **options: int) -> dict[str, torch.Tensor]:
    fitted("cnn", folder, small_data(), **options).save(folder / "saved")
    return load_file(folder / "saved" / "cnn.safetensors")


def test_weights_depend_on_draw_and_seed_only(tmp_path: Path) -> None:
    one, again, seed, draw = (
        weights(tmp_path / str(i), **options) for i, options in enumerate(({}, {}, {"seed": 1}, {"draw": 1}))
    )
    assert all(torch.equal(one[name], again[name]) for name in one)
    for other in (seed, draw):
        assert not torch.equal(one["network.head.1.weight"], other["network.head.1.weight"])


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


def test_paper_val_is_at_least_as_accurate_on_the_validation_pixels(tmp_path: Path) -> None:
    data = small_data(2, selection="paper-val")
    accuracy = {}
    for name, chosen in (("last", small_data(2)), ("paper-val", data)):
        method = fitted("cnn", tmp_path / name, chosen, steps=15)
        accuracy[name] = (method.predict(data, data.validation) == data.validation_targets).mean()
    assert data.validation.size == 200
    assert accuracy["paper-val"] >= accuracy["last"]


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
