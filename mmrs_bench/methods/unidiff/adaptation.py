"""Stage A of UniDiff: a diffusion model of photographs is adapted to all sensors of a scene, without labels.

Training mixes tiles of all pictures of the scene. Pseudo-RGB tiles, which resemble photographs, prevent the model from
forgetting these (anchoring). Forgetting is measured as drift of the denoising loss on pseudo-RGB tiles.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from mmrs_bench.io import file_sha256
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining import pretraining_address
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.methods.toolkit.sealed import tensors_sha256
from mmrs_bench.methods.unidiff.adm import AdmConfig, build_adm, zero_last_layers
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import checkpoint_file, pretrained_weights
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.module import SOURCE, STAGE, DenoiserWithCurves, DenoisingModule, write_curve
from mmrs_bench.methods.unidiff.pictures import ANCHOR, ScenePictures, hashed_pictures, scene_pictures
from mmrs_bench.randomness import derive_seed
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import LoaderView, PixelLoader

#: Increment when the trainings change their weights, so that old cache entries are ignored.
ADAPTATION_VERSION = 1
#: Hashes of files, computed once in a process.
_sha256 = cache(file_sha256)
#: Settings of the training of ``tiny``.
SOURCE_SETTINGS = ("tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate")


class Backbone(NamedTuple):
    """A network before the adaptation."""

    network: AdmConfig
    weights: Mapping[str, Tensor]  # on the CPU; they must not be changed in place
    name: str  # contains a hash of the weights or of their file


def adapted_denoiser(
    config: AdaptationConfig, data: SceneDataModule, context: RunContext
) -> tuple[DenoiserWithCurves, Backbone]:
    """Stage A for a scene: read from the cache, or trained and stored there. The draw has no effect.

    Returns:
        The denoiser with its curves, in evaluation mode on the CPU, and its backbone. All curves are zero without
        adaptation, and the drift without pseudo-RGB.

    Raises:
        ConfigError: See `scene_pictures`.
        DataError: If the checkpoint is absent (with the command that fetches it) or damaged, or if the cache has a
            damaged file for this stage.
        TrainingError: If a loss is not finite.
        BenchError: If the cache cannot be written.
    """
    if config.backbone == "imagenet":
        imagenet_backbone(config)  # report a missing checkpoint before the scene is read
    pictures = scene_pictures(config, data)
    backbone = scene_backbone(config, pictures, data, context)
    names = tuple(name for name in pictures.images if config.anchored or name != ANCHOR)

    def build() -> DenoiserWithCurves:
        return DenoiserWithCurves(denoiser_on(backbone, config, seed=context.seed), names, config.adapt_epochs)

    if config.adaptation == "none":
        return build(), backbone

    def train(network: DenoiserWithCurves, context: RunContext) -> None:
        _train(network, pictures, config, STAGE, context)
        write_curve(network, context.work_dir / "logs")

    address = pretraining_address(
        "unidiff",
        ADAPTATION_VERSION,
        data,
        {name: getattr(config, name) for name in AdaptationConfig.model_fields},
        pictures=pictures.sha256,
        backbone=backbone.name,
        network=asdict(backbone.network),
    )
    return load_or_pretrain(address, build, train, context), backbone


def denoiser_on(backbone: Backbone, config: AdaptationConfig, *, seed: int) -> AdaptedDenoiser:
    """The denoiser before its training; ``seed`` is that of the initial low-rank adapters."""
    return AdaptedDenoiser(
        backbone.network,
        backbone.weights,
        config.adaptation,
        backbone=backbone.name,
        lora_variant=config.lora_variant,
        lora_rank=config.lora_rank,
        seed=derive_seed("lora", seed),
    )


def imagenet_backbone(config: AdaptationConfig) -> Backbone:
    """OpenAI's checkpoint; see `pretrained_weights`."""
    network = config.network()
    return Backbone(network, pretrained_weights(network), f"adm-imagenet-64 {_sha256(checkpoint_file())}")


def scene_backbone(
    config: AdaptationConfig, pictures: ScenePictures, data: SceneDataModule, context: RunContext
) -> Backbone:
    """The network to adapt: the checkpoint, or ``tiny``, which is trained or read from the cache.

    All adaptations of a scene share ``tiny``. The draw has no effect.

    Raises:
        DataError, TrainingError, BenchError: See `adapted_denoiser`.
    """
    if config.backbone == "imagenet":
        return imagenet_backbone(config)
    pseudo_rgb = hashed_pictures({ANCHOR: pictures.images[ANCHOR]}, pictures.grid)
    size = config.network()

    def build() -> DenoiserWithCurves:
        unet = build_adm(size)
        zero_last_layers(unet)
        denoiser = AdaptedDenoiser(size, unet.state_dict(), "full", backbone="")
        return DenoiserWithCurves(denoiser, (ANCHOR,), config.source_epochs)

    address = pretraining_address(
        "adm-tiny",
        ADAPTATION_VERSION,
        data,
        {name: getattr(config, name) for name in SOURCE_SETTINGS},
        pictures=pseudo_rgb.sha256,
        network=asdict(size),
    )
    trained = load_or_pretrain(
        address, build, lambda network, context: _train(network, pseudo_rgb, config, SOURCE, context), context
    )
    weights = trained.denoiser.network.state_dict()
    return Backbone(size, weights, f"adm-tiny {tensors_sha256(weights)}")


def _train(
    network: DenoiserWithCurves, pictures: ScenePictures, config: AdaptationConfig, stage: str, context: RunContext
) -> None:
    steps = PixelLoader(np.arange(config.epoch_steps), batch_size=1)
    training.fit(
        DenoisingModule(network, pictures, config, stage=stage, seed=context.seed),
        LoaderView(lambda batch, augment: batch, steps, None, None),  # the training step draws its own tiles
        context,
        stage=stage,
        epochs=getattr(config, f"{stage}_epochs"),
        resumable=True,
    )
