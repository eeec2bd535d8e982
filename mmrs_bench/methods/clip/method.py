"""CLIP and DiffCLIP: few-shot classification of windows against the texts of the classes.

DiffCLIP pretrains its encoder by masked diffusion without labels (stage 1), then trains it against class texts (stage
2). CLIP is stage 2 with an untrained encoder. The masked autoencoder is DiffCLIP without noise in stage 1.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401). The paper compares with "CLIP" without a definition; the
    same encoder without stage 1 is our reading.
Deviation: the released code differs from the paper in places; see the variants of the card.
Deviation: by default, the HSI is reduced to whitened components, channels are normalised by the protocol, initial
    values are torch's and positions fixed, the head reads means of pixel tokens, images are compared with classes at a
    temperature of 0.07, windows are augmented in both stages, learning rates fall from ten times the released ones to
    0, and stage 2 trains tokenizers and encoder at a tenth of the rate. docs/methods/diffclip.md has the reasons.
Deviation: the variants ``release`` and ``release-exact`` differ from the released code in these points: masked pixels
    are dropped before the stem, borders of the scene are mirrored and not repeated, all batches of an epoch have about
    the same size, minimum and maximum are those of the protocol's pixels, and ``release-exact`` predicts a pixel always
    at the same random timestep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmrs_bench.methods.clip.config import (
    PRETRAINING_SETTINGS,
    ClipConfig,
    DiffClipConfig,
    MaskedAutoencoderConfig,
)
from mmrs_bench.methods.clip.module import VECTORS, LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer
from mmrs_bench.methods.clip.text import class_vectors, text_notes
from mmrs_bench.methods.toolkit.masked_diffusion.method import EncoderMethod, PretrainedEncoderMethod
from mmrs_bench.methods.toolkit.masked_diffusion.stage import ENCODER_SIZES
from mmrs_bench.methods.toolkit.network_method import Blueprint
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import PixelLoader
from mmrs_bench.scenes.scene import IntArray

#: Settings that stage 1 receives under the same name.
STAGE_1 = (*ENCODER_SIZES, "decoder_depth", "mask_ratio", "masked_weight", "misplaced_tokens", "initial_values")


class DiffClipStage1(PretrainedEncoderMethod):
    """Base of the methods that start from stage 1 of DiffCLIP."""

    Stage = MaskedDiffusionPretrainer
    pretraining = "diffclip"
    pretraining_version = 4
    stage_settings: ClassVar[tuple[str, ...]] = STAGE_1
    pretraining_settings: ClassVar[tuple[str, ...]] = PRETRAINING_SETTINGS

    pretrained: MaskedDiffusionPretrainer


class Clip(EncoderMethod):
    """The window encoder of DiffCLIP, trained from scratch against the texts of the classes."""

    Config: ClassVar[type[ClipConfig]] = ClipConfig
    Module = LanguageAlignedClassifier
    name = "clip"
    title = "CLIP"
    stage = "language alignment"
    shuffle = "alignment"

    module: LanguageAlignedClassifier
    #: ``text`` of the manifest; a loaded module does not need it.
    text_names: Mapping[str, Sequence[str]] = MappingProxyType({})

    def create(self, data: SceneDataModule) -> None:
        """See `NetworkMethod.create`."""
        self.text_names = data.scene.manifest.text
        super().create(data)

    def hyperparameters(self, blueprint: Blueprint) -> dict[str, Any]:
        """See `NetworkMethod.hyperparameters`; with ``text_names`` if the scene has them."""
        found = super().hyperparameters(blueprint)
        return {**found, "text_names": dict(self.text_names)} if self.text_names else found

    def notes(self) -> tuple[str, ...]:
        """See `Method.notes`: names of class vectors that the scene or near names chose."""
        return text_notes(self.config.text, self.blueprint.class_names, self.text_names)

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> LanguageAlignedClassifier:
        """See `NetworkMethod.build`; a saved module has the vectors of a frozen text tower."""
        vectors = None if weights is None else weights.get(VECTORS)
        return LanguageAlignedClassifier(**self.hyperparameters(blueprint), text_vectors=vectors)

    def prediction_inputs(self, data: SceneDataModule, pixels: IntArray) -> tuple[PixelLoader, Sequence[Callback]]:
        """See `NetworkMethod.prediction_inputs`; each pixel of the scene is embedded once."""
        return data.pixel_dataloader(pixels, add_inputs=dict), (SceneEmbedding(data),)


class DiffClip(DiffClipStage1, Clip):
    """`Clip` with an encoder that is pretrained by masked diffusion."""

    Config: ClassVar[type[DiffClipConfig]] = DiffClipConfig
    title = "DiffCLIP"

    def pretrain(self, data: SceneDataModule) -> None:
        """See `PretrainedEncoderMethod.pretrain`.

        Raises:
            BenchError: See `PretrainedEncoderMethod.pretrain` and `class_vectors`.
        """
        # Faulty texts end the cell before the long stage 1, not after it.
        config, text_names = self.config, data.scene.manifest.text
        class_vectors(config.text, data.class_names, config.template, config.descriptions, text_names)
        super().pretrain(data)


class MaskedAutoencoder(DiffClip):
    """`DiffClip` without diffusion: stage 1 predicts the masked pixels of a window from its visible ones, unnoised.

    Reference: He et al. 2022 (masked autoencoders): an encoder of visible patches only, a small decoder with mask
        tokens, and the error of masked patches alone.
    Deviation: patches are single pixels, of several modalities, whose channels the protocol normalises; the mask ratio
        is that of DiffCLIP. The paper masks 75 % and normalises each patch.
    """

    Config = MaskedAutoencoderConfig
    title = "Masked autoencoder"
    pretraining = "mae"
    stage_settings = (*STAGE_1, "visible_weight")
    pretraining_settings = (*PRETRAINING_SETTINGS, "visible_weight")

    def stage_options(self) -> dict[str, Any]:
        """See `PretrainedEncoderMethod.stage_options`; without noise."""
        return {**super().stage_options(), "noise": False}
