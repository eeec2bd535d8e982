"""Settings of UniDiff. Their values are in the method cards.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig
from mmrs_bench.methods.unidiff.pixel_heads import Head
from mmrs_bench.models.diffusion import TIMESTEPS


class AdaptationConfig(MethodConfig):
    """Settings of stage A. Each of them can change its weights, so all are part of the cache key.

    Reference: UniDiff, released code: tiles of 64 with stride 32, zoom up to 1.25, AdamW with batch 32 and rate 1e-4,
        2,000 steps on Berlin and 1,500 on Augsburg.

    Attributes:
        backbone: ``imagenet`` is OpenAI's checkpoint. ``tiny`` is a small stand-in, trained from scratch on the
            pseudo-RGB tiles of the scene.
        pictures: Pictures that the network receives (``rgb``, ``pca``, ``sar``, ``dsm``, ``lidar``); an empty tuple
            means all of the scene.
        tile: Side of a tile in pixels.
        stride: Distance of neighbouring tiles in pixels.
        adaptation: Which parameters are trained, see
            `mmrs_bench.methods.unidiff.adm_adaptation.AdaptedDenoiser`; ``none`` skips stage A.
        lora_variant, lora_rank: Of the adaptation ``lora``.
        anchored: Whether stage A trains on pseudo-RGB tiles too.
        anchor_weight: Weight of the loss of pseudo-RGB tiles; the other pictures have weight 1.
        adapt_epochs: Epochs of stage A.
        epoch_steps: Steps of an epoch, in stage A and in the training of ``tiny``.
        adapt_batch: Tiles of a step.
        adapt_rate: Learning rate of AdamW.
        zoom: Largest random enlargement of a tile, in both trainings; 1 disables it.
        source_epochs, source_batch, source_rate: The same for the training of ``tiny``.
    """

    backbone: Literal["imagenet", "tiny"]
    pictures: tuple[str, ...]
    tile: int = Field(ge=8, multiple_of=8)  # the networks halve it three times
    stride: int = Field(ge=1)
    adaptation: Literal["film", "lora", "full", "none"]
    lora_variant: Literal["lora", "rslora", "dora"]
    lora_rank: int = Field(ge=1)
    anchored: bool
    anchor_weight: float = Field(gt=0)
    adapt_epochs: int = Field(ge=1)
    epoch_steps: int = Field(ge=1)
    adapt_batch: int = Field(ge=1)
    adapt_rate: float = Field(gt=0)
    zoom: float = Field(ge=1)
    source_epochs: int = Field(ge=1)
    source_batch: int = Field(ge=1)
    source_rate: float = Field(gt=0)

    def network(self) -> AdmConfig:
        """Sizes of the backbone."""
        return ADM_64 if self.backbone == "imagenet" else ADM_TINY


class UniDiffConfig(AdaptationConfig):
    """Settings of both stages.

    Attributes:
        timestep: Noise level at which features are extracted.
        block: Decoder block that provides the features, see `AdaptedDenoiser.features`.
        head: ``mlp`` (UniDiff), or ``spectral-sum`` (GeoDiffNet-F) or ``spectral-film`` (ours), which also receive the
            spectrum, see `mmrs_bench.methods.unidiff.pixel_heads.SpectralFusion`.
        hidden: Sizes of the hidden layers of ``mlp``.
        epochs: Passes over the support vectors.
        batch_size: Vectors of a step; at least 3, because batch normalisation cannot use a batch of one.
        learning_rate, weight_decay: Of Adam.
    """

    timestep: int = Field(ge=0, lt=TIMESTEPS)
    block: int = Field(ge=0)
    head: Head
    hidden: tuple[Annotated[int, Field(ge=1)], ...]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=3)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)

    @field_validator("block")
    @classmethod
    def _check_block(cls, block: int, info: ValidationInfo) -> int:
        network = ADM_TINY if info.data.get("backbone") == "tiny" else ADM_64
        if block >= network.decoder_blocks:
            raise ValueError(f"the decoder of this backbone has blocks 0 to {network.decoder_blocks - 1}")
        return block
