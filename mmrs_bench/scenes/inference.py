"""A data module for classifying scenes other than the training scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.normalise import Statistics
from mmrs_bench.scenes.prepare import Prepared, prepare_whole
from mmrs_bench.scenes.scene import Scene


class InferenceDataModule(SceneDataModule):
    """A scene without a split, normalised by its own statistics. Its labels are not used.

    Principal components have the directions of the training scene, because those of another scene are other features.

    Args:
        scene: The scene.
        config: The protocol of the training.
        bands: Bands by modality, in the order of the training. The scene may lack those that ``config`` drops.
        axes: `SceneDataModule.component_axes` of the training data.
        options: Further arguments of `SceneDataModule`.

    Raises:
        ConfigError: If the statistics of the protocol are not those of a whole scene; from `setup`, if the window does
            not fit the scene.
        DataError: From `setup`, if ``axes`` lack the components of the protocol.
    """

    def __init__(
        self,
        scene: Scene,
        config: DataConfig,
        bands: Mapping[str, int],
        axes: Mapping[int, Statistics],
        **options: Any,
    ) -> None:
        super().__init__(scene, config, predict_on="scene", **options)
        if config.normalisation_scope != "scene":
            raise ConfigError(
                f"normalisation_scope {config.normalisation_scope} takes pixels of the split of the training scene, "
                f"which {scene.manifest.tag} does not have; train with normalisation_scope scene to classify other "
                "scenes"
            )
        found = {name: image.shape[2] for name, image in scene.images.items()}
        lacking = [name for name in config.drop if found.get(name) != bands[name]]
        blank = {name: np.zeros((scene.height, scene.width, bands[name]), np.float32) for name in lacking}
        self._scene, self._order, self._axes = replace(scene, images={**scene.images, **blank}), tuple(bands), axes
        self._lacking = lacking

    @cached_property
    def _prepared(self) -> Prepared:
        return self._reduced_to(self.config)

    def _bands(self) -> int | None:
        return self._scene.images["hsi"].shape[2] if "hsi" in self._order else None

    def _reduced_to(self, config: DataConfig) -> Prepared:
        if config.pca is not None and config.pca not in self._axes:
            known = ", ".join(map(str, self._axes)) or "none"
            raise DataError(f"the model has no directions of {config.pca} components (it has {known}); train it again")
        if self._lacking and config.normalisation != "zscore":
            raise ConfigError(
                f"{self._scene.manifest.tag} lacks {' and '.join(self._lacking)}, whose mean is unknown under the "
                f"normalisation {config.normalisation}; use a model with zscore, whose mean is 0"
            )
        axes = None if config.pca is None else self._axes[config.pca]
        return prepare_whole(self._scene, config, self._order, axes, self.absent)
