"""Superpixels of a scene, and the graph of those that look alike.

Letters: n superpixels, d features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from skimage.segmentation import slic
from sklearn.neighbors import NearestNeighbors

from mmrs_bench.methods.classical.features import FeatureExtractor, leading_components
from mmrs_bench.scenes.scene import FloatArray, IntArray

#: Standard deviations beyond which a component counts no more in the segmentation; scales the compactness, too.
CLIPPED = 3.0


def superpixels(
    images: Mapping[str, FloatArray],
    scope: IntArray,
    *,
    pixels: int,
    compactness: float,
    components: int,
    variance: float,
) -> IntArray:
    """The superpixel of each pixel (h * w,), numbered from 0: SLIC on all images, without labels.

    Reference: Achanta et al. 2012 (SLIC), IEEE TPAMI 34(11).

    Args:
        images: Normalised images (h, w, c) by modality; principal components replace the bands of ``hsi``.
        scope: Flat indices (m,) of the pixels that the components are fitted on.
        pixels: Mean size of a superpixel.
        compactness: Weight of the distance in the image against that of the values.
        components: Largest number of principal components.
        variance: Share of the variance of the HSI; components beyond it are dropped.
    """
    channels = dict(images)
    if "hsi" in channels:
        channels["hsi"] = leading_components(channels["hsi"], scope, components, variance)
    stack = np.concatenate(list(channels.values()), axis=2)
    np.clip(stack, -CLIPPED, CLIPPED, out=stack)
    count = max(1, stack.shape[0] * stack.shape[1] // pixels)
    segment: Any = slic
    found = segment(stack, count, compactness, convert2lab=False, channel_axis=2, start_label=0)
    numbers: IntArray = np.unique(found, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return numbers


def superpixel_means(extractor: FeatureExtractor, segments: IntArray) -> NDArray[np.float64]:
    """Means (n, d) of the features of the pixels of each superpixel; ``segments`` are those of all pixels."""
    count = int(segments.max()) + 1
    sums = np.zeros((count, extractor.num_features))
    for positions, block in extractor.blocks(np.arange(len(segments), dtype=np.int64)):
        size = len(positions)
        member = sparse.csr_array((np.ones(size), (segments[positions], np.arange(size))), shape=(count, size))
        sums += member @ block
    return sums / np.bincount(segments, minlength=count)[:, None]


def likeness_graph(points: NDArray[np.float64], neighbours: int, labelled: IntArray) -> sparse.coo_matrix:
    """Symmetric weights of a graph of points (n, d) and of copies of the labelled ones.

    Each point is linked with its nearest neighbours, and with the nearest labelled point, so that a label reaches every
    point. The weight is exp(-|x - y|^2 / (s_x s_y)), where s_x is the distance of x to its last neighbour. A copy has a
    link of weight 1 with its point only: points that have several labels need no choice among them.

    Reference: Zelnik-Manor and Perona 2004 (self-tuning spectral clustering), for the weights.

    Args:
        points: Features.
        neighbours: Neighbours of a point; never more than there are other points.
        labelled: Points (l,) that have a label, one for each label.

    Returns:
        (n + l, n + l); the copies are the last l.
    """
    count, copies = len(points), len(labelled)
    distance, nearest = NearestNeighbors(n_neighbors=min(neighbours, count - 1)).fit(points).kneighbors()
    reach = np.maximum(distance[:, -1], np.finfo(np.float64).tiny)
    marked = np.unique(labelled)
    way, closest = NearestNeighbors(n_neighbors=1).fit(points[marked]).kneighbors(points)
    alike = sparse.csr_array((count, count))
    for ends, lengths in ((nearest, distance), (marked[closest], way)):
        exponents = lengths**2 / (reach[:, None] * reach[ends])
        weights = np.maximum(np.exp(-exponents), np.finfo(np.float32).tiny).ravel()
        links = sparse.csr_array((weights, (np.repeat(np.arange(count), ends.shape[1]), ends.ravel())), alike.shape)
        alike = alike.maximum(links).maximum(links.T)
    copied = sparse.csr_array((np.ones(copies), (np.arange(copies), labelled)), shape=(copies, count))
    return sparse.coo_matrix(sparse.block_array([[alike, copied.T], [copied, None]]))
