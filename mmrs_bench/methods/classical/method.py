"""Classical baselines: majority, nearest prototype, nearest neighbours, support vector machine and random forest.

Hyperparameters are chosen by cross-validation on the support set. A tuned classifier saves its support features and
hyperparameters; loading fits it again, which is deterministic, so that no estimator is pickled.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from sklearn.base import ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from mmrs_bench.errors import DataError
from mmrs_bench.io import write_json
from mmrs_bench.methods.base import Method, MethodConfig, ParameterCounts, Prediction, Progress
from mmrs_bench.methods.classical.config import Input
from mmrs_bench.methods.classical.features import FeatureExtractor
from mmrs_bench.methods.classical.saved_arrays import ARRAYS_FILE, REFIT_ADVICE, load_arrays, save_arrays
from mmrs_bench.methods.toolkit.tuning import best_by_cross_validation
from mmrs_bench.randomness import derive_seed
from mmrs_bench.reading import read_json
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import FloatArray, IntArray
from mmrs_bench.texts import one_line

SETTINGS_FILE = "settings.json"
#: Largest number of pixels that are classified between two reports of progress.
CLASSIFIED = 1 << 15


class Majority(Method):
    """Predicts the most frequent class of the support set for all pixels; with equal shots that is class 1."""

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        self._target = int(np.bincount(data.support_targets, minlength=data.num_classes).argmax())

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        return np.full(len(pixels), self._target, np.int64)

    def save(self, folder: Path) -> None:
        """See `Method.save`."""
        save_arrays(folder, target=np.array(self._target))

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        self._target = int(load_arrays(folder, target="i")["target"])


class NearestPrototypeConfig(MethodConfig):
    """Settings of `NearestPrototype`.

    Attributes:
        features: Features of a pixel.
    """

    features: Input


class NearestPrototype(Method):
    """Predicts the class with the nearest mean of support features (Euclidean distance)."""

    Config = NearestPrototypeConfig

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        features = self.config.features.extractor(data)(data.support).astype(np.float64)
        classes = range(data.num_classes)
        self._prototypes = np.stack([features[data.support_targets == k].mean(axis=0) for k in classes])

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        offset = (self._prototypes**2).sum(axis=1) / 2  # (|x - p|^2 - |x|^2) / 2 = |p|^2 / 2 - x p
        targets = np.empty(len(pixels), np.int64)
        for positions, x in _parts(self.config.features.extractor(data), pixels, self.context.progress):
            targets[positions] = (offset - x @ self._prototypes.T).argmin(axis=1)
        return targets

    def parameter_counts(self) -> ParameterCounts:
        """All coordinates of the prototypes."""
        return ParameterCounts(self._prototypes.size, self._prototypes.size)

    def bound_to_scene(self) -> str:
        """See `Method.bound_to_scene`."""
        return self.config.features.bound_to_scene()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """See `Method.save`."""
        save_arrays(folder, prototypes=self._prototypes)

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        self._prototypes = load_arrays(folder, prototypes="fkd")["prototypes"]


def _parts(extractor: FeatureExtractor, pixels: IntArray, progress: Progress) -> Iterator[tuple[IntArray, FloatArray]]:
    """Positions (m,) in ``pixels`` and features (m, d) of all pixels, in parts; reports the parts that were used."""
    done = 0
    for positions, block in extractor.blocks(pixels):
        for part in np.array_split(np.arange(len(positions)), -(-len(positions) // CLASSIFIED)):
            yield positions[part], block[part]
            done += len(part)
            progress("prediction", done / len(pixels))


class ClassicalConfig(MethodConfig):
    """Settings of all `Classical` methods.

    Attributes:
        features: Features of a pixel.
        folds: Largest number of folds of the cross-validation; never more than shots.
    """

    features: Input
    folds: int = Field(ge=2)


class Classical(Method):
    """A scikit-learn classifier of pixel features, tuned by cross-validation on the support set."""

    _extractor_cache: tuple[SceneDataModule, FeatureExtractor] | None = None

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`."""
        self._features, self._targets = self._extractor(data)(data.support), data.support_targets
        self._chosen = best_by_cross_validation(
            self._grid(),
            partial(self._fitted, tuning=True),
            self._features,
            self._targets,
            folds=self.config.folds,
            context=self.context,
        )
        self._estimator = self._fitted(self._chosen, self._features, self._targets)
        self.context.progress("training", 1.0)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        targets = np.empty(len(pixels), np.int64)
        for positions, x in _parts(self._extractor(data), pixels, self.context.progress):
            targets[positions] = self._estimator.predict(x)
        return targets

    def bound_to_scene(self) -> str:
        """See `Method.bound_to_scene`."""
        return self.config.features.bound_to_scene()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """See `Method.save`: support features and targets (npz), chosen hyperparameters (JSON)."""
        save_arrays(folder, features=self._features, targets=self._targets)
        write_json(folder / SETTINGS_FILE, self._chosen)

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        arrays = load_arrays(folder, features="fnd", targets="in")
        chosen = read_json(folder / SETTINGS_FILE, error=DataError, advice=REFIT_ADVICE)
        if chosen not in self._grid():
            raise DataError(
                f"{folder / SETTINGS_FILE}: its hyperparameters are not among those of the method's settings; use the "
                f"saved settings, or {REFIT_ADVICE}"
            )
        self._chosen, self._features, self._targets = chosen, arrays["features"], arrays["targets"]
        try:
            self._estimator = self._fitted(self._chosen, self._features, self._targets)
        except ValueError as error:
            raise DataError(f"{folder / ARRAYS_FILE}: {one_line(str(error))}; {REFIT_ADVICE}") from error

    @abstractmethod
    def _grid(self) -> list[dict[str, Any]]:
        """Hyperparameters to choose from, in order of preference."""

    @abstractmethod
    def _build(self, chosen: dict[str, Any], features: FloatArray, *, tuning: bool) -> ClassifierMixin:
        """An untrained estimator for features (n, d); it may be cheaper for ``tuning``."""

    def _fitted(self, chosen: dict[str, Any], features: FloatArray, targets: IntArray, *, tuning: bool = False) -> Any:
        estimator: Any = self._build(chosen, features, tuning=tuning)
        return estimator.fit(features, targets)

    def _extractor(self, data: SceneDataModule) -> FeatureExtractor:
        # Cached, because a morphological profile takes seconds to compute.
        if self._extractor_cache is None or self._extractor_cache[0] is not data:
            self._extractor_cache = (data, self.config.features.extractor(data))
        return self._extractor_cache[1]


class SvmConfig(ClassicalConfig):
    """Settings of `Svm`.

    Attributes:
        costs: Values of C to choose from, in order of preference.
        gammas: Values of gamma to choose from, as multiples of 1 / (number of features), in order of preference.
    """

    costs: tuple[Annotated[float, Field(gt=0)], ...]
    gammas: tuple[Annotated[float, Field(gt=0)], ...]


class Svm(Classical):
    """Support vector machine with an RBF kernel, one against one."""

    Config = SvmConfig

    def _grid(self) -> list[dict[str, Any]]:
        pairs = itertools.product(self.config.gammas, self.config.costs)
        return [{"cost": cost, "gamma": gamma} for gamma, cost in pairs]

    def _build(self, chosen: dict[str, Any], features: FloatArray, *, tuning: bool) -> ClassifierMixin:
        # random_state does not change the result, but without it SVC draws from NumPy's global state.
        return SVC(C=chosen["cost"], gamma=chosen["gamma"] / features.shape[1], random_state=0)


class Probabilistic(Classical):
    """A `Classical` method whose estimator has class probabilities."""

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        return self.predict_with_confidence(data, pixels).targets

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """See `Method.predict_with_confidence`: the largest probability of the estimator."""
        targets, confidence = np.empty(len(pixels), np.int64), np.empty(len(pixels), np.float32)
        for positions, x in _parts(self._extractor(data), pixels, self.context.progress):
            probabilities = self._estimator.predict_proba(x)
            targets[positions] = self._estimator.classes_[probabilities.argmax(axis=1)]
            confidence[positions] = probabilities.max(axis=1)
        return Prediction(targets, confidence)


class NeighboursConfig(ClassicalConfig):
    """Settings of `Neighbours`.

    Attributes:
        neighbours: Numbers of neighbours to choose from, in order of preference; never more than support pixels.
    """

    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)


class Neighbours(Probabilistic):
    """Votes of the nearest support pixels (Euclidean distance), with the inverse distance as weight."""

    Config = NeighboursConfig

    def _grid(self) -> list[dict[str, Any]]:
        return [{"neighbours": count} for count in self.config.neighbours]

    def _build(self, chosen: dict[str, Any], features: FloatArray, *, tuning: bool) -> ClassifierMixin:
        count = min(chosen["neighbours"], len(features))
        # A tree computes each distance by itself. Those of a matrix product depend on the other pixels of the call.
        return KNeighborsClassifier(count, weights="distance", algorithm="ball_tree")


class ForestConfig(ClassicalConfig):
    """Settings of `Forest`.

    Attributes:
        trees: Number of trees.
        tuning_trees: Number of trees in cross-validation.
        max_features: Features per split to choose from, as ``sqrt`` or a share, in order of preference.
    """

    trees: int = Field(ge=1)
    tuning_trees: int = Field(ge=1)
    max_features: tuple[Literal["sqrt"] | Annotated[float, Field(gt=0, le=1)], ...]


class Forest(Probabilistic):
    """Random forest of fully grown trees (Gini impurity, bootstrap samples); its probabilities are mean shares."""

    Config = ForestConfig

    def _grid(self) -> list[dict[str, Any]]:
        return [{"max_features": share} for share in self.config.max_features]

    def _build(self, chosen: dict[str, Any], features: FloatArray, *, tuning: bool) -> ClassifierMixin:
        # One job: with more, votes are summed in the order in which threads finish, and sums can differ in rounding.
        return RandomForestClassifier(
            self.config.tuning_trees if tuning else self.config.trees,
            max_features=chosen["max_features"],
            random_state=derive_seed("forest", self.context.draw, self.context.seed) % 2**32,
            n_jobs=1,
        )
