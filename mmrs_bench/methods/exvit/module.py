"""The LightningModule of ExViT."""

from __future__ import annotations

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.exvit.network import HEADS, ExViT
from mmrs_bench.methods.toolkit.supervised import Schedule, SupervisedModule


class ExvitModule(SupervisedModule):
    """Trains an `ExViT` with cross-entropy.

    Args:
        channels: Channels by modality; any number of modalities.
        num_classes: Number of classes.
        window: Window side in pixels.
        width, branch_blocks, fused_blocks, dropout: See `mmrs_bench.methods.exvit.network.ExViT`.
        learning_rate, weight_decay, schedule, decay_every, decay: See
            `mmrs_bench.methods.toolkit.supervised.SupervisedModule`; the defaults are the released optimisation.

    Raises:
        ConfigError: If the heads cannot share the width.
    """

    cpu_chunk = 64

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        width: int = 64,
        branch_blocks: int = 4,
        fused_blocks: int = 2,
        dropout: float = 0.1,
        learning_rate: float = 0.0005,
        weight_decay: float = 0.0,
        schedule: Schedule = "step",
        decay_every: int | None = 20,
        decay: float | None = 0.9,
    ) -> None:
        if width % HEADS:
            raise ConfigError(
                f"width is {width}, but ExViT has {HEADS} heads of equal width; use a multiple of {HEADS}"
            )
        super().__init__(
            channels,
            num_classes,
            window,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            schedule=schedule,
            decay_every=decay_every,
            decay=decay,
        )
        self.save_hyperparameters()
        sizes = {"width": width, "branch_blocks": branch_blocks, "fused_blocks": fused_blocks}
        self.network = ExViT(channels, window, num_classes, **sizes, dropout=dropout)
