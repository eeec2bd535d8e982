"""Methods that each break one promise, for the tests of the conformance tests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import MethodConfig, ParameterCounts
from mmrs_bench.methods.classical.config import PixelInput
from mmrs_bench.methods.classical.method import NearestPrototype
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

_calls = itertools.count()


class Correct(NearestPrototype):
    """Breaks no promise."""


class UsesQueryLabels(NearestPrototype):
    """Learns from query labels."""

    def fit(self, data: SceneDataModule) -> None:
        features = data.features(data.query).astype(np.float64)
        self._prototypes = np.stack([features[data.query_targets == k].mean(axis=0) for k in range(data.num_classes)])


class PredictsDifferently(NearestPrototype):
    """Predicts something else in every call."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return (super().predict(data, pixels) + next(_calls)) % data.num_classes


class ReadsMissingModalities(NearestPrototype):
    """Predicts with the modalities that are missing."""

    def predict_without(self, data: SceneDataModule, pixels: IntArray, missing: Sequence[str]) -> IntArray:
        return self.predict(data, pixels)


class DependsOnOtherPixels(NearestPrototype):
    """Predicts something else when there are few pixels."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        targets = super().predict(data, pixels)
        return targets if len(pixels) > 100 else np.zeros_like(targets)


class FitsDifferently(NearestPrototype):
    """Fits differently every time."""

    def fit(self, data: SceneDataModule) -> None:
        super().fit(data)
        self._prototypes = np.random.default_rng(next(_calls)).normal(size=self._prototypes.shape)


class PredictsFloats(NearestPrototype):
    """Predicts class ids as floats."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return super().predict(data, pixels).astype(np.float32)  # type: ignore[return-value]


class CountsFromOne(NearestPrototype):
    """Predicts 1..K instead of 0..K-1."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return super().predict(data, pixels) + 1


class LoadsOtherState(NearestPrototype):
    """Loads another state than it saved."""

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._prototypes = self._prototypes[::-1]


class SavesCode(NearestPrototype):
    """Saves a pickle."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "model.pkl").write_bytes(b"")


class SeedsTheProcess(NearestPrototype):
    """Changes the global random state."""

    def fit(self, data: SceneDataModule) -> None:
        np.random.seed(1)  # noqa: NPY002
        super().fit(data)


class NeedsTwoOrMoreModalities(NearestPrototype):
    """Breaks no promise: a ConfigError for one modality is allowed."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) < 2:
            raise ConfigError("at least two modalities")
        super().fit(data)


class RefusesThreeModalities(NearestPrototype):
    """Refuses three modalities; only one modality may be refused."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) != 2:
            raise ConfigError("exactly two modalities")
        super().fit(data)


class FailsOnOneModality(NearestPrototype):
    """Raises another error than ConfigError for one modality."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) != 2:
            raise ValueError("exactly two modalities")
        super().fit(data)


class ReportsPercent(NearestPrototype):
    """Reports progress in percent."""

    def fit(self, data: SceneDataModule) -> None:
        super().fit(data)
        self.context.progress("training", 100.0)


class TrainsMoreThanAll(NearestPrototype):
    """Counts more trainable parameters than parameters."""

    def parameter_counts(self) -> ParameterCounts:
        return ParameterCounts(1, 2)


class _OpenConfig(MethodConfig, extra="ignore"):
    features: PixelInput


class AcceptsUnknownSettings(NearestPrototype):
    """Ignores unknown settings."""

    Config = _OpenConfig  # type: ignore[assignment]
