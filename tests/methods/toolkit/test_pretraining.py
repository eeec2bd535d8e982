"""Pretraining on windows: what is trained on, what the cache entry depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.method_helpers import small_data
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.config import PRETRAINING
from mmrs_bench.errors import TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig, pretrain_on_windows
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

SETTINGS: dict[str, Any] = {
    "pretrain_epochs": 2,
    "pretrain_windows": 20,
    "pretrain_batch": 8,
    "pretrain_rate": 0.1,
    "pretrain_symmetries": False,
}


class Mean(StageModule):
    """Learns the mean of the pixels of all windows."""

    def __init__(self, seed: int, factor: float = 1.0) -> None:
        super().__init__({"hsi": 5})
        self.network, self.seed, self.factor = torch.nn.Linear(5, 5), seed, factor
        self.pixels: list[IntArray] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert "target" not in batch
        self.pixels.append(batch["pixel"].numpy())
        loss: torch.Tensor = (batch["windows"]["hsi"].mean(dim=(2, 3)) - self.network.bias).square().mean()
        return loss * self.factor

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.1)


def pretrain(folder: Path, seed: int = 0, factor: float = 1.0, **options: Any) -> tuple[Mean, list[Mean]]:
    """The pretrained module, and those that were trained for it."""
    built: list[Mean] = []

    def build(seed: int) -> Mean:
        built.append(Mean(seed, factor))
        return built[-1]

    arguments: dict[str, Any] = {
        "data": small_data(),
        "config": PretrainingConfig(**{**SETTINGS, **options.pop("changes", {})}),
        "settings": ("pretrain_epochs", "pretrain_batch"),
        "method": "mean",
        "version": 1,
    }
    module = pretrain_on_windows(build, context=RunContext(seed, 3, folder), **{**arguments, **options})
    return module, [module for module in built if module.pixels]


def test_epochs_draw_new_windows_from_the_unlabelled_pixels(tmp_path: Path) -> None:
    finished: list[int] = []
    loaded, (module,) = pretrain(tmp_path, seed=5, finish=lambda module, context: finished.append(context.draw))
    assert [len(pixels) for pixels in module.pixels] == [7, 7, 6, 7, 7, 6]
    first, second = (np.concatenate(module.pixels[i : i + 3]) for i in (0, 3))
    assert set(first) != set(second)
    assert (module.seed, finished) == (5, [0])
    assert torch.equal(loaded.network.bias, module.network.bias)
    assert pretrain(tmp_path, seed=5)[1] == []


def test_windows_can_be_limited_to_some_pixels(tmp_path: Path) -> None:
    _, (module,) = pretrain(tmp_path, pixels=np.arange(6))
    assert set(np.concatenate(module.pixels)) == set(range(6))


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        ({"changes": {"pretrain_epochs": 1}}, True),
        ({"changes": {"pretrain_rate": 0.2}}, False),  # not among the settings of the address
        ({"seed": 1}, True),
        ({"method": "other"}, True),
        ({"version": 2}, True),
        ({"pixels": np.arange(9)}, True),
        ({"data": small_data(window=9)}, True),
        ({"data": small_data(normalisation="minmax")}, True),
        ({"data": small_data(modalities=("hsi",))}, True),
        ({"data": small_data(unlabelled="support")}, True),
        ({"data": small_data(normalisation_scope="support")}, True),
        ({"data": SceneDataModule(tiny_scene(striped_map(36, 40), seed=1))}, True),
        ({"data": SceneDataModule(tiny_scene(striped_map(36, 40), scene_id="other"))}, True),
        ({"data": small_data(5, draw=1)}, False),
    ],
)
def test_the_cache_entry_depends_on_the_address(options: dict[str, Any], trained: bool, tmp_path: Path) -> None:
    pretrain(tmp_path)
    assert bool(pretrain(tmp_path, **options)[1]) == trained


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"^{PRETRAINING}: loss is nan at step 0"):
        pretrain(tmp_path, factor=float("nan"))
