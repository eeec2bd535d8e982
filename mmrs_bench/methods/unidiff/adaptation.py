"""UniDiff's first stage: one diffusion model of photographs adapted to all sensors of a scene, without labels.

Tiles of all pictures of the scene are mixed; the pseudo-RGB among them, which look most like photographs, are to keep
the model from forgetting these (anchoring). How much it forgets is measured: the denoising loss on pseudo-RGB tiles.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.io import file_sha256
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.methods.unidiff.adm import ADM_64, AdmConfig, build_adm, zero_last_layers
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser, LoraOptions
from mmrs_bench.methods.unidiff.adm_checkpoint import checkpoint_file, pretrained_weights
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.module import SOURCE, STAGE, DiffusionAdapter, StageA, write_curve
from mmrs_bench.methods.unidiff.pictures import ANCHOR, ScenePictures, hashed_pictures, scene_pictures
from mmrs_bench.randomness import derive_seed
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, LoaderView, PixelLoader

#: Raised when the same settings would train to other weights, so that no old ones are read again.
ADAPTATION_VERSION = 1
#: A checkpoint is written about so many times in a training.
CHECKPOINTS = 20


class Backbone(NamedTuple):
    """A network of which few parameters are to be adapted, or none.

    Attributes:
        network: Its sizes.
        weights: All its tensors, on the CPU; nobody may change them in place.
        name: Tells it from all others, by a hash of its weights or of the file that they are from.
    """

    network: AdmConfig
    weights: Mapping[str, Tensor]
    name: str


class Adaptation(NamedTuple):
    """What stage A gives.

    Attributes:
        denoiser: Adapted, in evaluation mode, on the CPU.
        backbone: What it stands on.
        drift: `denoising_loss` on pseudo-RGB tiles before and after every epoch (adapt_epochs + 1,); zeros if it was
            not measured: there was no adaptation, or no pseudo-RGB is seen.
    """

    denoiser: AdaptedDenoiser
    backbone: Backbone
    drift: Tensor


def adapted_denoiser(config: AdaptationConfig, data: SceneDataModule, context: RunContext) -> Adaptation:
    """Stage A of a scene: trained, or read from the cache if another cell has done it.

    Args:
        config: Settings; others of a subclass have no say.
        data: The scene.
        context: The cell's; its draw has no say.

    Raises:
        ConfigError: See `scene_pictures` and `AdaptedDenoiser`; told before any training.
        DataError: If the checkpoint is absent, with the command that fetches it, or damaged, or if the cache holds a
            damaged file for this stage.
        TrainingError: If a loss is not a number.
        BenchError: If the cache cannot be written.
    """
    if config.backbone == "imagenet":
        imagenet_backbone()  # tell that it is missing before the scene is read
    pictures = scene_pictures(config, data)
    backbone = scene_backbone(config, pictures, data, context)
    if config.adaptation == "none":
        return Adaptation(denoiser_on(backbone, config, seed=0), backbone, torch.zeros(config.adapt_epochs + 1))
    names = tuple(name for name in pictures.images if config.anchored or name != ANCHOR)

    def build() -> StageA:
        return StageA(denoiser_on(backbone, config, seed=context.seed), names, config.adapt_epochs)

    def train(network: StageA, context: RunContext) -> None:
        _train(network, pictures, config, STAGE, context)
        write_curve(network, context.work_dir / "logs")

    address = {
        "method": "unidiff",
        "version": ADAPTATION_VERSION,
        "scene": data.scene.manifest.id,
        "pictures": pictures.sha256,
        "backbone": backbone.name,
        "network": asdict(backbone.network),
        "settings": {name: getattr(config, name) for name in AdaptationConfig.model_fields},
    }
    network = load_or_pretrain(address, build, train, context)
    return Adaptation(network.denoiser, backbone, network.drift)


def denoiser_on(backbone: Backbone, config: AdaptationConfig, *, seed: int) -> AdaptedDenoiser:
    """A denoiser as ``config`` adapts it, before any adaptation.

    Args:
        backbone: Shared, never changed.
        config: Settings.
        seed: Of initial values, where there are any (``lora``).
    """
    return AdaptedDenoiser(
        backbone.network,
        backbone.weights,
        config.adaptation,
        backbone=backbone.name,
        lora=LoraOptions(config.lora_variant, config.lora_rank),
        seed=derive_seed("lora", seed),
    )


def imagenet_backbone() -> Backbone:
    """OpenAI's checkpoint, memory-mapped.

    Raises:
        DataError: If it is absent, with the command that fetches it, or damaged.
    """
    weights = pretrained_weights(ADM_64)
    return Backbone(ADM_64, weights, f"adm-imagenet-64 {_sha256(checkpoint_file())}")


def scene_backbone(
    config: AdaptationConfig, pictures: ScenePictures, data: SceneDataModule, context: RunContext
) -> Backbone:
    """The network that is adapted: the checkpoint, or ``tiny``, trained or read from the cache.

    What is adapted to which pictures, and how, has no say in ``tiny``: all settings of that share it.

    Args:
        config: Settings.
        pictures: The scene's, with the pseudo-RGB for ``tiny``.
        data: The scene.
        context: The cell's; its draw has no say.

    Raises:
        ConfigError, DataError, TrainingError, BenchError: See `adapted_denoiser`.
    """
    if config.backbone == "imagenet":
        return imagenet_backbone()
    photographs = hashed_pictures({ANCHOR: pictures.images[ANCHOR]}, pictures.grid)

    def build() -> StageA:
        unet = build_adm(config.network())
        zero_last_layers(unet)
        denoiser = AdaptedDenoiser(config.network(), unet.state_dict(), "full", backbone="")
        return StageA(denoiser, (ANCHOR,), config.source_epochs)

    def train(network: StageA, context: RunContext) -> None:
        _train(network, photographs, config, SOURCE, context)

    settings = ("tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate")
    address = {
        "method": "adm-tiny",
        "version": ADAPTATION_VERSION,
        "scene": data.scene.manifest.id,
        "pictures": photographs.sha256,
        "network": asdict(config.network()),
        "settings": {name: getattr(config, name) for name in settings},
    }
    weights = load_or_pretrain(address, build, train, context).denoiser.network.state_dict()
    return Backbone(config.network(), weights, f"adm-tiny {hashlib.sha256(save(weights)).hexdigest()}")


def _train(network: StageA, pictures: ScenePictures, config: AdaptationConfig, stage: str, context: RunContext) -> None:
    epochs: int = getattr(config, f"{stage}_epochs")
    steps = PixelLoader(np.arange(config.epoch_steps), batch_size=1)
    training.fit(
        DiffusionAdapter(network, pictures, config, stage=stage, seed=context.seed),
        LoaderView(_as_it_is, steps, None, None),
        context,
        stage=stage,
        epochs=epochs,
        resumable=True,
    )


def _as_it_is(batch: Batch, *, augment: bool = False) -> dict[str, Any]:
    """No windows: the step cuts its tiles itself."""
    return dict(batch)


@cache
def _sha256(path: Path) -> str:
    return file_sha256(path)
