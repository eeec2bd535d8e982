"""Networks that are trained from scratch: the learning rate of every schedule, the penalty, and bad settings."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from helpers.method_helpers import refused, small_data
from helpers.module_cases import QUIET
from pydantic import ValidationError
from torch import nn

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.toolkit.supervised import (
    SupervisedConfig,
    SupervisedModule,
    hsi_and_others,
    stacked_others,
)
from mmrs_bench.scenes.datamodule import SceneDataModule

ADAM: dict[str, Any] = {"learning_rate": 0.1, "weight_decay": 0.0}
CONSTANT = {"schedule": "constant", "decay_every": None, "decay": None}
COSINE = {"schedule": "cosine", "decay_every": None, "decay": None}
STEP = {"schedule": "step", "decay_every": 2, "decay": 0.5}


class CentrePixel(nn.Module):
    """A linear map of the centre of the HSI."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        side = windows["hsi"].shape[-1]
        return self.linear(windows["hsi"][:, :, side // 2, side // 2])


def module(data: SceneDataModule, **settings: Any) -> SupervisedModule:
    built = SupervisedModule(data.channels, data.num_classes, None, **{**ADAM, **settings})
    built.network = CentrePixel(data.channels["hsi"], data.num_classes)
    return built


class Rates(L.Callback):
    """Records the learning rate of every epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.values.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (CONSTANT, [0.1, 0.1, 0.1, 0.1]),
        (COSINE, [0.1, 0.0853553, 0.05, 0.0146447]),
        (STEP, [0.1, 0.1, 0.05, 0.05]),
    ],
)
def test_the_rate_follows_the_schedule(schedule: dict[str, Any], expected: list[float], tmp_path: Any) -> None:
    data, rates = small_data(), Rates()
    options = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu", **QUIET}
    trainer = L.Trainer(max_epochs=4, callbacks=[rates], default_root_dir=tmp_path, **options)
    trainer.fit(module(data, **schedule), datamodule=data)
    assert rates.values == pytest.approx(expected, rel=1e-5)


def test_the_weight_decay_is_an_l2_penalty() -> None:
    """Adam's first step has the length of the rate in the direction of the gradient, here of the penalty alone."""
    built = module(small_data(), weight_decay=0.1, **CONSTANT)
    before = torch.linspace(-1, 1, built.network.linear.weight.numel()).reshape(built.network.linear.weight.shape)
    built.network.linear.weight.data.copy_(before)  # random ones can be so near 0 that Adam's epsilon counts
    optimizer = built.configure_optimizers()
    for parameter in built.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(built.network.linear.weight.detach(), before - 0.1 * before.sign(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", [{**STEP, "decay": None}, {**STEP, "decay_every": None}, {**COSINE, "decay": 0.5}])
def test_a_schedule_without_its_settings_is_refused(schedule: dict[str, Any]) -> None:
    with refused(ConfigError, r"schedule is (step|cosine), decay_every is .*; set both decay_every and decay"):
        module(small_data(), **schedule)
    with pytest.raises(ValidationError, match="set both decay_every and decay"):
        SupervisedConfig(components=None, symmetries=True, epochs=1, batch_size=1, **ADAM, **schedule)


def test_two_streams_take_the_hsi_and_the_rest() -> None:
    assert hsi_and_others({"lidar": 2, "hsi": 5, "sar": 4}, "X") == (5, 6)
    windows = {name: torch.full((1, 1, 3, 3), value) for name, value in {"sar": 2.0, "hsi": 0.0, "dsm": 1.0}.items()}
    assert stacked_others(windows)[0, :, 1, 1].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("channels", "problem"), [({"hsi": 5}, "a second modality"), ({"sar": 4}, "an hsi")])
def test_two_streams_need_both(channels: dict[str, int], problem: str) -> None:
    with refused(ConfigError, f"X needs {problem}"):
        hsi_and_others(channels, "X")
