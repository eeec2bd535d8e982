"""Data modules: a scene, split, normalised and served as batches of pixels with their windows.

`SceneDataModule` works with a plain Lightning ``Trainer`` and needs nothing else of the suite. Loaders yield pixel
indices; windows are gathered on the device in ``on_after_batch_transfer`` (see `mmrs_bench.scenes.windows`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np
import torch

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.loader import Batch, LoaderView, PixelLoader, allow_no_validation
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.prepare import Prepared, prepare, reduced
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene
from mmrs_bench.scenes.splits.split import Split
from mmrs_bench.scenes.windows import WindowGatherer


class SceneDataModule(L.LightningDataModule):
    """One scene under one data protocol.

    Everything below that needs the scene calls `setup` by itself, so the module also serves without a trainer.
    Memory: the raw scene and one normalised canvas; ``images`` are views into the canvas.

    Args:
        scene: A scene, a name of a shipped scene, the path of a manifest, or a manifest.
        config: The data protocol; defaults are 2 shots, window 11, z-scores.
        seed: Seed of training; the order of batches and augmentation depend on it, the split does not.
        batch_size: Largest training batch.
        inference_batch: Largest batch of the validation and prediction loaders.
        augment: Whether training windows get one of the 8 symmetries of the square at random, the same in all
            modalities of a sample.

    Raises:
        ConfigError: From `setup`, if the configuration does not fit the scene.
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
        allow_no_validation()
        self._source = scene
        self._prepared: Prepared | None = None
        self._gatherers: dict[torch.device, WindowGatherer] = {}
        self._reduced: dict[int, SceneDataModule] = {}

    # Preparation

    def setup(self, stage: str | None = None) -> None:
        """Load, split and normalise the scene, once; ``stage`` is ignored."""
        if self._prepared is not None:
            return
        scene = self._source if isinstance(self._source, Scene) else load_scene(self._source)
        self._prepared = prepare(scene, self.config)

    @property
    def _state(self) -> Prepared:
        self.setup()
        return cast(Prepared, self._prepared)

    # The scene and its pixels

    @property
    def scene(self) -> Scene:
        """The scene, raw."""
        return self._state.scene

    @property
    def split(self) -> Split:
        """The split; its query is not limited by ``query_limit``."""
        return self._state.split

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that the method sees, in the manifest's order."""
        return tuple(self._state.channels)

    @property
    def channels(self) -> dict[str, int]:
        """Channels by modality, after PCA."""
        return dict(self._state.channels)

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
        """Normalised float32 images (height, width, channels) by modality; views that must not be written to."""
        return self._state.images()

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
        """Query pixels that are scored, ascending; subsampled if ``query_limit`` says so."""
        return self._state.query

    @property
    def query_targets(self) -> IntArray:
        """Targets of the query pixels, for scoring only."""
        return self._targets(self.query)

    @property
    def unlabelled(self) -> IntArray:
        """Pixels, labelled or not, that pretraining may see without labels."""
        return self._state.unlabelled

    @property
    def validation(self) -> IntArray:
        """200 query pixels under ``paper-val``, else none."""
        return self._state.validation

    @property
    def validation_targets(self) -> IntArray:
        """Targets of the validation pixels."""
        return self._targets(self.validation)

    @property
    def labels_used(self) -> int:
        """Labels that training and selection see: shots * K, and the validation pixels under ``paper-val``."""
        return self.support.size + self.validation.size

    def features(self, pixels: IntArray, modalities: Sequence[str] | None = None) -> FloatArray:
        """Normalised pixel vectors (n, sum of channels), modalities side by side in the manifest's order.

        Args:
            pixels: Flat indices (n,).
            modalities: Some of `modalities`; None takes all.

        Raises:
            ConfigError: If a modality is not among them.
        """
        wanted = self.modalities if modalities is None else tuple(modalities)
        for name in wanted:
            if name not in self.modalities:
                raise unknown_name("modality", name, self.modalities)
        rows, columns = np.divmod(pixels, self.scene.width)
        images = self.images
        return np.concatenate([images[name][rows, columns] for name in self.modalities if name in wanted], axis=1)

    def _targets(self, pixels: IntArray) -> IntArray:
        return self.scene.labels[pixels] - 1

    # Loaders

    def train_dataloader(self) -> PixelLoader:
        """Support pixels with targets, shuffled anew every epoch."""
        return self.shuffled_dataloader(("support", self.config.draw, self.seed), self.support, self.support_targets)

    def unlabelled_dataloader(self) -> PixelLoader:
        """Pixels of the unlabelled scope, shuffled anew every epoch, without targets.

        Their order hangs on the seed, not on the draw: draws that share the scope can share a pretraining.
        """
        return self.shuffled_dataloader(("unlabelled", self.seed), self.unlabelled)

    def val_dataloader(self) -> PixelLoader:
        """Validation pixels with targets under ``paper-val``; empty otherwise."""
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
        """Pixels shuffled anew every epoch, for training.

        Args:
            address: Address of the order (see `mmrs_bench.randomness`), with the draw only where it may matter.
            pixels: Flat indices (n,).
            targets: Their targets (n,), or None.
            batch_size: Largest batch; None takes the data module's.
            augment: Whether windows get a random symmetry; None takes the data module's choice.
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

    def serving(
        self,
        *,
        train: PixelLoader | None = None,
        validate: PixelLoader | None = None,
        predict: PixelLoader | None = None,
    ) -> LoaderView:
        """A data module for ``trainer.fit`` or ``trainer.predict`` with other loaders of this scene.

        Lightning takes either loaders or a data module, and only the latter adds windows to batches. So pretrain with
        ``trainer.fit(model, datamodule=data.serving(train=data.unlabelled_dataloader()))``. Without ``train``
        it cannot fit; other loaders left out are empty.
        """
        return LoaderView(self.add_windows, train, validate, predict)

    def with_components(self, most: int | None) -> SceneDataModule:
        """The same pixels with HSI bands replaced by principal components, for methods that want fewer channels.

        Components are fitted on the protocol's ``normalisation_scope`` and normalised like bands, so with z-scores
        they are whitened. Made once for each number of them.

        Args:
            most: Components at most; fewer if there are fewer bands. If None, without HSI, or if the protocol has
                components already, nothing is replaced.
        """
        state = self._state
        if most is None or self.config.pca is not None or "hsi" not in state.channels:
            return self
        if most in self._reduced:
            return self._reduced[most]
        config = self.config.model_copy(update={"pca": min(most, state.channels["hsi"])})
        other = SceneDataModule(
            state.scene,
            config,
            seed=self.seed,
            batch_size=self.batch_size,
            inference_batch=self.inference_batch,
            augment=self.augment,
        )
        other._prepared = reduced(state, config)
        self._reduced[most] = other
        return other

    def images_sha256(self) -> str:
        """SHA-256 of the normalised images, which addresses what was learned from them."""
        return hashlib.sha256(self._state.canvas.data).hexdigest()

    # Windows

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int = 0) -> dict[str, Any]:
        """Add windows on the batch's device, turned and flipped while a trainer is training with ``augment``."""
        return self.add_windows(batch, augment=self.trainer is not None and self.trainer.training)

    def add_windows(self, batch: Batch, *, augment: bool = False) -> dict[str, Any]:
        """A copy of a batch with ``windows``: per modality (b, channels, window, window) float32.

        Args:
            batch: With ``pixel`` (b,) int64 on any device; ``symmetry`` as training loaders add it.
            augment: Whether to apply the batch's symmetries.
        """
        pixels = batch["pixel"]
        kept = {name: values for name, values in batch.items() if name != "symmetry"}
        symmetry = batch.get("symmetry") if augment else None
        return {**kept, "windows": self.gatherer(pixels.device).gather(pixels, symmetry)}

    def gatherer(self, device: torch.device) -> WindowGatherer:
        """What gathers windows on a device; made once for each."""
        if device not in self._gatherers:
            state = self._state
            self._gatherers[device] = WindowGatherer(state.canvas, state.channels, self.config.window, device)
        return self._gatherers[device]


class _ShippedDataModule(SceneDataModule):
    """A data module of a shipped scene; arguments are those of `SceneDataModule` without ``scene``."""

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
    """Augsburg: HSI, SAR and DSM, 7 classes."""

    dataset = "augsburg"


class BerlinDataModule(_ShippedDataModule):
    """Berlin: HSI and SAR, 8 classes."""

    dataset = "berlin"
