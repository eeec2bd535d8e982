"""CLIP and DiffCLIP: few-shot classification of windows against the texts of the classes.

DiffCLIP pretrains its encoder by masked diffusion without labels (stage 1), then trains it against class texts (stage
2). CLIP is stage 2 with an untrained encoder.

Reference: DiffCLIP (AAAI 2025, doi 10.1609/aaai.v39i21.34401). The paper compares with "CLIP" without a definition; the
    same encoder without stage 1 is our reading.
Deviation: the released code differs from the paper in places; see the variants of the card and
    docs/methods/diffclip.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmrs_bench.methods.clip.alignment import ClipNetwork, FrozenTexts, ScratchTexts
from mmrs_bench.methods.clip.config import ENCODER_SIZES, PRETRAINING_SETTINGS, ClipConfig, DiffClipConfig
from mmrs_bench.methods.clip.masked_vit import ImageEncoder, MaskedDiffusionTransformer
from mmrs_bench.methods.clip.module import (
    LanguageAlignedClassifier,
    MaskedDiffusionPretrainer,
    SceneClassifier,
    visible_count,
)
from mmrs_bench.methods.clip.prompts import class_prompts, tokenize
from mmrs_bench.methods.clip.text import SCRATCH, ScratchTextTower, frozen_class_embeddings
from mmrs_bench.methods.toolkit.network_method import Blueprint, NetworkMethod
from mmrs_bench.methods.toolkit.pretraining import pretrain_on_windows
from mmrs_bench.models.diffusion import TIMESTEPS
from mmrs_bench.randomness import torch_generator
from mmrs_bench.scenes.datamodule import SceneDataModule

#: Increment when the pretraining changes, so that old caches are ignored.
PRETRAINING_VERSION = 2


def class_vectors(config: ClipConfig, class_names: Sequence[str]) -> Tensor | None:
    """Vectors (k, d) of a frozen text tower; None for ``scratch``, whose prompts are only checked.

    Raises:
        ConfigError: If the text tower is unknown, or a class has no text or one that is too long.
        DataError: If a file of the text tower is missing or damaged.
    """
    prompts = _prompts(config, class_names)
    if config.text == SCRATCH:
        tokenize([text for group in prompts for text in group])
        return None
    return frozen_class_embeddings(config.text, class_names, prompts)


def clip_network(
    config: ClipConfig,
    channels: Mapping[str, int],
    side: int,
    class_names: Sequence[str],
    weights: Mapping[str, Tensor] | None = None,
) -> ClipNetwork:
    """An untrained network for windows of ``side`` pixels; raises the errors of `class_vectors`.

    The vectors of a frozen text tower are computed, or taken from the ``weights`` of a saved network.
    """
    vectors = class_vectors(config, class_names) if weights is None else weights.get("texts.embeddings")
    if vectors is None:
        tower = ScratchTextTower(config.width, config.heads, config.text_layers)
        texts: nn.Module = ScratchTexts(tower, _prompts(config, class_names))
    else:
        texts = FrozenTexts(vectors, config.width)
    options = config.model_dump(include={*ENCODER_SIZES, "learn_positions", "readout"})
    return ClipNetwork(ImageEncoder(channels, side, **options), texts, config.temperature)


def _prompts(config: ClipConfig, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return class_prompts(class_names, config.template, config.descriptions)


class Clip(NetworkMethod):
    """The window encoder of DiffCLIP, trained from scratch against the texts of the classes."""

    Config: ClassVar[type[ClipConfig]] = ClipConfig
    name = "clip"
    title = "CLIP"
    stage = "language alignment"
    shuffle = "alignment"

    network: ClipNetwork

    def build(self, blueprint: Blueprint, weights: Mapping[str, Tensor] | None = None) -> ClipNetwork:
        """See `NetworkMethod.build`."""
        return clip_network(self.config, dict(blueprint.channels), blueprint.side, blueprint.class_names, weights)

    def module(self) -> LanguageAlignedClassifier:
        """See `NetworkMethod.module`."""
        return LanguageAlignedClassifier(self.network, self.config, seed=self.context.seed, draw=self.context.draw)

    def predictor(self, data: SceneDataModule) -> SceneClassifier:
        """See `NetworkMethod.predictor`."""
        timesteps = torch.zeros(data.scene.labels.size, dtype=torch.int64)
        if self.config.timestep == "random":
            # One timestep per pixel of the scene, so that predictions do not depend on the other requested pixels.
            generator = torch_generator("predict", self.context.draw, self.context.seed)
            timesteps = torch.randint(TIMESTEPS, timesteps.shape, generator=generator)
        return SceneClassifier(self.network, data, timesteps)


class DiffClip(Clip):
    """`Clip` with an encoder that is pretrained by masked diffusion."""

    Config = DiffClipConfig
    title = "DiffCLIP"

    pretrained: MaskedDiffusionTransformer

    def pretrain(self, data: SceneDataModule) -> None:
        """See `Method.pretrain`; cells with the same images, pixels, settings and seed share one pretraining.

        Raises:
            ConfigError: If the mask leaves no pixel or every pixel visible.
            BenchError: See `class_vectors` and `pretrain_on_windows`.
        """
        config, side = self.config, data.config.window
        class_vectors(config, data.class_names)  # faulty texts end the cell before the long stage 1, not after it
        visible_count(side, config.mask_ratio)
        data, sizes = self.inputs(data), config.model_dump(include={*ENCODER_SIZES, "decoder_depth"})
        self.pretrained = pretrain_on_windows(
            lambda: MaskedDiffusionTransformer(data.channels, side, **sizes),
            lambda network, seed: MaskedDiffusionPretrainer(network, config, side=side, seed=seed),
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
        image, weights = self.network.image, self.pretrained.state_dict()
        shared = {name: tensor for name, tensor in weights.items() if not name.startswith("decoders.")}
        image.load_state_dict({**image.state_dict(), **shared})
