"""What BDGF's frozen denoiser says of pixels: extracted once, cached, and kept registered with turned windows.

Letters: b batch, d channels of a level, w window side, n pixels; in `KeptFeatures`, n pixels of a window too.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.bdgf.multimodal_ddpm import MultimodalDenoiser
from mmrs_bench.methods.toolkit.feature_cache import FeatureStore, load_or_extract
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import IntArray
from mmrs_bench.scenes.windows import WindowGatherer

#: Raised when the same weights would give other features, so that no old features are read again.
FEATURES_VERSION = 1
#: Seed of the noise of all features: predictions must not hang on chance.
NOISE_SEED = 0
#: Windows that the denoiser sees at once. Always so many, because another number of them may be computed by other
#: kernels, and so rounded otherwise: a pixel's features would hang on its neighbours in the batch.
EXTRACTED_AT_ONCE = 64


class DiffusionFeatures:
    """Features of a scene's pixels from a frozen denoiser, in the feature cache.

    Args:
        denoiser: The denoiser, moved to the device of ``context``.
        data: The scene as the denoiser sees it.
        timesteps: Timesteps to average over.
        context: Device and progress.
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
            "denoiser": hashlib.sha256(save(denoiser.cpu().state_dict())).hexdigest(),
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

    def of(self, pixels: IntArray) -> FeatureStore:
        """A store that has the features of pixels (n,); what the cache lacks is computed first.

        Raises:
            BenchError: See `mmrs_bench.methods.toolkit.feature_cache.load_or_extract`.
        """
        return load_or_extract(self._address, np.unique(pixels), self.shapes, self.computed, self._context)

    def computed(self, pixels: IntArray) -> dict[str, Tensor]:
        """Features (n, d, w, w) of pixels (n,) by level, float32, on the denoiser's device."""
        parts = [self._batch(part) for part in torch.split(torch.from_numpy(pixels), EXTRACTED_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.shapes}

    def _batch(self, pixels: Tensor) -> dict[str, Tensor]:
        filled = torch.cat([pixels, pixels[:1].expand(EXTRACTED_AT_ONCE - len(pixels))])
        windows = self._gatherer.gather(filled.to(self._device))
        levels = self._denoiser.decoder_features(windows, timesteps=self._timesteps, seed=NOISE_SEED)
        return {name: level[: len(pixels)] for name, level in zip(self.shapes, levels, strict=True)}


def level_name(level: int) -> str:
    """Name of a decoder level in the feature cache; 0 is the coarsest."""
    return f"level-{level}"


class KeptFeatures:
    """Features of a few pixels in memory, turned and flipped as their windows are.

    Args:
        store: Has the features of the pixels.
        pixels: Flat indices (n,), ascending, each once.
        gatherer: Of the windows.
    """

    def __init__(self, store: FeatureStore, pixels: IntArray, gatherer: WindowGatherer) -> None:
        read = store.read(pixels)
        self._pixels = torch.from_numpy(pixels)
        self._levels = [read[level_name(level)] for level in range(len(read))]
        # Windows are symmetric by the places that they are gathered from; the same places within a window.
        rows, columns = gatherer.offsets // gatherer.canvas_width, gatherer.offsets % gatherer.canvas_width
        self._places = rows * gatherer.window + columns  # (8, n)

    def read(self, pixels: Tensor, symmetry: Tensor | None = None) -> list[Tensor]:
        """Features (b, d, w, w) by level, float32, on the device of ``pixels``.

        Args:
            pixels: Some of the pixels (b,).
            symmetry: The symmetry (b,) of each window, as `WindowGatherer.gather` takes it; None leaves them.
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
