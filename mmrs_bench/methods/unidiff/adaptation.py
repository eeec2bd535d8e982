"""Stage A of UniDiff: a diffusion model of photographs is adapted to all sensors of a scene, without labels.

Training mixes tiles of all pictures of the scene. Pseudo-RGB tiles, which resemble photographs, prevent the model from
forgetting these (anchoring). Forgetting is measured as drift of the denoising loss on pseudo-RGB tiles.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.curves import write_curves
from mmrs_bench.methods.toolkit.pretraining import pretraining_address
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.adm_checkpoint import Backbone, imagenet_backbone
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.methods.unidiff.datamodule import drift_tiles, training_tiles
from mmrs_bench.methods.unidiff.module import SOURCE, STAGE, DenoisingModule
from mmrs_bench.methods.unidiff.pictures import ANCHOR, ScenePictures, hashed_pictures, scene_pictures, training_names
from mmrs_bench.scenes.datamodule import SceneDataModule

#: Increment when the trainings change their weights, so that old cache entries are ignored.
ADAPTATION_VERSION = 2
#: Name of the files of `write_curve`.
CURVE = "drift"
#: Settings of the training of ``tiny``.
SOURCE_SETTINGS = ("tile", "stride", "zoom", "epoch_steps", "source_epochs", "source_batch", "source_rate")


def adapted_denoiser(
    config: AdaptationConfig, data: SceneDataModule, context: RunContext
) -> tuple[DenoisingModule, Backbone]:
    """Stage A for a scene: read from the cache, or trained and stored there. The draw has no effect.

    Returns:
        The module in evaluation mode on the CPU, and its backbone. All curves are zero without adaptation, and the
        drift without pseudo-RGB.

    Raises:
        ConfigError: See `scene_pictures`.
        DataError: If the checkpoint is absent (with the command that fetches it) or damaged, or if the cache has a
            damaged file for this stage.
        TrainingError: If a loss is not finite.
        BenchError: If the cache cannot be written.
    """
    if config.backbone == "imagenet":
        imagenet_backbone(config.network())  # report a missing checkpoint before the scene is read
    pictures = scene_pictures(config, data)
    backbone = scene_backbone(config, pictures, data, context)
    adapts = config.adaptation != "none"
    names = training_names(pictures.images, anchored=config.anchored) if adapts else [*pictures.images]

    def build() -> DenoisingModule:
        module = _module(
            names,
            config,
            context,
            adaptation=config.adaptation,
            lora_variant=config.lora_variant,
            lora_rank=config.lora_rank,
            anchor_weight=config.anchor_weight,
            epochs=config.adapt_epochs,
            learning_rate=config.adapt_rate,
        )
        if config.backbone == "tiny":
            module.use_backbone(backbone)
        return module

    if not adapts:
        return training.initialised(build, context, "pretraining").eval(), backbone

    def train(module: DenoisingModule, context: RunContext) -> None:
        _train(module, pictures, config, context, batch_size=config.adapt_batch, epochs=config.adapt_epochs)
        write_curve(module, context.work_dir / "logs")

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
        seed=seed,
    )


def scene_backbone(
    config: AdaptationConfig, pictures: ScenePictures, data: SceneDataModule, context: RunContext
) -> Backbone:
    """The network to adapt: the checkpoint, or ``tiny``, which is trained or read from the cache.

    All adaptations of a scene share ``tiny``. The draw has no effect.

    Raises:
        DataError, TrainingError, BenchError: See `adapted_denoiser`.
    """
    if config.backbone == "imagenet":
        return imagenet_backbone(config.network())
    pseudo_rgb = hashed_pictures({ANCHOR: pictures.images[ANCHOR]}, pictures.grid)

    def build() -> DenoisingModule:
        return _module(
            [ANCHOR],
            config,
            context,
            adaptation="full",
            epochs=config.source_epochs,
            learning_rate=config.source_rate,
            stage=SOURCE,
        )

    def train(module: DenoisingModule, context: RunContext) -> None:
        _train(module, pseudo_rgb, config, context, batch_size=config.source_batch, epochs=config.source_epochs)

    address = pretraining_address(
        "adm-tiny",
        ADAPTATION_VERSION,
        data,
        {name: getattr(config, name) for name in SOURCE_SETTINGS},
        pictures=pseudo_rgb.sha256,
        network=asdict(config.network()),
    )
    return load_or_pretrain(address, build, train, context).as_backbone()


def _module(
    names: list[str], config: AdaptationConfig, context: RunContext, *, epochs: int, **settings: Any
) -> DenoisingModule:
    fixed: dict[str, Any] = {
        "backbone": config.backbone,
        "sizes": asdict(config.network()),
        "zoom": config.zoom,
        "seed": context.seed,
    }
    module = DenoisingModule(names, **fixed, **settings)
    module.curves.reserve(epochs + 1)  # the cache compares shapes with those of the trained module
    return module


def _train(
    module: DenoisingModule,
    pictures: ScenePictures,
    config: AdaptationConfig,
    context: RunContext,
    *,
    batch_size: int,
    epochs: int,
) -> None:
    train = training_tiles(
        pictures,
        module.pictures,
        batch_size=batch_size,
        epoch_steps=config.epoch_steps,
        stage=module.stage,
        seed=context.seed,
    )
    measured = module.stage == STAGE and ANCHOR in pictures.images
    training.fit(
        module,
        training.Loaders(train, drift_tiles(pictures) if measured else None),
        context,
        stage=module.stage,
        epochs=epochs,
        validate=measured,
        resumable=True,
    )


def write_curve(module: DenoisingModule, folder: Path) -> None:
    """Write drift and losses over epochs to ``drift.csv`` and ``drift.png`` in a folder. Missing values stay empty.

    Raises:
        BenchError: If a file cannot be written.
    """
    values = torch.cat([module.curves["drift"], module.curves["loss"]], dim=1)
    rows = ((epoch, *(value or "" for value in row)) for epoch, row in enumerate(values.tolist()))
    names = (CURVE, *(f"loss_{name}" for name in module.pictures))
    drift, *losses = values.where(values > 0, torch.nan).T
    panels = {
        "hybrid loss": dict(zip(module.pictures, losses, strict=True)),
        "denoising loss, pseudo-RGB": {CURVE: drift},
    }
    write_curves(folder / CURVE, ("epoch", *names), rows, panels)
