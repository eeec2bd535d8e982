"""Settings of UniDiff's first stage, which decide its weights.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.unidiff.adm import ADM_64, ADM_TINY, AdmConfig


class AdaptationConfig(MethodConfig):
    """Settings of the first stage; all of them may decide its weights.

    Reference: UniDiff, released code: tiles of 64 with stride 32, enlargements up to 1.25, AdamW with batch 32 and rate
        1e-4, 2,000 steps on Berlin and 1,500 on Augsburg.

    Attributes:
        backbone: ``imagenet`` is OpenAI's checkpoint; ``tiny`` a small network trained on the scene's pseudo-RGB tiles
            alone, a stand-in of ours for machines that cannot do more, which knows no photographs.
        pictures: Kinds that the network sees (``rgb``, ``pca``, ``sar``, ``dsm``, ``lidar``, the last two for all
            rasters of theirs); empty takes all of the scene.
        tile: Side of a tile in pixels.
        stride: Pixels from one tile to the next.
        adaptation: What learns, see `mmrs_bench.methods.unidiff.adm_adaptation.AdaptedDenoiser`; ``none`` leaves this stage out.
        lora_variant, lora_rank: See `mmrs_bench.methods.unidiff.adm_adaptation.LoraOptions`.
        anchored: Whether pseudo-RGB tiles are part of the mixture.
        anchor_weight: Weight of their loss beside that of each other picture.
        adapt_epochs: Epochs, after each of which drift is measured.
        epoch_steps: Steps of an epoch, here and in the source training.
        adapt_batch: Tiles of a step.
        adapt_rate: AdamW's learning rate.
        zoom: Largest enlargement of a tile before it is cropped; 1 crops nothing. Also of the source training.
        source_epochs, source_batch, source_rate: Of ``tiny``'s own training; sizes are ours.
    """

    backbone: Literal["imagenet", "tiny"] = "imagenet"
    pictures: tuple[str, ...] = ()
    tile: int = Field(default=64, ge=8, multiple_of=8)  # the networks halve it three times
    stride: int = Field(default=32, ge=1)
    adaptation: Literal["film", "lora", "full", "none"] = "film"
    lora_variant: Literal["lora", "rslora", "dora"] = "rslora"
    lora_rank: int = Field(default=24, ge=1)
    anchored: bool = True
    anchor_weight: float = Field(default=1.0, gt=0)
    adapt_epochs: int = Field(default=40, ge=1)
    epoch_steps: int = Field(default=50, ge=1)
    adapt_batch: int = Field(default=32, ge=1)
    adapt_rate: float = Field(default=1e-4, gt=0)
    zoom: float = Field(default=1.25, ge=1)
    source_epochs: int = Field(default=40, ge=1)
    source_batch: int = Field(default=32, ge=1)
    source_rate: float = Field(default=3e-4, gt=0)

    def network(self) -> AdmConfig:
        """Sizes of the backbone."""
        return ADM_64 if self.backbone == "imagenet" else ADM_TINY
