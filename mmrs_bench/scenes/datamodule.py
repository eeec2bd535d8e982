"""Lightning data modules that serve the pixels of a scene with their windows."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.loader import Batch, LoaderView, PixelLoader, ignore_validation_warnings
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.prepare import Prepared, prepare, reduced
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene
from mmrs_bench.scenes.splits.split import Split
from mmrs_bench.scenes.windows import WindowGatherer


class SceneDataModule(L.LightningDataModule):
    """One scene under one data protocol; it is loaded at the first access.

    Loaders yield pixel indices; windows are gathered on the device after the transfer of a batch.

    Args:
        scene: A scene, the name of a shipped scene, the path of a manifest, or a manifest.
        config: The data protocol; defaults are 2 shots, window 11, z-scores.
        seed: Seed of the order of batches and of augmentation. The split does not depend on it.
        batch_size: Largest training batch.
        inference_batch: Largest batch of the validation and prediction loaders.
        augment: Whether each training window gets a random symmetry of the square, the same in all modalities.

    Raises:
        ConfigError: If a batch size is below 1, or from `setup`, if the configuration does not fit the scene.
        SplitError: From `setup`, if there is no such split.
        DataError: From `setup`, if the scene's files are missing or wrong.
    """

    def __init__(
        self,
        scene: Scene | str | Manifest,
        config: DataConfig | None = None,
        *,
        seed: int = 0,
        batch_size: int = 128,
        inference_batch: int = 2048,
        augment: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("inference_batch", inference_batch)):
            if size < 1:
                raise ConfigError(f"{name} is {size}; use at least 1.")
        self.config = config or DataConfig()
        self.seed = seed
        self.batch_size = batch_size
        self.inference_batch = inference_batch
        self.augment = augment
        ignore_validation_warnings()
        self._source = scene
        self._gatherers: dict[torch.device, WindowGatherer] = {}
        self._reduced: dict[int, SceneDataModule] = {}

    # Preparation

    def setup(self, stage: str | None = None) -> None:
        """Load, split and normalise the scene, once; ``stage`` is ignored."""
        _ = self._prepared

    @cached_property
    def _prepared(self) -> Prepared:
        scene = self._source if isinstance(self._source, Scene) else load_scene(self._source)
        return prepare(scene, self.config)

    # The scene and its pixels

    @property
    def scene(self) -> Scene:
        """The scene with raw images."""
        return self._prepared.scene

    @property
    def split(self) -> Split:
        """The split; ``query_limit`` does not apply to its query."""
        return self._prepared.split

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities of the protocol, in the manifest's order."""
        return tuple(self._prepared.channels)

    @property
    def channels(self) -> dict[str, int]:
        """Channels by modality, after PCA."""
        return dict(self._prepared.channels)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.scene.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 1..K."""
        return self.scene.manifest.class_names

    @property
    def images(self) -> dict[str, FloatArray]:
        """Normalised float32 images (height, width, channels) by modality; read-only views."""
        return self._prepared.images(self.config.window)

    @property
    def support(self) -> IntArray:
        """Support pixels (shots * K,), grouped by class."""
        return self.split.support

    @property
    def support_targets(self) -> IntArray:
        """Targets (shots * K,) of the support pixels."""
        return self._targets(self.support)

    @property
    def query(self) -> IntArray:
        """Scored query pixels, ascending; at most ``query_limit``."""
        return self._prepared.query

    @property
    def query_targets(self) -> IntArray:
        """Targets of the query pixels, only for scoring."""
        return self._targets(self.query)

    @property
    def unlabelled(self) -> IntArray:
        """Pixels for pretraining without labels."""
        return self._prepared.unlabelled

    @property
    def validation(self) -> IntArray:
        """200 query pixels under ``paper-val``; empty otherwise."""
        return self._prepared.validation

    @property
    def validation_targets(self) -> IntArray:
        """Targets of the validation pixels."""
        return self._targets(self.validation)

    @property
    def labels_used(self) -> int:
        """Number of labels for training and selection: shots * K, plus the validation pixels."""
        return self.support.size + self.validation.size

    def features(self, pixels: IntArray, modalities: Sequence[str] | None = None) -> FloatArray:
        """Normalised vectors (n, sum of channels) of pixels (n,), concatenated in the manifest's order of modalities.

        Raises:
            ConfigError: If one of ``modalities`` (by default all) is not among those of the protocol.
        """
        wanted = self.modalities if modalities is None else tuple(modalities)
        for name in sorted(set(wanted) - set(self.modalities)):
            raise unknown_name("modality", name, self.modalities)
        rows, columns = np.divmod(pixels, self.scene.width)
        images = self.images
        return np.concatenate([images[name][rows, columns] for name in self.modalities if name in wanted], axis=1)

    def _targets(self, pixels: IntArray) -> IntArray:
        return self.scene.labels[pixels] - 1

    # Loaders

    def train_dataloader(self) -> PixelLoader:
        """Support pixels with targets, reshuffled every epoch."""
        return self.shuffled_dataloader(("support", self.config.draw, self.seed), self.support, self.support_targets)

    def unlabelled_dataloader(self) -> PixelLoader:
        """Unlabelled pixels, reshuffled every epoch in an order that is the same for all draws of a seed."""
        return self.shuffled_dataloader(("unlabelled", self.seed), self.unlabelled)

    def val_dataloader(self) -> PixelLoader:
        """Validation pixels with targets; empty unless the protocol selects by ``paper-val``."""
        return PixelLoader(self.validation, self.validation_targets, batch_size=self.inference_batch)

    def predict_dataloader(self) -> PixelLoader:
        """Query pixels in ascending order, without targets."""
        return self.pixel_dataloader(self.query)

    def scene_dataloader(self) -> PixelLoader:
        """Every pixel of the raster, row by row, without targets."""
        return self.pixel_dataloader(np.arange(self.scene.labels.size, dtype=np.int64))

    def pixel_dataloader(self, pixels: IntArray) -> PixelLoader:
        """The given pixels in the given order, without targets."""
        return PixelLoader(pixels, batch_size=self.inference_batch)

    def shuffled_dataloader(
        self,
        address: tuple[str | int, ...],
        pixels: IntArray,
        targets: IntArray | None = None,
        *,
        batch_size: int | None = None,
        augment: bool | None = None,
        per_epoch: int | None = None,
    ) -> PixelLoader:
        """Pixels for training, reshuffled every epoch.

        Args:
            address: Address of the random order (see `mmrs_bench.randomness`).
            pixels: Flat indices (n,).
            targets: Their targets (n,), or None.
            batch_size: Largest batch; None takes that of the data module.
            augment: Whether windows get a random symmetry; None takes the setting of the data module.
            per_epoch: See `PixelLoader`.
        """
        return PixelLoader(
            pixels,
            targets,
            batch_size=batch_size or self.batch_size,
            shuffle=("batches", *address),
            augment=self.augment if augment is None else augment,
            per_epoch=per_epoch,
        )

    def serving(self, **loaders: PixelLoader) -> LoaderView:
        """A data module with other loaders of this scene, because Lightning adds windows only to those of data modules.

        ``loaders`` are ``train``, ``validate`` and ``predict`` (see `LoaderView`). For example, pretrain with
        ``trainer.fit(model, datamodule=data.serving(train=data.unlabelled_dataloader()))``.
        """
        return LoaderView(self.add_windows, **loaders)

    def with_components(self, most: int | None) -> SceneDataModule:
        """The same pixels with at most so many principal components instead of HSI bands; the result is cached.

        Components are fitted on the protocol's ``normalisation_scope`` and then normalised like bands. Returns the data
        module itself if ``most`` is None, the protocol already has components, or there is no HSI.
        """
        channels = self._prepared.channels
        if most is None or self.config.pca is not None or "hsi" not in channels:
            return self
        if most not in self._reduced:
            other = copy.copy(self)
            other.trainer, other._gatherers, other._reduced = None, {}, {}
            other.config = self.config.model_copy(update={"pca": min(most, channels["hsi"])})
            other._prepared = reduced(self._prepared, other.config)
            self._reduced[most] = other
        return self._reduced[most]

    def images_sha256(self) -> str:
        """SHA-256 of the normalised images, for the addresses of caches."""
        return hashlib.sha256(self._prepared.canvas.data).hexdigest()

    # Windows

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> dict[str, Any]:
        """Add windows on the batch's device; while a trainer is training, with the batch's symmetries."""
        return self.add_windows(batch, augment=self.trainer is not None and self.trainer.training)

    def add_windows(self, batch: Batch, *, augment: bool = False) -> dict[str, Any]:
        """A copy of a batch with ``windows``: per modality (b, channels, window, window) float32.

        With ``augment``, the batch's ``symmetry`` is applied.
        """
        pixels = batch["pixel"]
        kept = {name: values for name, values in batch.items() if name != "symmetry"}
        symmetry = batch.get("symmetry") if augment else None
        return {**kept, "windows": self.gatherer(pixels.device).gather(pixels, symmetry)}

    def gatherer(self, device: torch.device) -> WindowGatherer:
        """The window gatherer of a device; cached."""
        if device not in self._gatherers:
            self._gatherers[device] = WindowGatherer(self._prepared.canvas, self.channels, self.config.window, device)
        return self._gatherers[device]


class _ShippedDataModule(SceneDataModule):
    """A data module of a shipped scene; its arguments are those of `SceneDataModule` without ``scene``."""

    dataset: ClassVar[str]

    def __init__(self, config: DataConfig | None = None, **options: Any) -> None:
        super().__init__(self.dataset, config, **options)


class Houston2013DataModule(_ShippedDataModule):
    """Houston 2013: HSI and LiDAR, 15 classes."""

    dataset = "houston2013"


class TrentoDataModule(_ShippedDataModule):
    """Trento: HSI and LiDAR, 6 classes."""

    dataset = "trento"


class MUUFLDataModule(_ShippedDataModule):
    """MUUFL Gulfport: HSI and LiDAR, 11 classes."""

    dataset = "muufl"


class AugsburgDataModule(_ShippedDataModule):
    """Augsburg: HSI and SAR, 7 classes."""

    dataset = "augsburg"


class BerlinDataModule(_ShippedDataModule):
    """Berlin: HSI and SAR, 8 classes."""

    dataset = "berlin"
