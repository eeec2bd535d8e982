"""Pixels, targets, images and windows of a scene under one data protocol."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from mmrs_bench.config import DataConfig, Normalisation, drop_fault
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.loader import Batch
from mmrs_bench.scenes.manifest import Manifest
from mmrs_bench.scenes.normalise import Statistics
from mmrs_bench.scenes.prepare import Prepared, component_axes, normalisation_pixels, prepare, reduced
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene
from mmrs_bench.scenes.splits.split import Split
from mmrs_bench.scenes.windows import WindowGatherer


class SceneData:
    """A scene under one data protocol; it is loaded, split and normalised at the first access.

    Args:
        scene: A scene, the name of a shipped scene, the path of a manifest, or a manifest.
        config: The data protocol.
    """

    #: The trainer of a data module.
    trainer: Any = None
    #: Modalities that are missing, see `without`.
    absent: tuple[str, ...] = ()
    _shown: Scene | None = None
    _complete: Self | None = None

    def __init__(self, scene: Scene | str | Manifest, config: DataConfig) -> None:
        self.config = config
        self._source = scene
        self._gatherers: dict[torch.device, WindowGatherer] = {}
        self._changed: dict[tuple[str, Any], Self] = {}

    @cached_property
    def _prepared(self) -> Prepared:
        scene = self._source if isinstance(self._source, Scene) else load_scene(self._source)
        return prepare(scene, self.config)

    @property
    def scene(self) -> Scene:
        """The scene with raw images; those of missing modalities are their means, see `without`."""
        return self._shown or self._prepared.scene

    @property
    def complete(self) -> Self:
        """The same pixels with all modalities, only for statistics of whole images that a method computes itself."""
        return self if self._complete is None else self._complete

    @property
    def normalisation_pixels(self) -> IntArray:
        """The pixels (n,) that normalisation and components are fitted on, see ``normalisation_scope``."""
        return normalisation_pixels(self._prepared.scene, self.split, self.config)

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
    def window(self) -> int:
        """Side of the windows in pixels."""
        return self.config.window

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

    def with_components(self, most: int | None) -> Self:
        """The same pixels with at most so many principal components instead of HSI bands; the result is cached.

        Components are fitted on the protocol's ``normalisation_scope`` and then normalised like bands. Returns the data
        module itself if ``most`` is None, the protocol already has components, or there is no HSI.
        """
        bands = self._bands()
        if most is None or self.config.pca is not None or bands is None:
            return self
        return self._with("pca", min(most, bands))

    def with_normalisation(self, method: Normalisation) -> Self:
        """The same pixels with another normalisation, fitted on the same pixels; the result is cached."""
        return self if method == self.config.normalisation else self._with("normalisation", method)

    def without(self, modalities: Sequence[str]) -> Self:
        """The same pixels as if modalities were missing; the result is cached.

        Missing values are the means of the pixels that the normalisation is fitted to: 0 under ``zscore``.

        Raises:
            ConfigError: If one of them is not among those of the protocol, or none is left.
        """
        if fault := drop_fault(modalities, self.modalities):
            raise ConfigError(fault)
        return self._with("absent", tuple(modalities)) if modalities else self

    def _with(self, setting: str, value: Any) -> Self:
        """The same pixels with images for a changed protocol, or without some modalities."""
        if (setting, value) not in self._changed:
            other = copy.copy(self)
            other.trainer, other._gatherers, other._changed = None, {}, {}
            if setting == "absent":
                other.absent, other._shown = value, _blanked(self._prepared.scene, value)
                other._complete = self
            else:
                other.config = self.config.model_copy(update={setting: value})
                other._complete = None if self._complete is None else self._complete._with(setting, value)
            other._prepared = other._reduced_to(other.config)
            self._changed[setting, value] = other
        return self._changed[setting, value]

    def _bands(self) -> int | None:
        """Bands of the HSI; None without one."""
        return self._prepared.channels.get("hsi")

    def _reduced_to(self, config: DataConfig) -> Prepared:
        """The same pixels with the images of ``config``."""
        return reduced(self._prepared, config, self.absent)

    def component_axes(self) -> dict[int, Statistics]:
        """Directions (components, bands) of the principal components that were used so far, by their number."""
        used = {value for setting, value in self._changed if setting == "pca"}
        numbers = used if self.config.pca is None else {self.config.pca}
        return {number: component_axes(self._prepared, self.config, number) for number in sorted(numbers)}

    def images_sha256(self) -> str:
        """SHA-256 of the normalised images, for the addresses of caches."""
        return hashlib.sha256(self._prepared.canvas.data).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_gatherers": {}}  # of the devices of this process

    def add_windows(self, batch: Batch) -> dict[str, Any]:
        """A copy of a batch with ``pixel`` (b,) and with ``windows`` on the same device.

        If the batch has a ``symmetry`` (b,) in 0..7, it is applied to the windows and then removed. A batch in
        ``unlabelled`` gets windows too.
        """
        pixels = batch["pixel"]
        kept = {name: values for name, values in batch.items() if name != "symmetry"}
        if "unlabelled" in batch:
            kept["unlabelled"] = self.add_windows(batch["unlabelled"])
        return {**kept, "windows": self.gatherer(pixels.device).gather(pixels, batch.get("symmetry"))}

    def gatherer(self, device: torch.device) -> WindowGatherer:
        """The window gatherer of a device; cached."""
        if device not in self._gatherers:
            self._gatherers[device] = WindowGatherer(self._prepared.canvas, self.channels, self.config.window, device)
        return self._gatherers[device]


def _blanked(scene: Scene, modalities: Sequence[str]) -> Scene:
    """A scene whose raw images of some modalities are their means."""
    images = dict(scene.images)
    for name in modalities:
        mean = images[name].mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        images[name] = np.broadcast_to(mean, images[name].shape)
    return replace(scene, images=images)
