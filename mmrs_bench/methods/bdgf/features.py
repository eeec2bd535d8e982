"""Features of pixels from BDGF's frozen denoiser: extracted once, cached, and augmented like their windows.

Letters: b batch, d channels of a level, w window side, n pixels; in `InMemoryFeatures`, also n pixels of a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.multimodal_ddpm import NOISE_SEED, MultimodalDenoiser
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract
from mmrs_bench.methods.toolkit.sealed import tensors_sha256
from mmrs_bench.models.batches import fixed_size_batches
from mmrs_bench.models.threads import parallel_map
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.loader import Batch
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import WindowGatherer

#: Increment when the features of the same weights change, so that old cache entries are ignored.
FEATURES_VERSION = 1
#: Windows per call of the denoiser.
EXTRACTION_BATCH = 64


class DiffusionFeatures:
    """Features of a scene's pixels from a frozen denoiser, stored in the feature cache.

    Args:
        denoiser: The denoiser; it is moved to the device of ``context``.
        data: The scene as the denoiser receives it.
        timesteps: Timesteps to average over.
        context: The cell's.
    """

    def __init__(
        self, denoiser: MultimodalDenoiser, data: SceneDataModule, timesteps: tuple[int, ...], context: RunContext
    ) -> None:
        self._device = context.execution.resolved().device
        self._address = {
            "method": "bdgf",
            "version": FEATURES_VERSION,
            "scene": data.scene.manifest.id,
            "window": data.config.window,
            "channels": data.channels,
            "images": data.images_sha256(),
            "denoiser": tensors_sha256(denoiser.cpu().state_dict()),
            "timesteps": list(timesteps),
            "noise_seed": NOISE_SEED,
        }
        self.shapes = {
            level_name(level): (count, denoiser.side, denoiser.side)
            for level, count in enumerate(denoiser.feature_channels)
        }
        self._denoiser = denoiser.to(self._device).eval()
        self._gatherer = data.gatherer(torch.device(self._device))
        self._timesteps = timesteps
        self._context = context

    def load_or_extract(self, pixels: IntArray, *, store: bool = True) -> FeatureStore:
        """A store of the features of pixels (n,).

        Those that the cache lacks are computed and stored first; without ``store``, they are computed when they are
        read, and nothing is written.
        """
        return load_or_extract(self._address, np.unique(pixels), self.shapes, self.compute, self._context, store=store)

    def compute(self, pixels: IntArray) -> dict[str, Tensor]:
        """Features (n, d, w, w) of pixels (n,), n > 0, by level, float32, on the denoiser's device."""

        def extract(part: tuple[Tensor, int]) -> list[Tensor]:
            batch, count = part
            windows = self._gatherer.gather(batch.to(self._device))
            levels = self._denoiser.decoder_features(windows, timesteps=self._timesteps)
            return [level[:count] for level in levels]

        with torch.no_grad():
            batches = fixed_size_batches(torch.from_numpy(pixels), EXTRACTION_BATCH)
            parts = parallel_map(extract, batches, torch.device(self._device))
        levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        return dict(zip(self.shapes, levels, strict=True))


def level_name(level: int) -> str:
    """Name of a decoder level in the feature cache; 0 is the coarsest."""
    return f"level-{level}"


class InMemoryFeatures:
    """Features of some pixels in memory, rotated and flipped like their windows.

    Args:
        store: Store with the features of the pixels.
        pixels: Flat indices (n,), ascending, without repetition.
        gatherer: Gatherer of the windows.
    """

    def __init__(self, store: FeatureStore, pixels: IntArray, gatherer: WindowGatherer) -> None:
        read = store.read(pixels)
        self._pixels = torch.from_numpy(pixels)
        self._levels = [read[level_name(level)] for level in range(len(read))]
        # The gatherer applies a symmetry by the order of its offsets; the same order within a window.
        rows, columns = gatherer.offsets // gatherer.canvas_width, gatherer.offsets % gatherer.canvas_width
        self._places = rows * gatherer.window + columns  # (8, n)

    def add_to(self, served: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """A served batch with ``features`` of its pixels, and of those in its entry ``unlabelled``.

        Args:
            served: The batch with windows.
            batch: The same batch with ``pixel`` (b,) and ``symmetry`` (b,), see `mmrs_bench.scenes.loader.AddInputs`.
        """
        added = {**served, "features": self.read(batch["pixel"], batch.get("symmetry"))}
        if "unlabelled" in batch:
            added["unlabelled"] = self.add_to(served["unlabelled"], batch["unlabelled"])
        return added

    def read(self, pixels: Tensor, symmetry: Tensor | None = None) -> list[Tensor]:
        """Features (b, d, w, w) by level, float32, on the device of ``pixels``.

        Args:
            pixels: Some of the pixels (b,).
            symmetry: The symmetry (b,) of each window, see `WindowGatherer.gather`; None applies none.
        """
        device = pixels.device
        self._pixels, self._places = self._pixels.to(device), self._places.to(device)
        self._levels = [level.to(device) for level in self._levels]
        rows = torch.searchsorted(self._pixels, pixels)
        levels = [level[rows].float() for level in self._levels]
        if symmetry is None:
            return levels
        places = self._places[symmetry][:, None]  # (b, 1, n)
        return [
            level.flatten(2).gather(2, places.expand(-1, level.shape[1], -1)).reshape(level.shape) for level in levels
        ]
