"""Baselines without gradient descent: the floor, class means, support vector machines and random forests.

Hyper-parameters are chosen by cross-validation inside the support set and nowhere else. State is saved as the
features of the support set and the chosen hyper-parameters; loading fits again, which is deterministic, so no
estimator is ever pickled.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write, write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts
from mmrs_bench.methods.classical.features import (
    FeatureExtractor,
    NeighbourhoodFeatures,
    StackFeatures,
    extended_profile,
)
from mmrs_bench.randomness import derive_seed
from mmrs_bench.reading import read_json
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import FloatArray, IntArray

ARRAYS_FILE = "arrays.npz"
SETTINGS_FILE = "settings.json"


class PixelInput(MethodConfig):
    """The normalised values of the pixel in every modality."""

    kind: Literal["pixel"] = "pixel"

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The extractor of these features on a scene."""
        return StackFeatures(list(data.images.values()))


class NeighbourhoodInput(MethodConfig):
    """The pixel plus mean and standard deviation of its neighbourhoods, every modality and channel.

    Attributes:
        sizes: Sides of the neighbourhoods in pixels.
    """

    kind: Literal["neighbourhood"] = "neighbourhood"
    sizes: tuple[int, ...] = (3, 7, 11)

    @field_validator("sizes")
    @classmethod
    def _odd(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or any(size < 3 or size % 2 == 0 for size in sizes):
            raise ValueError("neighbourhood sizes must be odd and at least 3")
        return sizes

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The extractor of these features on a scene.

        Raises:
            ConfigError: If a neighbourhood is larger than the protocol's window, which splits and audit rely on.
        """
        if max(self.sizes) > data.config.window:
            raise ConfigError(
                f"neighbourhood {max(self.sizes)} reaches beyond the protocol's window {data.config.window}; use a "
                f"window of at least {max(self.sizes)} or set features.sizes to smaller neighbourhoods"
            )
        return NeighbourhoodFeatures(list(data.images.values()), self.sizes)


class ProfileInput(MethodConfig):
    """Extended morphological profile: see `mmrs_bench.methods.classical.features.extended_profile`.

    Attributes:
        components: Most principal components of the HSI.
        variance: Share of the HSI's variance beyond which no further component is kept.
        radii: Radii of the disks in pixels.
    """

    kind: Literal["profile"] = "profile"
    components: int = Field(default=4, ge=1)
    variance: float = Field(default=0.99, gt=0, le=1)
    radii: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4, 6, 8)

    def extractor(self, data: SceneDataModule) -> FeatureExtractor:
        """The extractor of these features on a scene."""
        return StackFeatures(
            [extended_profile(data.images, data.unlabelled, self.components, self.variance, self.radii)]
        )


Input = Annotated[PixelInput | NeighbourhoodInput | ProfileInput, Field(discriminator="kind")]


def _load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """Arrays that a baseline saved.

    Raises:
        DataError: If the file is absent or damaged.
    """
    path = folder / ARRAYS_FILE
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as saved state ({error}); fit and save the method again") from error


def _save_arrays(folder: Path, **arrays: NDArray[Any]) -> None:
    atomic_write(folder / ARRAYS_FILE, lambda file: np.savez(file, allow_pickle=False, **arrays))


class Majority(Method):
    """Predicts the class with most support pixels everywhere; the first such class when several tie.

    With equal shots every class ties, so this predicts class 1: the floor below which a method has learned nothing.
    """

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        self._target = int(np.bincount(data.support_targets, minlength=data.num_classes).argmax())

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        return np.full(len(pixels), self._target, np.int64)

    def save(self, folder: Path) -> None:
        """See `Method.save`."""
        _save_arrays(folder, target=np.array(self._target))

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        self._target = int(_load_arrays(folder)["target"])


class NearestPrototypeConfig(MethodConfig):
    """Settings of `NearestPrototype`."""

    features: Input = PixelInput()


class NearestPrototype(Method):
    """Predicts the class whose mean of support features is nearest (Euclidean distance of normalised values)."""

    Config = NearestPrototypeConfig

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        features = self.config.features.extractor(data)(data.support).astype(np.float64)
        classes = range(data.num_classes)
        self._prototypes = np.stack([features[data.support_targets == k].mean(axis=0) for k in classes])

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        # |x - p|^2 without |x|^2, which is the same for every class.
        offset = (self._prototypes**2).sum(axis=1) / 2
        return _predict_blocks(
            self.config.features.extractor(data),
            pixels,
            lambda block: (offset - block @ self._prototypes.T).argmin(axis=1),
        )

    def parameter_counts(self) -> ParameterCounts:
        """The prototypes' coordinates."""
        return ParameterCounts(self._prototypes.size, self._prototypes.size)

    def save(self, folder: Path) -> None:
        """See `Method.save`."""
        _save_arrays(folder, prototypes=self._prototypes)

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        self._prototypes = _load_arrays(folder)["prototypes"]


def _predict_blocks(
    extractor: FeatureExtractor, pixels: IntArray, classify: Callable[[FloatArray], NDArray[np.integer]]
) -> IntArray:
    targets = np.empty(len(pixels), np.int64)
    for positions, block in extractor.blocks(pixels):
        targets[positions] = classify(block)
    return targets


class ClassicalConfig(MethodConfig):
    """Settings that every method tuned on the support set has.

    Attributes:
        features: What the classifier sees of a pixel.
        folds: Most folds of the cross-validation; with fewer shots, as many folds as shots.
    """

    features: Input = PixelInput()
    folds: int = Field(default=5, ge=2)


class Classical(Method):
    """A scikit-learn classifier on pixel features, tuned by cross-validation inside the support set.

    With one shot there is nothing to validate on, and the first point of the grid is used. Ties go to the earlier
    point, so the grid's order is the order of preference.
    """

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        self._extractor_of = (data, self.config.features.extractor(data))
        self._features = self._extractor_of[1](data.support)
        self._targets = data.support_targets
        self._chosen = self._tune()
        self._refit()
        self.context.progress("training", 1.0)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        return _predict_blocks(self._extractor(data), pixels, self._estimator.predict)

    def save(self, folder: Path) -> None:
        """See `Method.save`: support features and targets (npz), chosen hyper-parameters (JSON)."""
        _save_arrays(folder, features=self._features, targets=self._targets)
        write_json(folder / SETTINGS_FILE, self._chosen)

    def load(self, folder: Path) -> None:
        """See `Method.load`: fits again to the saved support features.

        Raises:
            DataError: If a file is absent or damaged.
        """
        arrays = _load_arrays(folder)
        path = folder / SETTINGS_FILE
        self._chosen = read_json(path, error=DataError, advice="fit and save the method again")
        self._features, self._targets = arrays["features"], arrays["targets"]
        self._refit()

    @abstractmethod
    def _grid(self) -> Iterator[dict[str, Any]]:
        """Hyper-parameters to choose from, the preferred first."""

    @abstractmethod
    def _build(self, chosen: dict[str, Any], *, tuning: bool) -> ClassifierMixin:
        """An estimator with these hyper-parameters; ``tuning`` allows a cheaper one for comparison."""

    def _extractor(self, data: SceneDataModule) -> FeatureExtractor:
        # A profile takes seconds to compute, so the one made for fitting serves predictions too.
        cached: tuple[SceneDataModule, FeatureExtractor] | None = getattr(self, "_extractor_of", None)
        if cached is None or cached[0] is not data:
            self._extractor_of = cached = (data, self.config.features.extractor(data))
        return cached[1]

    def _refit(self) -> None:
        self._estimator: Any = self._build(self._chosen, tuning=False).fit(self._features, self._targets)

    def _tune(self) -> dict[str, Any]:
        grid = list(self._grid())
        folds = min(self.config.folds, int(np.bincount(self._targets).min()))
        if folds < 2 or len(grid) == 1:
            return grid[0]
        # The support is in random draw order within each class, so folds need no shuffling.
        parts = list(StratifiedKFold(folds).split(self._features, self._targets))
        correct = []
        for done, chosen in enumerate(grid):
            correct.append(sum(self._correct(chosen, train, test) for train, test in parts))
            self.context.progress("training", (done + 1) / (len(grid) + 1))
        return grid[int(np.argmax(correct))]

    def _correct(self, chosen: dict[str, Any], train: IntArray, test: IntArray) -> int:
        estimator: Any = self._build(chosen, tuning=True).fit(self._features[train], self._targets[train])
        return int((estimator.predict(self._features[test]) == self._targets[test]).sum())


class SvmConfig(ClassicalConfig):
    """Settings of `Svm`.

    Attributes:
        costs: Values of C to choose from, the preferred first.
        gammas: Widths of the kernel to choose from, as multiples of 1 / (number of features), the preferred first.
    """

    costs: tuple[Annotated[float, Field(gt=0)], ...] = (100.0, 10.0, 1.0, 1000.0)
    gammas: tuple[Annotated[float, Field(gt=0)], ...] = (1.0, 0.1)


class Svm(Classical):
    """Support vector machine with a radial basis function kernel, one against one."""

    Config = SvmConfig

    def _grid(self) -> Iterator[dict[str, Any]]:
        for gamma, cost in itertools.product(self.config.gammas, self.config.costs):
            yield {"cost": cost, "gamma": gamma}

    def _build(self, chosen: dict[str, Any], *, tuning: bool) -> ClassifierMixin:
        # The seed has no effect here, but without one SVC draws from NumPy's global state.
        return SVC(C=chosen["cost"], gamma=chosen["gamma"] / self._features.shape[1], random_state=0)


class ForestConfig(ClassicalConfig):
    """Settings of `Forest`.

    Attributes:
        trees: Trees of the forest.
        tuning_trees: Trees of the smaller forests that are compared in cross-validation.
        max_features: Features looked at per node to choose from, as ``sqrt`` or a share, the preferred first.
    """

    trees: int = Field(default=300, ge=1)
    tuning_trees: int = Field(default=100, ge=1)
    max_features: tuple[Literal["sqrt"] | Annotated[float, Field(gt=0, le=1)], ...] = ("sqrt", 0.5)


class Forest(Classical):
    """Random forest of fully grown trees (Gini impurity, bootstrap samples)."""

    Config = ForestConfig
    _SEED_BITS: ClassVar[int] = 32

    def _grid(self) -> Iterator[dict[str, Any]]:
        for share in self.config.max_features:
            yield {"max_features": share}

    def _build(self, chosen: dict[str, Any], *, tuning: bool) -> ClassifierMixin:
        # One job: with more, votes are added in the order in which threads finish, and sums differ in the last bit.
        return RandomForestClassifier(
            self.config.tuning_trees if tuning else self.config.trees,
            max_features=chosen["max_features"],
            random_state=derive_seed("forest", self.context.draw, self.context.seed) % 2**self._SEED_BITS,
            n_jobs=1,
        )
