"""A small network that reads both caches; a wrong cached value changes its score."""

from __future__ import annotations

import numpy as np
import torch
from my_method.method import MyMethod  # docs/templates

from mmrs_bench.methods.toolkit.feature_cache import load_or_extract
from mmrs_bench.scenes.datamodule import SceneDataModule


class TortureMethod(MyMethod):
    """The template, whose first bias comes from cached features of the support pixels."""

    name = "torture"
    title = "Torture method"

    def create(self, data: SceneDataModule) -> None:
        """Start from the pretrained encoder, and from the mean feature of every class."""
        super().create(data)
        rows = np.sort(np.concatenate([data.support, data.query]))
        store = load_or_extract(
            {"what": "pixels", "images": data.images_sha256()},
            rows,
            {"pixel": (sum(data.channels.values()),)},
            lambda pixels: {"pixel": torch.from_numpy(data.features(pixels))},
            self.context,
            segment=400,
        )
        features = store.read(data.support)["pixel"].float().mean(dim=1)
        targets = torch.from_numpy(data.support_targets)
        means = [features[targets == k].mean() for k in range(data.num_classes)]
        with torch.no_grad():
            self.module.network.head.bias.copy_(torch.stack(means))
