"""Methods that break one promise each, for the conformance tests."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import MethodConfig, ParameterCounts
from mmrs_bench.methods.classical.method import NearestPrototype, PixelInput
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

_calls = itertools.count()


class Honest(NearestPrototype):
    """Breaks none."""


class ReadsQueryLabels(NearestPrototype):
    """Learns from the labels that it is scored on."""

    def fit(self, data: SceneDataModule) -> None:
        features = data.features(data.query).astype(np.float64)
        self._prototypes = np.stack([features[data.query_targets == k].mean(axis=0) for k in range(data.num_classes)])


class ChangesItsMind(NearestPrototype):
    """Predicts something else on every call."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return (super().predict(data, pixels) + next(_calls)) % data.num_classes


class LooksAtTheBatch(NearestPrototype):
    """Normalises by the pixels that happen to be asked for."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        targets = super().predict(data, pixels)
        return targets if len(pixels) > 100 else np.zeros_like(targets)


class FitsByTheClock(NearestPrototype):
    """Fits differently every time."""

    def fit(self, data: SceneDataModule) -> None:
        super().fit(data)
        self._prototypes = np.random.default_rng(next(_calls)).normal(size=self._prototypes.shape)


class WrongType(NearestPrototype):
    """Predicts class ids as floats."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return super().predict(data, pixels).astype(np.float32)  # type: ignore[return-value]


class CountsFromOne(NearestPrototype):
    """Predicts 1..K instead of 0..K-1."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        return super().predict(data, pixels) + 1


class ForgetsWhatItSaved(NearestPrototype):
    """Loads something else than it saved."""

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._prototypes = self._prototypes[::-1]


class SavesCode(NearestPrototype):
    """Leaves a pickle behind."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "model.pkl").write_bytes(b"")


class SeedsTheProcess(NearestPrototype):
    """Moves the global random state."""

    def fit(self, data: SceneDataModule) -> None:
        np.random.seed(1)  # noqa: NPY002
        super().fit(data)


class FusesTwoOrMore(NearestPrototype):
    """Breaks none: it says to its user that one modality is too few."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) < 2:
            raise ConfigError("two modalities or more, please")
        super().fit(data)


class FusesTwo(NearestPrototype):
    """Refuses three modalities; only a single one may be refused."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) != 2:
            raise ConfigError("two modalities, please")
        super().fit(data)


class OneModalityOnly(NearestPrototype):
    """Cannot do without a second sensor."""

    def fit(self, data: SceneDataModule) -> None:
        if len(data.modalities) != 2:
            raise ValueError("two modalities, please")
        super().fit(data)


class OverReports(NearestPrototype):
    """Reports progress in percent."""

    def fit(self, data: SceneDataModule) -> None:
        super().fit(data)
        self.context.progress("training", 100.0)


class TrainsMoreThanItHas(NearestPrototype):
    """Counts more trainable parameters than parameters."""

    def parameter_counts(self) -> ParameterCounts:
        return ParameterCounts(1, 2)


class _OpenConfig(MethodConfig, extra="ignore"):
    features: PixelInput = PixelInput()


class TakesAnySetting(NearestPrototype):
    """Ignores settings it does not know."""

    Config = _OpenConfig  # type: ignore[assignment]
