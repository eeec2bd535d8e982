"""Memory and time of UniDiff's stage B at full size, with random weights.

    python benchmarks/studies/unidiff_memory.py --dataset sim-augsburg

Extracts the features of some query tiles into a temporary cache and classifies their vectors with a head of the paper's
sizes. Prints the peak memory of the process, and seconds.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path

import jsonargparse
import numpy as np
import torch

from mmrs_bench.config import DataConfig, ExecutionConfig
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.unidiff.adaptation import denoiser_on
from mmrs_bench.methods.unidiff.adm import ADM_64, build_adm
from mmrs_bench.methods.unidiff.adm_checkpoint import Backbone
from mmrs_bench.methods.unidiff.config import UniDiffConfig
from mmrs_bench.methods.unidiff.features import SEGMENT, TileFeatures
from mmrs_bench.methods.unidiff.pictures import scene_pictures
from mmrs_bench.methods.unidiff.pixel_heads import PixelMLP
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.tiles import Places


def main(dataset: str = "sim-augsburg", block: int = 11, tiles: int = SEGMENT + 1) -> None:
    """Run the study.

    Args:
        dataset: Name or manifest of a scene with a pseudo-RGB.
        block: Decoder block; of the blocks in the released code, 11 has the largest activations.
        tiles: Largest number of query tiles; memory does not grow beyond one segment of the cache.
    """
    torch.set_num_threads(ExecutionConfig().threads)
    card = resolve_config(method_card("unidiff"), "default", "paper")
    config = UniDiffConfig.model_validate({**card, "block": block})
    data = SceneDataModule(dataset, DataConfig(shots=10))
    data.setup()
    pictures = scene_pictures(config, data)
    torch.manual_seed(0)
    backbone = Backbone(ADM_64, build_adm(ADM_64).state_dict(), "random weights")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMRS_BENCH_CACHE"] = folder
        context = RunContext(seed=0, draw=0, work_dir=Path(folder))
        denoiser = denoiser_on(backbone, config, seed=0)
        features = TileFeatures(denoiser, pictures, timestep=config.timestep, block=config.block, context=context)
        inputs = features.size
        head = PixelMLP(inputs, config.hidden, data.num_classes)
        start = time.perf_counter()
        places = _first(features.grid.tiles_of(data.query), tiles)
        with torch.no_grad():
            for _, vectors in features.by_tile(places):
                head.eval()(vectors)
        seconds = time.perf_counter() - start
    count = len(np.unique(places.tile))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{dataset}, {count} of {len(pictures.grid)} tiles, {len(pictures.images)} pictures, block {config.block}: "
        f"{peak:.2f} GB at most, {seconds / count / len(pictures.images):.1f} s a tile and picture"
    )


def _first(places: Places, tiles: int) -> Places:
    """The pairs of the first tiles."""
    kept = np.isin(places.tile, np.unique(places.tile)[:tiles])
    return Places(places.pixel[kept], places.tile[kept], places.place[kept])


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
