"""CNN baseline: a small window network, trained from scratch on the support set.

Regularised by flips and rotations of windows, dropout, label smoothing and weight decay.
"""

from __future__ import annotations

import math

from pydantic import Field

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.cnn.module import CnnModule
from mmrs_bench.methods.toolkit.network_method import NetworkMethod
from mmrs_bench.methods.toolkit.training import Loaders
from mmrs_bench.scenes.datamodule import SceneDataModule


class CnnConfig(MethodConfig):
    """Settings of `Cnn`.

    Attributes:
        width, dropout, learning_rate, weight_decay, label_smoothing: See `mmrs_bench.methods.cnn.module.CnnModule`.
        steps: Optimiser steps, rounded up to whole epochs.
    """

    width: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)


class Cnn(NetworkMethod):
    """Window CNN with one branch per modality."""

    Config = CnnConfig
    Module = CnnModule
    name = "cnn"
    title = "CNN"

    def loaders(self, data: SceneDataModule) -> Loaders:
        """The loaders of the data module."""
        return Loaders(data.train_dataloader(), data.val_dataloader())

    def epochs(self, steps_per_epoch: int) -> int:
        """The smallest number of epochs with at least ``steps`` steps."""
        return math.ceil(int(self.config.steps) / steps_per_epoch)
