"""MSFMamba: a hyperspectral and a second modality through spatial, spectral and fusing selective scans.

Reference: MSFMamba (Gao et al. 2025); optimisation and sizes as in the released code where the settings say so.
Deviation: the last epoch is kept and every query pixel is scored; the released code keeps the epoch that is best on
the test set, and leaves out the last, smaller batch of that. Training windows get one of all eight symmetries of the
square, there flips only. Images are normalised as the protocol says. See `mmrs_bench.methods.msfmamba.network` for the network.
Deviation: by default batches are an eighth of the released size, the learning rate starts ten times higher and falls to
0, and there are more epochs. As released, 40 epochs of batches of 128 are 40 steps on a support set of up to 128
windows, at a rate of 1e-4: too short a way for any weight to go. The card's variant ``release`` does that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.msfmamba.network import SMALLEST_SCANNED, MSFMamba
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.network_method import Blueprint, load_network, save_network
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

NAME = "msfmamba"
VALIDATION_METRIC = "validation_accuracy"

#: Windows that a CPU classifies at once: more of them leave its cache, fewer waste time between operations.
CPU_CHUNK = 128


class MsfMambaConfig(MethodConfig):
    """Settings of `MsfMamba`.

    Attributes:
        components: Principal components of the HSI at most, each with unit variance, that take the place of its bands;
            None keeps the bands.
        width, layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.network.MSFMamba`.
        symmetries: Whether training windows get a random symmetry of the square.
        epochs, batch_size: Passes over the support, and windows of a step at most.
        learning_rate: Of Adam.
        schedule: ``cosine``: the rate falls to 0 along half a cosine, by epochs. ``constant``: it stays, as released.
    """

    components: int | None = Field(default=30, ge=1)
    width: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1)
    states: int = Field(default=16, ge=1)
    expand: float = Field(default=0.75, gt=0)
    symmetries: bool = True
    epochs: int = Field(default=100, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"


class MsfMambaModule(L.LightningModule):
    """Trains an `MSFMamba` by cross-entropy.

    Args:
        network: The network.
        config: Settings.
    """

    def __init__(self, network: MSFMamba, config: MsfMambaConfig) -> None:
        super().__init__()
        self.network = network
        self._config = config

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy (scalar) of a batch with ``windows`` and ``target`` (b,)."""
        target = batch["target"]
        loss = functional.cross_entropy(self.network(batch["windows"]), target)
        self.log("loss", loss, batch_size=len(target))
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the accuracy; runs only under the selection rule ``paper-val``."""
        correct = self.predict_step(batch, batch_idx) == batch["target"]
        self.log(VALIDATION_METRIC, correct.float().mean(), batch_size=len(correct))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Targets (b,) of a batch with ``pixel`` (b,) and ``windows``."""
        pixels = batch["pixel"]
        chunk = CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
        starts = range(0, len(pixels), chunk)
        parts = [{name: w[start : start + chunk] for name, w in batch["windows"].items()} for start in starts]
        return torch.cat([self.network(part).argmax(dim=1) for part in parts])

    def configure_optimizers(self) -> Any:
        """Adam, with a schedule by epochs if the settings say so."""
        config = self._config
        optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        if config.schedule == "constant":
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs),
        }


class MsfMamba(Method):
    """MSFMamba, learned from scratch."""

    Config = MsfMambaConfig

    _network: MSFMamba
    _blueprint: Blueprint

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; under ``paper-val`` the epoch with the best validation accuracy is kept.

        Raises:
            ConfigError: If the method sees no HSI or nothing else, or the window is too small for the layers.
        """
        config, context = self.config, self.context
        _check_modalities(data)
        _check_window(data.config.window, config.layers)
        data = data.with_components(config.components)
        self._blueprint = self._describe(data)
        self._network = training.initialised(lambda: self._build(self._blueprint), context, NAME)
        train = data.shuffled_dataloader(
            ("support", context.draw, context.seed),
            data.support,
            data.support_targets,
            batch_size=config.batch_size,
            augment=config.symmetries,
        )
        training.fit(
            MsfMambaModule(self._network, config),
            data.serving(train=train, validate=data.val_dataloader()),
            context,
            stage="training",
            epochs=config.epochs,
            maximise=VALIDATION_METRIC if data.config.selection == "paper-val" else None,
        )

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`.

        Raises:
            ConfigError: If the network was fitted to windows of another side or other channels.
        """
        data = data.with_components(self.config.components)
        self._blueprint.check_inputs(self._describe(data), "MSFMamba")
        return training.predict(MsfMambaModule(self._network, self.config), data, pixels, self.context)

    def parameter_counts(self) -> ParameterCounts:
        """All parameters are trained."""
        count = sum(parameter.numel() for parameter in self._network.parameters())
        return ParameterCounts(count, count)

    def save(self, folder: Path) -> None:
        """See `Method.save`: weights (safetensors) and what the network is built from (JSON)."""
        save_network(folder, NAME, self._blueprint, self._network)

    def load(self, folder: Path) -> None:
        """See `Method.load`.

        Raises:
            DataError: If a file is absent or damaged, or the weights do not fit the settings or are not numbers.
        """
        self._blueprint, self._network = load_network(
            folder, NAME, self.config, lambda blueprint, weights: self._build(blueprint)
        )

    def _describe(self, data: SceneDataModule) -> Blueprint:
        """The network for some data, with the HSI first, wherever the manifest has it."""
        blueprint = Blueprint.of(data, self.config)
        channels = tuple(sorted(blueprint.channels, key=lambda pair: pair[0] != "hsi"))
        return blueprint.model_copy(update={"channels": channels})

    def _build(self, blueprint: Blueprint) -> MSFMamba:
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
