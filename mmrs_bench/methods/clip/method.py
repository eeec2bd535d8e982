"""CLIP and DiffCLIP: few-shot classification of windows against the texts of the classes.

DiffCLIP pretrains its encoder by masked diffusion without labels (stage 1), then trains it against class texts (stage
2). CLIP is stage 2 with an untrained encoder.

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

import numpy as np
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmrs_bench.methods.clip.config import ENCODER_SIZES, PRETRAINING_SETTINGS, ClipConfig, DiffClipConfig
from mmrs_bench.methods.clip.module import VECTORS, LanguageAlignedClassifier, SceneEmbedding
from mmrs_bench.methods.clip.pretraining import MaskedDiffusionPretrainer, visible_count
from mmrs_bench.methods.clip.text import class_vectors, text_notes
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.methods.toolkit.pretraining import pretrain_on_windows
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import PixelLoader
from mmrs_bench.scenes.scene import IntArray

#: Increment when the pretraining changes, so that old caches are ignored.
PRETRAINING_VERSION = 4


class Clip(NetworkMethod):
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

    def inputs(self, data: SceneDataModule) -> SceneDataModule:
        """See `NetworkMethod.inputs`; with ``input_scale`` cube, other than the protocol's normalisation."""
        data = super().inputs(data)
        return data.with_normalisation("cube") if self.config.input_scale == "cube" else data

    def prediction_inputs(self, data: SceneDataModule, pixels: IntArray) -> tuple[PixelLoader, Sequence[Callback]]:
        """See `NetworkMethod.prediction_inputs`; each pixel of the scene is embedded once."""
        return data.pixel_dataloader(pixels, add_inputs=dict), (SceneEmbedding(data),)


class DiffClip(Clip):
    """`Clip` with an encoder that is pretrained by masked diffusion."""

    Config = DiffClipConfig
    title = "DiffCLIP"

    pretrained: MaskedDiffusionPretrainer

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`; cells with the same images, pixels, settings and seed share one pretraining.

        Raises:
            ConfigError: If the mask leaves no pixel or every pixel visible.
            BenchError: See `class_vectors` and `pretrain_on_windows`.
        """
        config, window = self.config, data.config.window
        # Faulty texts end the cell before the long stage 1, not after it.
        text_names = data.scene.manifest.text
        class_vectors(config.text, data.class_names, config.template, config.descriptions, text_names)
        visible_count(window, config.mask_ratio)
        data = self.inputs(data)
        shared = ("decoder_depth", "mask_ratio", "masked_weight", "misplaced_tokens", "initial_values")
        options = config.model_dump(include={*ENCODER_SIZES, *shared})

        def build(seed: int) -> MaskedDiffusionPretrainer:
            return MaskedDiffusionPretrainer(
                data.channels,
                window,
                **options,
                learning_rate=config.pretrain_rate,
                weight_decay=config.pretrain_decay,
                schedule=config.pretrain_schedule,
                crop=config.pretrain_crop,
                seed=seed,
            )

        self.pretrained = pretrain_on_windows(
            build,
            data,
            self.context,
            config=config,
            settings=PRETRAINING_SETTINGS,
            method="diffclip",
            version=PRETRAINING_VERSION,
            pixels=np.sort(data.support) if config.pretrain_source == "support" else None,
        )

    def create(self, data: SceneDataModule) -> None:
        """See `NetworkMethod.create`; tokenizers and encoder get the weights of stage 1."""
        super().create(data)
        self.module.take_encoder(self.pretrained)
