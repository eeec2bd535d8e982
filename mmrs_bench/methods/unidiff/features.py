"""What UniDiff's frozen denoiser says of a scene's tiles: extracted once, cached, and read as vectors of pixels.

A pixel lies in several overlapping tiles and has a vector in each of them: a pair of a pixel and a tile.

Letters: n tiles, s side of a tile, p pictures of the scene, d channels and h w space of a decoder block's activation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import astuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.pictures import ScenePictures, picture_row
from mmrs_bench.scenes.pictures.tiles import Places
from mmrs_bench.scenes.scene import IntArray

#: Raised when the same weights would give other features, so that no old features are read again.
FEATURES_VERSION = 1
#: Seed of the one noise that all tiles and pictures get, the released code's.
NOISE_SEED = 21
#: Tiles that the denoiser sees at once. Always so many, because another number of them may be computed by other
#: kernels, and so rounded otherwise: a tile's features would hang on which others are asked for.
EXTRACTED_AT_ONCE = 4
#: Tiles whose activations are in memory at once: 0.6 GB of three pictures at block 11 of ADM_64, for a moment twice.
SEGMENT = 32


class TileFeatures:
    """Activations of one decoder block on the tiles of a scene's pictures, in the feature cache.

    They are kept at their own resolution and enlarged to the tile's side when they are read (bilinear, corners not
    aligned), one tile at a time. Only tiles that are asked for are computed.

    Reference: UniDiff (arXiv 2512.00261), released code: one fixed noise, bilinear to 64 x 64, pictures side by side.

    Args:
        denoiser: The frozen denoiser, moved to the device of ``context``.
        pictures: What it sees, and how that is cut into tiles.
        timestep: How much noise, from 0 to 999.
        block: Number of the decoder block, see `AdaptedDenoiser.features`.
        context: Device, precision and progress.

    Attributes:
        grid: The tiles.
        device: Where it computes.
        shapes: (d, h, w) by picture.
    """

    def __init__(
        self, denoiser: AdaptedDenoiser, pictures: ScenePictures, *, timestep: int, block: int, context: RunContext
    ) -> None:
        self.device = context.execution.resolved().device
        self.shapes = dict.fromkeys(pictures.images, activation_shape(denoiser, pictures.grid.tile, block))
        self._address = {
            "method": "unidiff",
            "version": FEATURES_VERSION,
            "pictures": pictures.sha256,
            "grid": list(astuple(pictures.grid)),
            "adapters": hashlib.sha256(save(denoiser.adapted_state())).hexdigest(),
            **denoiser.adapters_metadata(),
            "timestep": timestep,
            "block": block,
            "noise_seed": NOISE_SEED,
        }
        self.grid = pictures.grid
        self._images = pictures.images
        self._denoiser = denoiser.to(self.device)
        self._timestep, self._block = timestep, block
        self._context = context

    def of(self, tiles: IntArray) -> FeatureStore:
        """A store that has the features of these tiles (n,); what the cache lacks is computed first.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        return load_or_extract(self._address, tiles, self.shapes, self.computed, self._context, segment=SEGMENT)

    def computed(self, tiles: IntArray) -> dict[str, Tensor]:
        """Activations (n, d, h, w) of tiles (n,) by picture, float32, on the extractor's device."""
        parts = [self._batch(part) for part in torch.split(torch.from_numpy(tiles), EXTRACTED_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.shapes}

    def by_tile(self, places: Places) -> Iterator[tuple[IntArray, Tensor]]:
        """One tile after the other, those without a pair left out; holds the vectors of one tile only.

        Args:
            places: The pairs that are asked for.

        Yields:
            Which of the pairs lie in the tile, and the vectors of all of its places, asked for or not (s * s, p * d)
            float32, on the extractor's device.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        order = np.argsort(places.tile, kind="stable")
        tiles, first = np.unique(places.tile[order], return_index=True)
        store = self.of(tiles)
        size = (self.grid.tile, self.grid.tile)
        for tile, pairs in zip(tiles.tolist(), np.split(order, first[1:]), strict=False):  # no pairs are one empty part
            levels = store.read(np.array([tile]))
            maps = [
                functional.interpolate(levels[name].to(self.device).float(), size, mode="bilinear")
                for name in self.shapes
            ]
            yield pairs, torch.cat(maps, dim=1)[0].flatten(1).T

    def vectors(self, places: Places) -> Tensor:
        """The vector of every pair (pairs, p * d) float32, on the CPU, in the order of ``places``.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        found = torch.empty(len(places.tile), sum(shape[0] for shape in self.shapes.values()))
        for pairs, vectors in self.by_tile(places):
            found[pairs] = vectors[places.place[pairs]].cpu()
        return found

    def _batch(self, tiles: Tensor) -> dict[str, Tensor]:
        filled = torch.cat([tiles, tiles[:1].expand(EXTRACTED_AT_ONCE - len(tiles))])
        half = self._context.execution.precision == "bf16-mixed"
        found = {}
        for name, picture in self._images.items():
            clean = self.grid.cut(picture, filled).to(self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=half):
                features = self._denoiser.features(clean, self._timestep, picture_row(name), self._block, NOISE_SEED)
            found[name] = features[: len(tiles)]
        return found


def activation_shape(denoiser: AdaptedDenoiser, tile: int, block: int) -> tuple[int, int, int]:
    """(d, h, w) of a decoder block on tiles of this side, without computing it; see `AdaptedDenoiser.features`."""
    config = denoiser.config
    level, number = divmod(block, config.blocks + 1)  # the coarsest level first
    halvings = len(config.multipliers) - 1 - level
    if number == config.blocks and halvings:
        halvings -= 1  # ends with the enlargement to the next level
    return config.channels[-1 - level], tile >> halvings, tile >> halvings
