"""Pretraining on unlabelled windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import Field

from mmrs_bench.config import PRETRAINING
from mmrs_bench.methods.base import MethodConfig, RunContext
from mmrs_bench.methods.toolkit import training
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.methods.toolkit.stage import StageModule
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

StageT = TypeVar("StageT", bound=StageModule)


class PretrainingConfig(MethodConfig):
    """Settings of a pretraining on windows.

    Attributes:
        pretrain_epochs: Number of epochs.
        pretrain_windows: Windows per epoch; every epoch draws new ones.
        pretrain_batch: Windows per step.
        pretrain_rate: Learning rate.
        pretrain_symmetries: Whether windows are flipped and rotated at random.
    """

    pretrain_epochs: int = Field(ge=1)
    pretrain_windows: int = Field(ge=1)
    pretrain_batch: int = Field(ge=1)
    pretrain_rate: float = Field(gt=0)
    pretrain_symmetries: bool


def pretraining_address(
    method: str, version: int, data: SceneDataModule, settings: Mapping[str, Any], **inputs: Any
) -> dict[str, Any]:
    """The address of a pretraining for `mmrs_bench.methods.toolkit.pretraining_cache.load_or_pretrain`.

    Args:
        method: Name of the pretraining.
        version: Increment when the pretraining changes, so that old cache entries are ignored.
        data: The scene.
        settings: Settings that the weights depend on.
        inputs: Further values that the weights depend on, such as hashes of images and pixels.
    """
    scene = data.scene.manifest.id
    return {"method": method, "version": version, "scene": scene, "settings": dict(settings), **inputs}


def pretrain_on_windows(
    build: Callable[[int], StageT],
    data: SceneDataModule,
    context: RunContext,
    *,
    config: PretrainingConfig,
    settings: tuple[str, ...],
    method: str,
    version: int,
    pixels: IntArray | None = None,
    finish: Callable[[StageT, RunContext], None] | None = None,
) -> StageT:
    """Load a module that was pretrained on windows without labels from the cache, or pretrain it.

    Args:
        build: Builds the untrained module from the seed of its random numbers.
        data: The scene as the network receives it.
        context: Context of the cell.
        config: The settings.
        settings: Names of the settings that the weights depend on.
        method: Name of the pretraining.
        version: Increment when the pretraining changes, so that old cache entries are ignored.
        pixels: Centres of the windows (n,); by default the unlabelled pixels of the protocol.
        finish: Called with the trained module and the context of the training, for example to log figures.

    Raises:
        TrainingError, DataError, BenchError: See `mmrs_bench.methods.toolkit.pretraining_cache.load_or_pretrain`.
    """
    centres = data.unlabelled if pixels is None else pixels

    def train(module: StageT, shared: RunContext) -> None:
        loader = data.shuffled_dataloader(
            (PRETRAINING, shared.seed),
            centres,
            batch_size=config.pretrain_batch,
            augment=config.pretrain_symmetries,
            per_epoch=config.pretrain_windows,
        )
        training.fit(
            module,
            training.Loaders(loader),
            shared,
            stage=PRETRAINING,
            epochs=config.pretrain_epochs,
            resumable=True,
        )
        if finish is not None:
            finish(module, shared)

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
    return load_or_pretrain(address, lambda: build(context.seed), train, context)
