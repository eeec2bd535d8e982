"""Stage 2 of LDS2AE: windows are classified by the shared encoder and a linear head.

Letters: b batch, c channels, w window side, k classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmrs_bench.methods.lds2ae.network import SharedClassifier
from mmrs_bench.methods.lds2ae.pretraining import SharedSpecificPretrainer
from mmrs_bench.methods.toolkit.classification import ClassificationModule
from mmrs_bench.methods.toolkit.masked_diffusion.stage import copy_encoder
from mmrs_bench.models.masked_diffusion.crops import Crop, random_crops
from mmrs_bench.models.masked_diffusion.schedules import check_choice
from mmrs_bench.models.masked_diffusion.transformer import Readout, check_sizes, clean_timesteps, window_pixels

#: Epochs of the released stage 2, and those after which the rate falls to a tenth.
RELEASED_EPOCHS, RELEASED_MILESTONES = 141, (100, 131)


class SharedEncoderClassifier(ClassificationModule):
    """Trains a `SharedClassifier` with cross-entropy on clean windows at timestep 0.

    Args:
        channels: Channels by modality.
        num_classes: Number of classes.
        window: Window side in pixels.
        width, heads, depth, mlp_ratio, learn_positions: See
            `mmrs_bench.models.masked_diffusion.transformer.TokenEncoder`.
        readout: See `SharedClassifier`.
        crop: Random crops of training windows, see `mmrs_bench.models.masked_diffusion.crops.Crop`.
        learning_rate, weight_decay: Of Adam; the decay is an L2 penalty.
        encoder_rate: Learning rate of tokenizers and encoder as a share of ``learning_rate``.
        schedule: ``cosine``: half a cosine to 0. ``multistep``: a tenth after 100 of 141 epochs, a hundredth after 131,
            as released.
        pretrained: Checkpoint of a `SharedSpecificPretrainer`, whose tokenizers and encoder are copied. It is not saved
            as a hyperparameter.
        seed, draw: Seed and index of the support sample, for crops.

    Raises:
        ConfigError: If a setting is impossible, or the checkpoint has other channels or sizes.
        DataError: If ``pretrained`` is missing or damaged.
    """

    cpu_chunk = 32  # so that the tokens of the windows fit the cache of a CPU

    network: SharedClassifier

    def __init__(
        self,
        channels: dict[str, int],
        num_classes: int,
        window: int = 11,
        *,
        width: int = 128,
        heads: int = 8,
        depth: int = 4,
        mlp_ratio: float = 2.0,
        learn_positions: bool = False,
        readout: Readout = "pooled",
        crop: Crop = "joint",
        learning_rate: float = 0.001,
        encoder_rate: float = 0.3,
        weight_decay: float = 0.0001,
        schedule: Literal["cosine", "multistep"] = "cosine",
        pretrained: str | None = None,
        seed: int = 0,
        draw: int = 0,
    ) -> None:
        super().__init__(channels, num_classes, window)
        self.save_hyperparameters(ignore=["pretrained"])
        check_choice("readout", readout, get_args(Readout))
        check_choice("crop", crop, get_args(Crop))
        check_choice("schedule", schedule, ("cosine", "multistep"))
        check_sizes(width=width, heads=heads, mlp_ratio=mlp_ratio, depth=depth)
        self.crop, self.seed, self.draw = crop, seed, draw
        self.learning_rate, self.encoder_rate = learning_rate, encoder_rate
        self.weight_decay, self.schedule = weight_decay, schedule
        sizes: dict[str, Any] = {"width": width, "heads": heads, "depth": depth, "mlp_ratio": mlp_ratio}
        self.network = SharedClassifier(
            channels, window, num_classes, readout=readout, learn_positions=learn_positions, **sizes
        )
        if pretrained is not None:
            with torch.random.fork_rng(devices=[]):
                self.take_encoder(SharedSpecificPretrainer.load_from_checkpoint(pretrained))

    def take_encoder(self, stage_1: SharedSpecificPretrainer) -> None:
        """Copy tokenizers and encoder of stage 1.

        Raises:
            ConfigError: If they have other channels or sizes.
        """
        copy_encoder(self.network, self.hparams, stage_1)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits (b, k) of clean windows (b, c, w, w) by modality, at timestep 0."""
        embedded = self.network.embed_pixels(window_pixels(windows))
        return self.network(embedded, clean_timesteps(embedded))  # type: ignore[no-any-return]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Cross-entropy (scalar) of a batch with ``windows`` and ``target`` (b,), after random crops."""
        device = self.targets_of(batch).device
        random = self.random("classification", self.draw, self.seed, self.current_epoch, batch_idx, device=device)
        return super().training_step({**batch, "windows": random_crops(self.windows_of(batch), self.crop, random)}, 0)

    def configure_optimizers(self) -> Any:
        """Adam with the schedule, and its own learning rate for tokenizers and encoder."""
        network = self.network
        encoder = [*network.tokenizers.parameters(), *network.encoder.parameters()]
        optimizer = torch.optim.Adam(
            [
                {"params": encoder, "lr": self.encoder_rate * self.learning_rate},
                {"params": network.head.parameters(), "lr": self.learning_rate},
            ],
            weight_decay=self.weight_decay,
            fused=self.fused,
        )
        if self.schedule == "cosine":
            return self.with_cosine_schedule(optimizer)
        milestones = [round(self.epochs * epoch / RELEASED_EPOCHS) for epoch in RELEASED_MILESTONES]
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)}
