"""Data modules of a small scene, and what their loaders yield."""

from __future__ import annotations

import numpy as np

from mmrs_bench.config import DataConfig
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import PixelLoader
from mmrs_bench.scenes.scene import IntArray, Scene


def make(scene: Scene, *, seed: int = 0, **config: object) -> SceneDataModule:
    return SceneDataModule(scene, DataConfig.model_validate({"window": 5, **config}), seed=seed, batch_size=16)


def drained(loader: PixelLoader, field: str = "pixel") -> IntArray:
    return np.concatenate([batch[field].numpy() for batch in loader])


def symmetries(loader: PixelLoader) -> list[int]:
    """The symmetries of one pass; none without augmentation."""
    return [turn for batch in loader.sampler if batch.symmetry is not None for turn in batch.symmetry.tolist()]
