"""The LightningModule of MSFMamba."""

from __future__ import annotations

from typing import Any, Literal

import torch

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.msfmamba.network import SMALLEST_SCANNED, MSFMamba, ReleasedMSFMamba
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.supervised import hsi_and_others


class MsfMambaModule(ClassificationModule):
    """Trains an `MSFMamba` or a `ReleasedMSFMamba` with cross-entropy.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other.
        num_classes: Number of classes.
        window: Window side in pixels.
        width: Channels of both modalities in the scans; None takes the released layout, see `ReleasedMSFMamba`.
        layers, states, expand: Sizes, see `mmrs_bench.methods.msfmamba.network.MSFMamba`.
        learning_rate: Initial rate of Adam.
        schedule: ``cosine``: the rate falls to 0 along a half cosine over the trainer's epochs. ``constant``: as
            released.

    Raises:
        ConfigError: If there is no HSI or no second modality, or the window is too small for the layers.
    """

    cpu_chunk = 128

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        width: int | None = 64,
        layers: int = 1,
        states: int = 16,
        expand: float = 0.75,
        learning_rate: float = 0.001,
        schedule: Literal["cosine", "constant"] = "cosine",
    ) -> None:
        _check(channels, window, layers)
        channels = dict(sorted(channels.items(), key=lambda pair: pair[0] != "hsi"))
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters()
        self.learning_rate, self.schedule = learning_rate, schedule
        sizes: dict[str, Any] = {"layers": layers, "states": states, "expand": expand}
        if width is None:
            self.network = ReleasedMSFMamba(channels, window, num_classes, **sizes)
        else:
            self.network = MSFMamba(channels, window, num_classes, width=width, **sizes)

    def configure_optimizers(self) -> Any:
        """Adam, with the chosen schedule."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate, fused=self.fused)
        return optimizer if self.schedule == "constant" else self.with_cosine_schedule(optimizer)


def _check(channels: dict[str, int], window: int, layers: int) -> None:
    hsi_and_others(channels, "MSFMamba")
    smallest = SMALLEST_SCANNED + 2 * layers
    if window < smallest:
        raise ConfigError(
            f"window {window} is too small for MSFMamba with {layers} layers, each of which removes a pixel at every "
            f"side and leaves at least {SMALLEST_SCANNED} to scan; use a window of at least {smallest}"
        )
