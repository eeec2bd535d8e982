"""Settings of BDGF; the defaults are in the method card."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from mmrs_bench.methods.bdgf.guided_branches import BranchName, check_branches, head_count
from mmrs_bench.methods.bdgf.modality_masking import MaskRule
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig
from mmrs_bench.models.diffusion import TIMESTEPS


class DenoisingConfig(PretrainingConfig):
    """Settings of stage 1; all of them affect its weights.

    Attributes:
        base, multipliers, blocks: Sizes of the U-Net, see `mmrs_bench.methods.bdgf.multimodal_ddpm.MultimodalDenoiser`.
        mask_rule, mask_least, mask_most, mask_temperature, mask_decay, mask_warmup, mask_every: Mask ratios, see
            `mmrs_bench.methods.bdgf.modality_masking.MaskRatios`.
        mask_patch: Side of the masked squares in pixels.
        mask_whole: Probability that a window is not masked at all.
        loss_weights: ``channels`` weights modalities by their number of channels, as a diffusion model of the stacked
            image does; ``modalities`` weights all modalities equally.
    """

    base: int = Field(ge=1)
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    blocks: int = Field(ge=1)
    mask_rule: MaskRule
    mask_least: float = Field(ge=0, le=1)
    mask_most: float = Field(ge=0, le=1)
    mask_temperature: float = Field(gt=0)
    mask_decay: float = Field(ge=0, lt=1)
    mask_warmup: int = Field(ge=1)
    mask_every: int = Field(ge=1)
    mask_patch: int = Field(ge=1)
    mask_whole: float = Field(ge=0, lt=1)
    loss_weights: Literal["channels", "modalities"]


class BdgfConfig(DenoisingConfig):
    """Settings of both stages.

    Attributes:
        components: Largest number of principal components of the HSI, each with unit variance, that replace its bands;
            None keeps the bands.
        timesteps: Timesteps over which features are averaged.
        branches: Branches of the ensemble; a single one is trained by cross-entropy only.
        width: Channels of a branch.
        reach: See `mmrs_bench.methods.bdgf.guided_branches.distance_bias`.
        dropout: Share of a branch's pooled features that a training step drops.
        entropy_weight, similarity_weight, divergence_weight: See `mmrs_bench.methods.bdgf.mutual_learning.mutual_loss`.
        unlabelled_windows: Unlabelled windows that are added to each step, for the mutual terms only.
        unlabelled_pool: Number of pixels that these are drawn from.
        epochs, batch_size: Passes over the support, and windows of a step.
        learning_rate: Initial rate of AdamW; falls to 0 along a half cosine.
        weight_decay: Weight decay of AdamW.
        symmetries: Whether training windows and their features get a random symmetry of the square.
    """

    components: int | None = Field(ge=1)
    timesteps: tuple[Annotated[int, Field(ge=0, lt=TIMESTEPS)], ...] = Field(min_length=1)
    branches: tuple[BranchName, ...]
    width: int
    reach: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    dropout: float = Field(ge=0, lt=1)
    entropy_weight: float = Field(ge=0)
    similarity_weight: float = Field(ge=0)
    divergence_weight: float = Field(ge=0)
    unlabelled_windows: int = Field(ge=0)
    unlabelled_pool: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    symmetries: bool

    @field_validator("branches")
    @classmethod
    def _check_branches(cls, branches: tuple[str, ...]) -> tuple[str, ...]:
        check_branches(branches)
        return branches

    @field_validator("width")
    @classmethod
    def _check_width(cls, width: int) -> int:
        head_count(width)
        return width
