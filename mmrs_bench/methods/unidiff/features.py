"""Features of UniDiff: activations of the frozen denoiser on tiles, cached, and read as vectors of pixels.

A pixel lies in several overlapping tiles, so vectors belong to pairs of pixel and tile.

Letters: n tiles, s side of a tile, p pictures of the scene, d channels and h w resolution of a decoder block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract
from mmrs_bench.methods.toolkit.sealed import tensors_sha256
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.pictures import ScenePictures, picture_rows
from mmrs_bench.models.batches import fixed_size_batches
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch, PixelLoader
from mmrs_bench.scenes.pictures.tiles import Places
from mmrs_bench.scenes.scene import IntArray

#: Increment when the same weights give other features, so that old cache entries are ignored.
FEATURES_VERSION = 1
#: Seed of the noise, as in UniDiff's released code.
NOISE_SEED = 21
#: Tiles of a forward pass.
BATCH = 4
#: Tiles of one file of the cache: 0.6 GB for three pictures at block 11 of ADM_64, held in memory twice.
SEGMENT = 32


class TileFeatures:
    """Activations of one decoder block on the tiles of a scene, in the feature cache.

    They are stored at their own resolution and enlarged to the size of the tile when they are read (bilinear, corners
    not aligned). Only the tiles that are read are computed.

    Reference: UniDiff (arXiv 2512.00261), released code: one fixed noise, bilinear to 64 x 64, pictures concatenated.

    Args:
        denoiser: The frozen denoiser; it is moved to the device of ``context``.
        pictures: Its input.
        timestep: Noise level, from 0 to 999.
        block: Number of the decoder block, see `AdaptedDenoiser.features`.
        context: Device, precision and progress.
        noise_seed: Seed of the noise.
        class_label: Whether the denoiser receives the row of each picture in the class embedding.

    Attributes:
        grid: The tiles.
        device: Device of the denoiser.
        shapes: (d, h, w) by picture.
    """

    def __init__(
        self,
        denoiser: AdaptedDenoiser,
        pictures: ScenePictures,
        *,
        timestep: int,
        block: int,
        context: RunContext,
        noise_seed: int = NOISE_SEED,
        class_label: bool = True,
    ) -> None:
        self.device = context.execution.resolved().device
        self.shapes = dict.fromkeys(pictures.images, denoiser.feature_shape(pictures.grid.tile, block))
        self._address = {
            "method": "unidiff",
            "version": FEATURES_VERSION,
            "pictures": pictures.sha256,
            "grid": list(astuple(pictures.grid)),
            "adapters": tensors_sha256(denoiser.adapted_state()),
            **denoiser.adapters_metadata(),
            "timestep": timestep,
            "block": block,
            "noise_seed": noise_seed,
            **({} if class_label else {"class_label": False}),
        }
        self.grid = pictures.grid
        self._images = pictures.images
        self._rows = dict(zip(pictures.images, picture_rows([*pictures.images]), strict=True))
        self._denoiser = denoiser.to(self.device)
        self._timestep, self._block, self._noise_seed, self._class_label = timestep, block, noise_seed, class_label
        self._context = context

    def store(self, tiles: IntArray, *, keep: bool = True) -> FeatureStore:
        """The features of tiles (n,).

        Missing ones are computed and stored first; without ``keep``, they are computed when they are read, and nothing
        is written. See `load_or_extract`.
        """
        address, shapes = self._address, self.shapes
        return load_or_extract(address, tiles, shapes, self.compute, self._context, segment=SEGMENT, store=keep)

    def compute(self, tiles: IntArray) -> dict[str, Tensor]:
        """Activations (n, d, h, w) of tiles (n,) by picture, float32, on ``device``."""
        bf16 = self._context.execution.precision == "bf16-mixed"
        parts: dict[str, list[Tensor]] = {name: [] for name in self._images}
        for batch, count in fixed_size_batches(torch.from_numpy(tiles), BATCH):
            for name, picture in self._images.items():
                clean = self.grid.cut(picture, batch).to(self.device)
                row = self._rows[name] if self._class_label else None
                with torch.autocast(self.device, torch.bfloat16, enabled=bf16):
                    found = self._denoiser.features(clean, self._timestep, row, self._block, self._noise_seed)
                parts[name].append(found[:count])
        return {name: torch.cat(found) for name, found in parts.items()}

    def by_tile(
        self, places: Places, store: FeatureStore | None = None, *, keep: bool = True
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Vectors tile by tile; memory holds those of one tile, and the features of `BATCH` tiles.

        Args:
            places: The pairs.
            store: The features, if `store` was called for all tiles before.
            keep: Otherwise, whether to store missing features, see `store`.

        Yields:
            Indices of the pairs in the tile, and the vectors of all places in the tile (s * s, p * d) float32, on
            ``device``.
        """
        order = np.argsort(places.tile, kind="stable")
        tiles, first = np.unique(places.tile[order], return_index=True)
        store = store or self.store(tiles, keep=keep)
        size = (self.grid.tile, self.grid.tile)
        for number, pairs in zip(
            range(len(tiles)), np.split(order, first[1:]), strict=False
        ):  # no pairs: a single part
            if number % BATCH == 0:
                levels = store.read(tiles[number : number + BATCH])
            tile = slice(number % BATCH, number % BATCH + 1)
            maps = [
                functional.interpolate(levels[name][tile].to(self.device).float(), size, mode="bilinear")
                for name in self.shapes
            ]
            yield pairs, torch.cat(maps, dim=1)[0].flatten(1).T

    @property
    def size(self) -> int:
        """Length of a vector, p * d."""
        return sum(shape[0] for shape in self.shapes.values())

    def vectors(self, places: Places, store: FeatureStore | None = None) -> Tensor:
        """The vectors of pairs (pairs, p * d) float32, on the CPU; arguments as of `by_tile`."""
        found = torch.empty(len(places.tile), self.size)
        for pairs, vectors in self.by_tile(places, store):
            found[pairs] = vectors[places.place[pairs]].cpu()
        return found


class PixelPairs:
    """Loaders of features for `mmrs_bench.methods.unidiff.head_module.HeadModule`, whose batches they describe.

    Args:
        data: Pixels and spectra.
        features: The features of the scene.
        spectra: Whether batches have the normalised spectra of the HSI.
    """

    def __init__(self, data: SceneDataModule, features: TileFeatures, *, spectra: bool) -> None:
        self.features = features
        self._data, self._spectra = data, spectra

    @cached_property
    def _labelled(self) -> tuple[IntArray, IntArray, IntArray, dict[str, Tensor]]:
        """Position, pixel and target of each pair of support and validation pixels, and the inputs."""
        pixels = np.concatenate([self._data.support, self._data.validation])
        places = self.features.grid.tiles_of(pixels)
        targets = np.concatenate([self._data.support_targets, self._data.validation_targets])[places.pixel]
        inputs = self.inputs(pixels[places.pixel], self.features.vectors(places))
        return places.pixel, pixels[places.pixel], targets, inputs

    def training(self, address: tuple[str | int, ...], batch_size: int) -> PixelLoader:
        """Pairs of the support pixels in a random order with this address."""
        positions, _, targets, _ = self._labelled
        chosen = np.flatnonzero(positions < len(self._data.support))
        return self._data.shuffled_dataloader(
            address, chosen, targets[chosen], batch_size=batch_size, augment=False, add_inputs=self._add_labelled
        )

    def validation(self) -> PixelLoader:
        """Pairs of the validation pixels, as the released code scores them."""
        positions, _, targets, _ = self._labelled
        chosen = np.flatnonzero(positions >= len(self._data.support))
        return self._data.pixel_dataloader(chosen, targets[chosen], add_inputs=self._add_labelled)

    def pixels(self, pixels: IntArray, targets: IntArray | None = None) -> PixelLoader:
        """Pixels in the given order, each with all its pairs; missing features are computed now."""
        grid = self.features.grid
        store = self.features.store(np.unique(grid.tiles_of(pixels).tile))

        def add_pairs(batch: Batch) -> dict[str, Any]:
            device, own = batch["pixel"].device, batch["pixel"].cpu().numpy()
            places = grid.tiles_of(own)
            pairs = {
                **self.inputs(own[places.pixel], self.features.vectors(places, store)),
                "owner": torch.from_numpy(places.pixel),
                "tile": torch.from_numpy(places.tile),
                "place": torch.from_numpy(places.place),
                "side": torch.tensor([grid.tile]),
            }
            return {**batch, **{name: values.to(device) for name, values in pairs.items()}}

        return self._data.pixel_dataloader(pixels, targets, add_inputs=add_pairs)

    def inputs(self, pixels: IntArray, vectors: Tensor) -> dict[str, Tensor]:
        """The inputs of the head for pairs with these pixels (n,) and vectors (n, d)."""
        if not self._spectra:
            return {"vectors": vectors}
        return {"vectors": vectors, "spectra": torch.from_numpy(self._data.features(pixels, ("hsi",)))}

    def _add_labelled(self, batch: Batch) -> dict[str, Any]:
        _, pixels, _, inputs = self._labelled
        pairs, device = batch["pixel"].cpu(), batch["pixel"].device
        added = {"pixel": torch.from_numpy(pixels), **inputs}
        return {**batch, **{name: values[pairs].to(device) for name, values in added.items()}}
