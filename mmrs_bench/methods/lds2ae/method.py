"""LDS2AE: a local diffusion autoencoder of all modalities without labels, then few-shot classification.

Stage 1 masks and noises windows. An encoder that all modalities share reads the visible pixels, and decoders for each
modality predict the clean windows, also from the features of other modalities. Stage 2 trains the encoder and a linear
head on the support set.

Reference: LDS2AE (Qu et al. 2024, AAAI); sizes, masks, losses and their weights as released.
Deviation: stage 1 reads unlabelled windows. The released code reads the labelled ones, with a classification term of
    weight 0.005, which is left out here. It computes the predictions from other modalities, but does not add their
    errors to its loss; the weights, 0.1 and 0.01, are those it has for them.
Deviation: timesteps of clean windows are 0, in the released code random. It keeps the epoch that is best on 200 pixels
    of the test set; here the last one is scored. It reads the second modality at wrong places, see
    `mmrs_bench.models.masked_diffusion.transformer.misplaced_visible`.
Deviation: by default, inputs, readout, initial values, crops and batches are those of DiffCLIP here, so that the two
    methods differ mainly in the objectives; the encoder learns at 0.3 of the rate, which falls to 0. The variant
    ``release`` has the released ones, but for the crops of stage 1: those of all modalities are the same, where the
    released code draws one for each.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from mmrs_bench.methods.lds2ae.module import SharedEncoderClassifier
from mmrs_bench.methods.lds2ae.pretraining import SharedSpecificPretrainer
from mmrs_bench.methods.toolkit.masked_diffusion.method import PretrainedEncoderMethod
from mmrs_bench.methods.toolkit.masked_diffusion.stage import ENCODER_SIZES
from mmrs_bench.methods.toolkit.pretraining import PretrainingConfig
from mmrs_bench.models.masked_diffusion.crops import Crop
from mmrs_bench.models.masked_diffusion.initial_values import InitialValues
from mmrs_bench.models.masked_diffusion.transformer import Readout, heads_fault


class Lds2aeConfig(PretrainingConfig):
    """Settings of `Lds2ae`.

    Attributes:
        components: Largest number of whitened principal components that replace the bands of the HSI, or None.
        input_scale: ``protocol``: the protocol's normalisation; ``cube``: 0 to 1 over all channels of a modality, as
            released, see `mmrs_bench.config.DataConfig`.
        width, heads, depth, mlp_ratio: Sizes of both stages.
        learn_positions, readout, crop, learning_rate, encoder_rate, weight_decay, schedule: Of stage 2, see
            `mmrs_bench.methods.lds2ae.module.SharedEncoderClassifier`.
        symmetries: Whether training windows of stage 2 get a random symmetry of the square.
        epochs, batch_size: Passes over the support set, and windows of a step.
        decoder_depth, mask_ratio, masked_weight, cross_weight, initial_values: Of stage 1, see
            `mmrs_bench.methods.lds2ae.pretraining.SharedSpecificPretrainer`.
        pretrain_source: ``unlabelled``: the protocol's unlabelled pixels; ``support``: the support set, as released.
        pretrain_decay, pretrain_schedule, pretrain_crop: As the settings of stage 2.
    """

    components: int | None = Field(ge=1)
    input_scale: Literal["protocol", "cube"]
    width: int = Field(ge=4, multiple_of=4)
    heads: int = Field(ge=1)
    depth: int = Field(ge=1)
    mlp_ratio: float = Field(gt=0)
    learn_positions: bool
    readout: Readout
    crop: Crop
    symmetries: bool
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    encoder_rate: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "multistep"]
    decoder_depth: int = Field(ge=1)
    mask_ratio: float = Field(gt=0, lt=1)
    masked_weight: float = Field(ge=0)
    cross_weight: float = Field(ge=0)
    initial_values: InitialValues
    pretrain_source: Literal["unlabelled", "support"]
    pretrain_decay: float = Field(ge=0)
    pretrain_schedule: Literal["cosine", "restarts"]
    pretrain_crop: Crop

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
        if fault := heads_fault(info.data.get("width", heads), heads):
            raise ValueError(fault)
        return heads


#: Settings of stage 1 that its module receives under the same name.
STAGE_1 = (*ENCODER_SIZES, "decoder_depth", "mask_ratio", "masked_weight", "cross_weight", "initial_values")
#: Settings that decide the weights of stage 1, besides those that change the images.
PRETRAINING_SETTINGS = (*STAGE_1, *(name for name in Lds2aeConfig.model_fields if name.startswith("pretrain_")))


class Lds2ae(PretrainedEncoderMethod):
    """Local diffusion shared-specific autoencoder, and a classifier on its encoder."""

    Config = Lds2aeConfig
    Module = SharedEncoderClassifier
    Stage = SharedSpecificPretrainer
    name = "lds2ae"
    title = "LDS2AE"
    stage = "classification"
    pretraining = "lds2ae"
    pretraining_version = 1
    stage_settings = STAGE_1
    pretraining_settings = PRETRAINING_SETTINGS

    module: SharedEncoderClassifier
    pretrained: SharedSpecificPretrainer
