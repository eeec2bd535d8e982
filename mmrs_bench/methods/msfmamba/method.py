"""MSFMamba: a hyperspectral and a second modality through spatial, spectral and fusing selective scans.

Reference: MSFMamba (Gao et al. 2025); sizes and optimisation as released where the settings say so.
Deviation: the last epoch is kept and every query pixel is scored; the released code keeps the epoch that is best on
    the test set, and drops its last, smaller batch. Training windows get one of all eight symmetries of the square,
    there flips only. Images are normalised by the protocol. `mmrs_bench.methods.msfmamba.network` lists those of the
    network.
Deviation: by default batches are an eighth of the released size, the learning rate starts ten times higher and falls
    to 0, and there are more epochs. As released, 40 epochs of batches of 128 are 40 steps on a support set of up to
    128 windows, at a rate of 1e-4, which hardly changes any weight. The variant ``release`` does that.
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
        components: Principal components of the HSI at most, each with unit variance, that take the place of its bands;
            None keeps the bands.
        width, layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.network.MSFMamba`.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and windows of a step at most.
        learning_rate: Of Adam.
        schedule: ``cosine``: the rate falls to 0 along half a cosine, by epochs. ``constant``: as released.
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
    """Trains an `MSFMamba` by cross-entropy.

    Args:
        network: The network.
        config: Settings.
    """

    cpu_chunk = 128

    def __init__(self, network: MSFMamba, config: MsfMambaConfig) -> None:
        super().__init__(network)
        self._config = config

    def configure_optimizers(self) -> Any:
        """Adam, with a schedule by epochs if the settings say so."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self._config.learning_rate, fused=True)
        return optimizer if self._config.schedule == "constant" else self.with_cosine_schedule(optimizer)


class MsfMamba(NetworkMethod):
    """MSFMamba, learned from scratch."""

    Config = MsfMambaConfig
    name = "msfmamba"
    title = "MSFMamba"

    def check(self, data: SceneDataModule) -> None:
        """Refuse data without an HSI, without a second modality, or with too small windows."""
        _check_modalities(data)
        _check_window(data.config.window, self.config.layers)

    def describe(self, data: SceneDataModule) -> Blueprint:
        """The network for some data, with the HSI first, wherever the manifest has it."""
        blueprint = super().describe(data)
        channels = tuple(sorted(blueprint.channels, key=lambda pair: pair[0] != "hsi"))
        return blueprint.model_copy(update={"channels": channels})

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> MSFMamba:
        """See `NetworkMethod.build`."""
        config = self.config
        return MSFMamba(
            dict(blueprint.channels),
            blueprint.side,
            len(blueprint.class_names),
            width=config.width,
            layers=config.layers,
            states=config.states,
            expand=config.expand,
        )

    def module(self) -> MsfMambaModule:
        """See `NetworkMethod.module`."""
        return MsfMambaModule(self.network, self.config)


def _check_modalities(data: SceneDataModule) -> None:
    seen = ", ".join(data.modalities)
    if "hsi" not in data.modalities:
        raise ConfigError(
            f"MSFMamba scans the spectra of an hsi, but the method sees {seen}; add modality hsi, or take a "
            "method that needs none"
        )
    if len(data.modalities) < 2:
        raise ConfigError(
            f"MSFMamba fuses an hsi with one or more other modalities, but the method sees {seen} alone; add a second "
            "modality, or take a method for one"
        )


def _check_window(side: int, layers: int) -> None:
    smallest = SMALLEST_SCANNED + 2 * layers
    if side < smallest:
        raise ConfigError(
            f"window {side} is too small for MSFMamba with {layers} layer{'s' if layers > 1 else ''}, of which each "
            f"takes a pixel off every side and leaves at least {SMALLEST_SCANNED} to scan; use a window of at least "
            f"{smallest}{', or fewer layers' if layers > 1 else ''}"
        )
