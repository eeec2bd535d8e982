"""Prepares a scene for a data protocol: split, pixel scopes, normalised canvas."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from mmrs_bench.config import DataConfig, PixelScope, drop_fault
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.scenes.normalise import Normaliser, Statistics, principal_axes, principal_components, project
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene, check_window
from mmrs_bench.scenes.splits.split import Split, make_split
from mmrs_bench.scenes.splits.subsample import limit_query, paper_validation
from mmrs_bench.scenes.windows import empty_canvas, interior, reflect_borders


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scene under a data protocol.

    ``channels`` counts them by modality after PCA, ``canvas`` contains the normalised images (see
    `mmrs_bench.scenes.windows`), ``query`` the scored query pixels, ``validation`` those for ``paper-val``.
    """

    scene: Scene
    split: Split
    channels: dict[str, int]
    canvas: FloatArray
    query: IntArray
    unlabelled: IntArray
    validation: IntArray

    def images(self, window: int) -> dict[str, FloatArray]:
        """Normalised images (height, width, channels) by modality, as read-only views into the canvas."""
        view = interior(self.canvas, window)
        view.flags.writeable = False
        return _by_modality(view, self.channels)


def prepare(scene: Scene, config: DataConfig) -> Prepared:
    """Split and normalise a scene.

    Raises:
        ConfigError: If the configuration does not fit the scene.
        SplitError: If there is no such split.
    """
    modalities = _chosen_modalities(scene, config)
    split = make_split(scene, config.split, shots=config.shots, draw=config.draw, window=config.window)
    unlabelled = _pixels_of(scene, split, config.unlabelled, "unlabelled")
    channels, canvas = _normalised(scene, normalisation_pixels(scene, split, config), modalities, config)
    return Prepared(
        scene=scene,
        split=split,
        channels=channels,
        canvas=canvas,
        query=limit_query(scene, split, config.query_limit),
        unlabelled=unlabelled,
        validation=paper_validation(scene, split) if config.selection == "paper-val" else split.query[:0],
    )


def reduced(prepared: Prepared, config: DataConfig, absent: Collection[str] = ()) -> Prepared:
    """The same pixels with images for ``config``, which may have other ``pca`` or ``normalisation`` than before.

    Images of the modalities ``absent`` are the means of the pixels that the normalisation is fitted to.
    """
    scope = normalisation_pixels(prepared.scene, prepared.split, config)
    channels, canvas = _normalised(prepared.scene, scope, tuple(prepared.channels), config, absent=absent)
    return replace(prepared, channels=channels, canvas=canvas)


def component_axes(prepared: Prepared, config: DataConfig, components: int) -> Statistics:
    """The directions (components, bands) of the principal components of the HSI under a protocol."""
    scope = normalisation_pixels(prepared.scene, prepared.split, config)
    return principal_axes(prepared.scene.images["hsi"], scope, components)


def prepare_whole(
    scene: Scene,
    config: DataConfig,
    modalities: tuple[str, ...],
    axes: Statistics | None = None,
    absent: Collection[str] = (),
) -> Prepared:
    """Normalise a scene without a split, by the statistics of all its pixels. Labels are not used.

    Args:
        scene: The scene.
        config: The protocol.
        modalities: Modalities of the scene, in the order of the result.
        axes: Directions (components, bands) onto which the HSI is projected if the protocol has components.
        absent: See `reduced`.

    Raises:
        ConfigError: If the window does not fit the scene.
    """
    check_window(config.window, scene.height, scene.width)
    everything, none = np.arange(scene.labels.size, dtype=np.int64), np.empty(0, dtype=np.int64)
    split = Split(config.split, config.shots, config.draw, config.window, support=none, query=none)
    channels, canvas = _normalised(scene, everything, modalities, config, axes, absent)
    return Prepared(scene, split, channels, canvas, query=none, unlabelled=everything, validation=none)


def _normalised(
    scene: Scene,
    scope: IntArray,
    modalities: tuple[str, ...],
    config: DataConfig,
    axes: Statistics | None = None,
    absent: Collection[str] = (),
) -> tuple[dict[str, int], FloatArray]:
    """Channels by modality and the canvas of normalised images.

    Args:
        scene: The scene.
        scope: Pixels that normalisation and components are fitted to.
        modalities: Names of the images.
        config: The protocol.
        axes: Directions of the components, instead of those of the scene.
        absent: Modalities whose images are the means of the scope.
    """
    raw = {name: scene.images[name] for name in modalities}
    if config.pca is not None:
        hsi = raw["hsi"]
        raw["hsi"] = principal_components(hsi, scope, config.pca) if axes is None else project(hsi, axes)
    channels = {name: image.shape[2] for name, image in raw.items()}
    canvas = empty_canvas(scene.height, scene.width, sum(channels.values()), config.window)
    for name, view in _by_modality(interior(canvas, config.window), channels).items():
        normaliser = Normaliser.fit(raw[name], scope, config.normalisation)
        if name in absent:
            view[...] = normaliser.normalised_mean()
        else:
            normaliser.apply(raw[name], out=view)
    reflect_borders(canvas, config.window)
    return channels, canvas


def _by_modality(image: FloatArray, channels: dict[str, int]) -> dict[str, FloatArray]:
    """Views (height, width, channels) of an image's modalities."""
    ends = np.cumsum(list(channels.values()))
    return {name: image[..., end - channels[name] : end] for name, end in zip(channels, ends, strict=True)}


def _chosen_modalities(scene: Scene, config: DataConfig) -> tuple[str, ...]:
    available = scene.manifest.modality_names
    for name in sorted(set(config.modalities) - set(available)):
        raise unknown_name(f"modality of scene {scene.manifest.id}", name, available)
    chosen = tuple(name for name in available if name in config.modalities or not config.modalities)
    if config.pca is not None and "hsi" not in chosen:
        raise ConfigError(
            f"pca {config.pca} needs modality hsi, but the chosen modalities are {', '.join(chosen)}; set pca to none."
        )
    if fault := drop_fault(config.drop, chosen):
        raise ConfigError(f"scene {scene.manifest.id}: {fault}")
    return chosen


def normalisation_pixels(scene: Scene, split: Split, config: DataConfig) -> IntArray:
    """The pixels that normalisation and components are fitted to."""
    return _pixels_of(scene, split, config.normalisation_scope, "normalisation_scope")


def _pixels_of(scene: Scene, split: Split, scope: PixelScope, setting: str) -> IntArray:
    if scope == "scene":
        return np.arange(scene.labels.size, dtype=np.int64)
    if scope == "support":
        return np.sort(split.support)
    if split.train_area is None:
        raise ConfigError(
            f"{setting} train-blocks needs the split block-v1, the split is {split.name}; use block-v1, or the scope "
            "scene or support."
        )
    return split.train_area
