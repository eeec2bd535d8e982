"""The LightningModule of MFT."""

from __future__ import annotations

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.mft.network import HEADS, MFT
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule, hsi_and_others


class MftModule(SupervisedModule):
    """Trains an `MFT` with cross-entropy. Windows may have any side.

    Args:
        channels: Channels by modality: ``hsi`` and at least one other.
        num_classes: Number of classes.
        width, dropout: See `mmrs_bench.methods.mft.network.MFT`.
        learning_rate, weight_decay, schedule, decay_every, decay: See `SupervisedModule`; the defaults are the released
            optimisation.

    Raises:
        ConfigError: If there is no HSI or no second modality, or the heads cannot share the width.
    """

    cpu_chunk = 64

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        *,
        width: int = 64,
        dropout: float = 0.1,
        learning_rate: float = 0.0005,
        weight_decay: float = 0.005,
        schedule: Schedule = "step",
        decay_every: int | None = 50,
        decay: float | None = 0.9,
    ) -> None:
        hsi_and_others(channels, "MFT")
        if width % HEADS:
            raise ConfigError(f"width is {width}, but MFT has {HEADS} heads of equal width; use a multiple of {HEADS}")
        super().__init__(
            channels,
            num_classes,
            None,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            decay_every=decay_every,
            decay=decay,
        )
        self.save_hyperparameters()
        self.network = MFT(channels, num_classes, width=width, dropout=dropout)
