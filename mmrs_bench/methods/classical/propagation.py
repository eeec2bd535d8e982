"""Label propagation: the labels of the support spread over superpixels that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.semi_supervised import LabelSpreading

from mmrs_bench.errors import ConfigError
from mmrs_bench.methods.base import Method, MethodConfig, Prediction
from mmrs_bench.methods.classical.config import Input
from mmrs_bench.methods.classical.saved_arrays import load_arrays, save_arrays
from mmrs_bench.methods.classical.superpixels import likeness_graph, superpixel_means, superpixels
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray

#: Change of all probabilities at which the spreading ends, and the largest number of its steps.
TOLERANCE, MOST_STEPS = 1e-3, 1000


class LabelPropagationConfig(MethodConfig):
    """Settings of `LabelPropagation`.

    Attributes:
        features: Features of a pixel; a superpixel has their means.
        segment_pixels, compactness, components, variance: See `mmrs_bench.methods.classical.superpixels.superpixels`.
        neighbours: See `mmrs_bench.methods.classical.superpixels.likeness_graph`.
        spread: Share of its probabilities that a superpixel takes from its neighbours in a step.
    """

    features: Input
    segment_pixels: int = Field(ge=1)
    compactness: float = Field(gt=0)
    components: int = Field(ge=1)
    variance: float = Field(gt=0, le=1)
    neighbours: int = Field(ge=1)
    spread: float = Field(gt=0, lt=1)


class LabelPropagation(Method):
    """Superpixels of the scene, a graph of those that look alike, and labels that spread along it.

    A pixel has the class of its superpixel. In another image, a superpixel has the probabilities of the superpixel of
    the training that looks most like it.

    Reference: Zhou et al. 2003 (learning with local and global consistency), NeurIPS 16, equation 4.
    """

    Config = LabelPropagationConfig

    #: Features (n, d) and class probabilities (n, k) of the superpixels of the training.
    _points: NDArray[np.float64]
    _probabilities: NDArray[np.float64]
    #: The data that were segmented last, the superpixel of each pixel, and their features.
    _segmented: tuple[SceneDataModule, IntArray, NDArray[np.float64]] | None = None

    def fit(self, data: SceneDataModule) -> None:
        """See `Method.fit`; superpixels without an unlabelled or a support pixel take no part.

        Raises:
            ConfigError: If there is only one superpixel.
        """
        segments, features = self._superpixels(data)
        used, first = np.unique(segments[np.concatenate([data.support, data.unlabelled])], return_inverse=True)
        labelled = first[: len(data.support)]
        if len(used) < 2:
            raise ConfigError(
                f"segment_pixels {self.config.segment_pixels} makes a single superpixel of the {len(segments)} pixels "
                f"of scene {data.scene.manifest.id}; use fewer pixels"
            )
        self._points = features[used]
        targets = np.concatenate([np.full(len(used), -1), data.support_targets])
        graph = likeness_graph(self._points, self.config.neighbours, labelled)
        spreading = LabelSpreading(_Given(graph), alpha=self.config.spread, max_iter=MOST_STEPS, tol=TOLERANCE)
        spreading.fit(np.zeros((len(targets), 1)), targets)
        self._probabilities = spreading.label_distributions_[: len(used)]
        self.context.progress("training", 1.0)

    def predict(self, data: SceneDataModule, pixels: IntArray) -> IntArray:
        """See `Method.predict`."""
        return self.predict_with_confidence(data, pixels).targets

    def predict_with_confidence(self, data: SceneDataModule, pixels: IntArray) -> Prediction:
        """See `Method.predict_with_confidence`: the share of the class among the labels that reach the superpixel."""
        segments, features = self._superpixels(data)
        nearest = NearestNeighbors(n_neighbors=1).fit(self._points).kneighbors(features, return_distance=False)[:, 0]
        found = self._probabilities[nearest][segments[pixels]]
        self.context.progress("prediction", 1.0)
        return Prediction(found.argmax(axis=1), found.max(axis=1).astype(np.float32))

    def bound_to_scene(self) -> str:
        """See `Method.bound_to_scene`."""
        return self.config.features.bound_to_scene()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """See `Method.save`."""
        save_arrays(folder, points=self._points, probabilities=self._probabilities)

    def load(self, folder: Path) -> None:
        """See `Method.load`."""
        arrays = load_arrays(folder, points="fnd", probabilities="fnk")
        self._points, self._probabilities = arrays["points"], arrays["probabilities"]

    def _superpixels(self, data: SceneDataModule) -> tuple[IntArray, NDArray[np.float64]]:
        """The superpixel of each pixel, and the features (n, d) of the superpixels."""
        if self._segmented is None or self._segmented[0] is not data:
            config = self.config
            present = {name: image for name, image in data.images.items() if name not in data.absent}
            segments = superpixels(
                present,
                data.normalisation_pixels,
                pixels=config.segment_pixels,
                compactness=config.compactness,
                components=config.components,
                variance=config.variance,
            )
            self._segmented = data, segments, superpixel_means(config.features.extractor(data), segments)
        return self._segmented[1:]


class _Given:
    """A kernel of `LabelSpreading` that is a graph which exists already."""

    def __init__(self, graph: sparse.coo_matrix) -> None:
        self._graph = graph

    def __call__(self, *points: NDArray[np.float64]) -> sparse.coo_matrix:
        return self._graph
