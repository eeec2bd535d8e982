"""A scene with pictures, cheap settings and a small backbone for the tests of ``unidiff`` and ``geodiffnet-f``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.adm_reference import SMALL as THREE_LEVELS
from helpers.method_helpers import make
from helpers.network_helpers import bilinear
from helpers.tiny import striped_map, tiny_scene, with_colours
from torch import Tensor

from mmrs_bench.config import DataConfig
from mmrs_bench.methods.catalogue import method_card, resolve_config
from mmrs_bench.methods.unidiff import config as unidiff_config
from mmrs_bench.methods.unidiff.adm import AdmConfig, build_adm
from mmrs_bench.methods.unidiff.adm_checkpoint import checkpoint_file, original_shapes
from mmrs_bench.methods.unidiff.config import UniDiffConfig
from mmrs_bench.methods.unidiff.method import GeoDiffNet, UniDiff
from mmrs_bench.methods.unidiff.pictures import picture_row, scene_pictures
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.scene import Scene

#: Replaces `ADM_TINY` or `ADM_64`: two levels, attention at the lower one, 4 decoder blocks.
SMALL = replace(THREE_LEVELS, multipliers=(1, 1), blocks=1, attention_resolutions=(8,), classes=8, dropout=0.1)
SIDE, STRIDE = 16, 8
HEIGHT, WIDTH, TILES = 36, 40, 16
#: Settings with which both stages train in a fraction of a second.
CHEAP: dict[str, Any] = {
    "tile": SIDE,
    "stride": STRIDE,
    "lora_rank": 2,
    "adapt_epochs": 2,
    "epoch_steps": 2,
    "adapt_batch": 4,
    "adapt_rate": 0.01,
    "source_epochs": 1,
    "source_batch": 4,
    "source_rate": 0.01,
    "block": 0,
    "timestep": 100,
    "hidden": (8,),
    "epochs": 3,
    "learning_rate": 0.01,
}
#: The pictures of `picture_data`.
NAMES = ("rgb", "pca", "sar", "lidar0", "lidar1")


def small_checkpoint(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `SMALL` the backbone ``imagenet``, and write random weights as its checkpoint."""
    monkeypatch.setattr(unidiff_config, "ADM_64", SMALL)
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in original_shapes(SMALL).items()}
    checkpoint_file().parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, checkpoint_file())
    return checkpoint_file()


def untrained_weights(config: AdmConfig, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of an untrained ADM; those on the device ``meta`` need no memory."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        state: dict[str, Tensor] = build_adm(config).state_dict()
    return state


def settings(**changes: Any) -> UniDiffConfig:
    """Settings of ``unidiff-tiny``, with the changes of `CHEAP` and these."""
    card = resolve_config(method_card("unidiff-tiny"), "default", "smoke")
    return UniDiffConfig.model_validate({**card, **CHEAP, **changes})


def cheap(folder: Path, name: str = "unidiff-tiny", **options: Any) -> Any:
    """A shipped method with the changes of `CHEAP` and these."""
    return make(name, folder, **{**CHEAP, **options})


def pretrained(folder: Path, data: SceneDataModule, name: str = "unidiff-tiny", **options: Any) -> UniDiff:
    """`cheap`, after stage A."""
    method = cheap(folder, name, **options)
    method.pretrain(data)
    return method


def fitted(folder: Path, data: SceneDataModule, name: str = "unidiff-tiny", **options: Any) -> UniDiff:
    """`cheap`, after both stages."""
    method = pretrained(folder, data, name, **options)
    method.fit(data)
    return method


def picture_scene(bands: dict[str, int] | None = None, *, seed: int = 0, scene_id: str = "tiny") -> Scene:
    """A noisy scene of 36 x 40 pixels with 4 classes and colour bands in its HSI."""
    bands = bands or {"hsi": 5, "sar": 2, "lidar": 2}
    return with_colours(tiny_scene(striped_map(HEIGHT, WIDTH), bands=bands, seed=seed, scene_id=scene_id))


def picture_data(shots: int = 2, *, bands: dict[str, int] | None = None, **protocol: Any) -> SceneDataModule:
    """`picture_scene` with a protocol."""
    return SceneDataModule(picture_scene(bands), DataConfig(shots=shots, **protocol))


def slow_tile(picture: Tensor, tile: int) -> Tensor:
    """A tile (1, 3, s, s) of a picture whose lower and right borders are mirrored."""
    columns = 1 + -(-(WIDTH - SIDE) // STRIDE)
    row, column = (STRIDE * part for part in divmod(tile, columns))
    padded = np.pad(picture.numpy(), ((0, SIDE), (0, SIDE), (0, 0)), mode="reflect")
    return torch.from_numpy(padded[row : row + SIDE, column : column + SIDE].transpose(2, 0, 1)[None].copy())


def slow_pairs(pixel: int) -> list[tuple[int, int, int]]:
    """Tile, row and column in it, for every tile that contains a pixel."""
    row, column = divmod(pixel, WIDTH)
    rows, columns = (1 + -(-(length - SIDE) // STRIDE) for length in (HEIGHT, WIDTH))
    return [
        (i * columns + j, row - STRIDE * i, column - STRIDE * j)
        for i in range(rows)
        for j in range(columns)
        if 0 <= row - STRIDE * i < SIDE and 0 <= column - STRIDE * j < SIDE
    ]


def slow_activations(method: UniDiff, data: SceneDataModule, block: int) -> list[list[Tensor]]:
    """Activations at timestep 100 by tile and picture, in half precision like those of the cache.

    GeoDiffNet has no class label and the noise of seed 0.
    """
    pictures = scene_pictures(method.config, data)
    labelled = not isinstance(method, GeoDiffNet)

    def activation(name: str, tile: int) -> Tensor:
        row, seed = (picture_row(name), 21) if labelled else (None, 0)
        return method.denoiser.features(slow_tile(pictures.images[name], tile), 100, row, block, seed)[0].half()

    return [[activation(name, tile) for name in pictures.images] for tile in range(TILES)]


def slow_vector(activations: list[list[Tensor]], tile: int, row: int, column: int) -> Tensor:
    """The vector of a place in a tile: bilinear, corners not aligned."""
    found = []
    for activation in activations[tile]:
        scale = activation.shape[1] / SIDE
        found.append(bilinear(activation, (row + 0.5) * scale - 0.5, (column + 0.5) * scale - 0.5))
    return torch.cat(found)
