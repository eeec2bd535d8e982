"""UniDiff's features of a batch of tiles with the full-size network (296 million parameters, random weights), float32.

The bound is one large matrix product with as many operations as its convolutions, products and attentions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from work import Work, operations, product

from mmrs_bench.methods.unidiff.adm import adm_config, build_adm
from mmrs_bench.methods.unidiff.adm_adaptation import AdaptedDenoiser
from mmrs_bench.methods.unidiff.features import BATCH

BLOCK, TILE = 10, 64


def works() -> Iterator[Work]:
    config = adm_config("imagenet")
    torch.manual_seed(0)
    weights = build_adm(config).state_dict()
    denoiser = AdaptedDenoiser(config, weights, "none", backbone="random").eval()
    tiles = torch.rand(BATCH, 3, TILE, TILE)

    def features() -> object:
        return denoiser.features(tiles, 0, 1, BLOCK, 0)

    yield Work("UniDiff", f"features of {BATCH} tiles", features, product(operations(features)), 1.3, rounds=5)
