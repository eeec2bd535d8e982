"""Settings of CLIP, DiffCLIP and the masked autoencoder; their cards contain the values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from mmrs_bench.methods.base import MethodConfig
from mmrs_bench.methods.toolkit.masked_diffusion.stage import ENCODER_SIZES
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig
from mmrs_bench.models.masked_diffusion.crops import Crop
from mmrs_bench.models.masked_diffusion.initial_values import InitialValues
from mmrs_bench.models.masked_diffusion.transformer import Readout, heads_fault


class EncoderConfig(MethodConfig):
    """Settings of the encoder and its inputs, in both stages.

    Attributes:
        components: Largest number of whitened principal components that replace the bands of the HSI, or None.
        input_scale: ``protocol``: the protocol's normalisation; ``cube``: 0 to 1 over all channels of a modality, as
            released, see `mmrs_bench.config.DataConfig`.
        width, heads, depth, mlp_ratio: Sizes, see `mmrs_bench.models.masked_diffusion.transformer.TokenEncoder`.
        readout: Tokens that a classifier reads, see `mmrs_bench.models.masked_diffusion.transformer.Readout`.
        initial_values: See `mmrs_bench.models.masked_diffusion.initial_values.InitialValues`.
    """

    components: int | None = Field(ge=1)
    input_scale: Literal["protocol", "cube"]
    width: int = Field(ge=4, multiple_of=4)
    heads: int = Field(ge=1)
    depth: int = Field(ge=1)
    mlp_ratio: float = Field(gt=0)
    readout: Readout
    initial_values: InitialValues

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
        if fault := heads_fault(info.data.get("width", heads), heads):
            raise ValueError(fault)
        return heads


class ClipConfig(EncoderConfig):
    """Settings of `mmrs_bench.methods.clip.method.Clip`.

    Attributes:
        learn_positions: See `mmrs_bench.models.masked_diffusion.transformer.ImageEncoder`.
        temperature: Initial temperature of the contrast; it is learned.
        text: Text tower, see `mmrs_bench.methods.clip.text`.
        text_layers: Layers of the tower ``scratch``.
        template, descriptions: See `mmrs_bench.methods.clip.prompts.class_prompts`.
        contrast: ``class``: images against classes; ``diagonal``: pairs of a batch against each other, as released.
        crop: Random crops of training windows, see `mmrs_bench.models.masked_diffusion.crops.Crop`.
        symmetries: Whether training windows get a random symmetry of the square.
        timestep: Timestep of clean windows: ``zero``, or ``random`` as released, also in selection and prediction.
        epochs, batch_size: Passes over the support set, and windows of a step.
        learning_rate, weight_decay: Of Adam; the decay is an L2 penalty.
        encoder_rate: Learning rate of tokenizers and encoder as a share of ``learning_rate``.
        schedule: See `mmrs_bench.models.masked_diffusion.schedules.lr_schedule`.
    """

    learn_positions: bool
    temperature: float = Field(gt=0)
    text: str
    text_layers: int = Field(ge=1)
    template: str
    descriptions: dict[str, tuple[str, ...]]
    contrast: Literal["class", "diagonal"]
    crop: Crop
    symmetries: bool
    timestep: Literal["zero", "random"]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    encoder_rate: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "multistep"]


class Stage1Config(EncoderConfig, PretrainingConfig):
    """Settings of stage 1.

    Attributes:
        decoder_depth: Blocks of each modality's decoder.
        mask_ratio: Share of the pixels of a window that are hidden from the encoder.
        masked_weight: Weight of the error of masked pixels; that of visible pixels is 1 by default.
        misplaced_tokens: Whether to use `misplaced_visible` masks for all modalities but the first, as released.
        pretrain_source: ``unlabelled``: the protocol's unlabelled pixels; ``support``: the support set, as released.
        pretrain_decay, pretrain_schedule, pretrain_crop: As the settings of stage 2.
    """

    decoder_depth: int = Field(ge=1)
    mask_ratio: float = Field(gt=0, lt=1)
    masked_weight: float = Field(ge=0)
    misplaced_tokens: bool
    pretrain_source: Literal["unlabelled", "support"]
    pretrain_decay: float = Field(ge=0)
    pretrain_schedule: Literal["cosine", "restarts"]
    pretrain_crop: Crop


class DiffClipConfig(ClipConfig, Stage1Config):
    """Settings of `mmrs_bench.methods.clip.method.DiffClip`, of both stages."""


class MaskedAutoencoderConfig(DiffClipConfig):
    """Settings of `mmrs_bench.methods.clip.method.MaskedAutoencoder`.

    Attributes:
        visible_weight: Weight of the error of visible pixels.
    """

    visible_weight: float = Field(ge=0)


#: Settings that decide the weights of stage 1, besides ``components`` and ``input_scale``, which change the images.
PRETRAINING_SETTINGS = (
    *ENCODER_SIZES,
    "initial_values",
    *(name for name in Stage1Config.model_fields if name not in EncoderConfig.model_fields),
)
