"""MSFMamba: a hyperspectral and a second modality through spatial, spectral and fusion selective scans.

Reference: MSFMamba (Gao et al. 2025); sizes and optimisation as released where the settings name it.
Deviation: the last epoch is scored on every query pixel; the released code scores the epoch that is best on the test
    set, and drops its last, smaller batch. Training windows get one of all eight symmetries of the square, not flips
    only. Images are normalised by the protocol.
Deviation: by default batches are an eighth of the released size, the learning rate falls from ten times the released
    one to 0, and there are more epochs: the released 40 steps on a small support set hardly change the weights. The
    variant ``release`` has the released optimisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.msfmamba.network import SMALLEST_SCANNED, MSFMamba
from mmrs_bench.methods.toolkit.classification import WindowClassifier
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.scenes.datamodule import SceneDataModule


class MsfMambaConfig(MethodConfig):
    """Settings of `MsfMamba`.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        width, layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.network.MSFMamba`.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and largest number of windows of a step.
        learning_rate: Initial rate of Adam.
        schedule: ``cosine``: the rate falls to 0 along a half cosine. ``constant``: as released.
    """

    components: int | None = Field(ge=1)
    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    states: int = Field(ge=1)
    expand: float = Field(gt=0)
    symmetries: bool
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "constant"]


class MsfMambaModule(WindowClassifier):
    """Trains an `MSFMamba` by cross-entropy."""

    cpu_chunk = 128

    def configure_optimizers(self) -> Any:
        """Adam, with the schedule of the settings."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)
        return optimizer if self.config.schedule == "constant" else self.with_cosine_schedule(optimizer)


class MsfMamba(NetworkMethod):
    """MSFMamba, trained from scratch."""

    Config = MsfMambaConfig
    name = "msfmamba"
    title = "MSFMamba"

    def check(self, data: SceneDataModule) -> None:
        """Refuse data without an HSI, without a second modality, or with too small windows."""
        side, layers, found = data.config.window, self.config.layers, ", ".join(data.modalities)
        if "hsi" not in data.modalities:
            raise ConfigError(f"MSFMamba needs an hsi, but the modalities are {found}; add hsi, or use another method")
        if len(data.modalities) < 2:
            raise ConfigError(
                f"MSFMamba needs a second modality beside the hsi, but the only one is {found}; add one, or use "
                "another method"
            )
        smallest = SMALLEST_SCANNED + 2 * layers
        if side < smallest:
            raise ConfigError(
                f"window {side} is too small for MSFMamba with {layers} layers, each of which removes a pixel at every "
                f"side and leaves at least {SMALLEST_SCANNED} to scan; use a window of at least {smallest}"
            )

    def describe(self, data: SceneDataModule) -> Blueprint:
        """The blueprint of a network for some data, with the HSI as the first modality."""
        blueprint = super().describe(data)
        channels = tuple(sorted(blueprint.channels, key=lambda pair: pair[0] != "hsi"))
        return blueprint.model_copy(update={"channels": channels})

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> MSFMamba:
        """See `NetworkMethod.build`."""
        sizes = {name: getattr(self.config, name) for name in ("width", "layers", "states", "expand")}
        return MSFMamba(dict(blueprint.channels), blueprint.side, len(blueprint.class_names), **sizes)

    def module(self) -> MsfMambaModule:
        """See `NetworkMethod.module`."""
        return MsfMambaModule(self.network, self.config)
