"""Pretraining on unlabelled windows: settings, cache key, loader and training in one call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from pydantic import Field

from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.methods.toolkit.training import ModuleT
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

STAGE = "pretraining"


class PretrainingConfig(MethodConfig):
    """Settings of a pretraining on windows.

    Attributes:
        pretrain_epochs: Passes.
        pretrain_windows: Windows of an epoch, other ones in every epoch, unless there are fewer pixels.
        pretrain_batch: Windows of a step.
        pretrain_rate: Adam's learning rate.
        pretrain_symmetries: Whether windows get a random symmetry of the square.
    """

    pretrain_epochs: int = Field(ge=1)
    pretrain_windows: int = Field(ge=1)
    pretrain_batch: int = Field(ge=1)
    pretrain_rate: float = Field(gt=0)
    pretrain_symmetries: bool


def pretraining_address(
    method: str, version: int, data: SceneDataModule, settings: Mapping[str, Any], **inputs: Any
) -> dict[str, Any]:
    """What decides the weights of a pretraining, for the key of its cache entry.

    Args:
        method: Name of the pretraining.
        version: Increment it when the code changes the weights, so that old cache entries are ignored.
        data: The scene.
        settings: The settings that decide the weights.
        inputs: Hashes and sizes of what the network is trained on.
    """
    scene = data.scene.manifest.id
    return {"method": method, "version": version, "scene": scene, "settings": dict(settings), **inputs}


def pretrain_on_windows(
    build: Callable[[], ModuleT],
    module: Callable[[ModuleT, int], L.LightningModule],
    data: SceneDataModule,
    context: RunContext,
    *,
    config: PretrainingConfig,
    settings: tuple[str, ...],
    method: str,
    version: int,
    pixels: IntArray | None = None,
    finish: Callable[[ModuleT, RunContext], None] | None = None,
) -> ModuleT:
    """A network pretrained on windows without labels: read from the cache, or trained and stored there.

    Args:
        build: Makes the untrained network.
        module: From the network and the seed, makes the module that trains it.
        data: The scene as the network receives it.
        context: The cell's.
        config: All settings.
        settings: Names of the settings that decide the weights.
        method, version: See `pretraining_address`.
        pixels: Centres of the windows; by default the unlabelled pixels of the protocol.
        finish: Called with the trained network and the training's context, to write figures to its logs.

    Raises:
        TrainingError: If a loss is not finite.
        DataError: If the cache holds a damaged file for this pretraining.
        BenchError: If the cache cannot be written.
    """
    centres = data.unlabelled if pixels is None else pixels

    def train(network: ModuleT, shared: RunContext) -> None:
        loader = data.shuffled_dataloader(
            (STAGE, shared.seed),
            centres,
            batch_size=config.pretrain_batch,
            augment=config.pretrain_symmetries,
            per_epoch=config.pretrain_windows,
        )
        training.fit(
            module(network, shared.seed),
            data.serving(train=loader),
            shared,
            stage=STAGE,
            epochs=config.pretrain_epochs,
            resumable=True,
        )
        if finish is not None:
            finish(network, shared)

    address = pretraining_address(
        method,
        version,
        data,
        {name: getattr(config, name) for name in settings},
        window=data.config.window,
        channels=data.channels,
        images=data.images_sha256(),
        pixels=hashlib.sha256(centres.tobytes()).hexdigest(),
    )
    return load_or_pretrain(address, build, train, context)
