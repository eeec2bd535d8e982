"""The input of UniDiff: RGB-like pictures of all sensors of a scene, and tiles of them.

Letters: n tiles, s side of a tile, h w rows and columns of the scene.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.config import DataConfig
from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.randomness import SampleRandom
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.sensor_images import GREY, sensor_images
from mmrs_bench.scenes.pictures.tiles import TileGrid
from mmrs_bench.scenes.scene import Scene

#: The picture with which stage A is anchored.
ANCHOR = "rgb"
#: Pictures of the HSI; the others have the names of their modalities.
HSI_PICTURES = ("rgb", "pca")
#: Row of the class embedding for each picture; the second raster of a modality has the next row.
ROWS = {"rgb": 1, "pca": 2, "sar": 3, "dsm": 4, "lidar": 4}
#: Largest number of tiles for measuring drift.
DRIFT_TILES = 32


class ScenePictures(NamedTuple):
    """The pictures of a scene."""

    images: dict[str, Tensor]  # (h, w, 3) float32 in [-1, 1] by name, on the CPU
    grid: TileGrid
    sha256: str  # of names and pictures


def picture_row(name: str) -> int:
    """The row of the class embedding for a picture.

    Reference: UniDiff, released code: pseudo-RGB 1, PCA 2, SAR 3, DSM 4.
    Deviation: LiDAR, which the paper's scenes do not have, counts as DSM. Further rasters of either have the next rows
        (``lidar0`` is 4, ``lidar1`` 5). Of a scene with both, see `picture_rows`.

    Raises:
        ConfigError: If there is no such picture.
    """
    kind = _kind(name)
    if kind not in ROWS or (name != kind and kind not in GREY):
        raise unknown_name("picture", name, ROWS)
    return ROWS[kind] + int(name[len(kind) :] or 0)


def picture_rows(names: Sequence[str], classes: int | None = None) -> list[int]:
    """The rows of the pictures of a scene in a class embedding: those of `picture_row`, or the next free ones.

    Of a scene with DSM and LiDAR, the DSM has the row of `picture_row`.

    Args:
        names: All pictures.
        classes: Number of rows of the class embedding; None does not check it.

    Raises:
        ConfigError: If there is no such picture, a picture is given twice, or a row does not exist.
    """
    found: dict[str, int] = {}
    for name in sorted(names, key=lambda name: _kind(name) == "lidar"):
        row = picture_row(name)
        while row in found.values():
            row += 1
        found[name] = row
    if len(found) < len(names):
        raise ConfigError(f"pictures {', '.join(names)}: expected different ones; give each once")
    rows = [found[name] for name in names]
    if classes is not None and max(rows, default=0) >= classes:
        raise ConfigError(
            f"pictures {', '.join(names)} have rows {rows} of the class embedding, expected different ones below "
            f"{classes}; select fewer pictures"
        )
    return rows


def select_pictures(
    scene: Scene,
    modalities: Collection[str] | None = None,
    pictures: Collection[str] = (),
    absent: Collection[str] = (),
    *,
    tile: int = 64,
    stride: int = 32,
) -> ScenePictures:
    """The pictures of a scene.

    Args:
        scene: The scene, not normalised.
        modalities: Modalities that become pictures; None takes all.
        pictures: Names of pictures (``lidar1``) or their kinds (``lidar``); empty takes all.
        absent: Modalities that are missing; their pictures show the mean colour.
        tile: Side of a tile in pixels.
        stride: Distance of neighbouring tiles in pixels.

    Raises:
        ConfigError: If a modality or picture is unknown, or tiles do not fit the scene. See also `sensor_images`.
        DataError: See `sensor_images`.
    """
    available = sensor_images(scene, modalities)
    for wanted in pictures:
        if not any(wanted in (name, _kind(name)) for name in available):
            raise unknown_name(f"picture of scene {scene.manifest.id}", wanted, {*available, *map(_kind, available)})
    for name, image in available.items():
        if ("hsi" if name in HSI_PICTURES else _kind(name)) in absent:
            image[:] = image.mean(axis=(0, 1), dtype="float64")
    images = {
        name: torch.from_numpy(image)
        for name, image in available.items()
        if not pictures or name in pictures or _kind(name) in pictures
    }
    return hashed_pictures(images, TileGrid(scene.height, scene.width, tile, stride))


def training_names(names: Iterable[str], *, anchored: bool) -> list[str]:
    """The pictures that stage A trains on: all, or all but the pseudo-RGB.

    Raises:
        ConfigError: If none is left, or anchoring lacks the pseudo-RGB.
    """
    found = list(names)
    if anchored and ANCHOR not in found:
        raise ConfigError(
            f"the pictures are {', '.join(found)}, but anchoring needs the pseudo-RGB; add rgb to pictures and hsi to "
            "the modalities, or set anchored to false"
        )
    trained = [name for name in found if anchored or name != ANCHOR]
    if not trained:
        raise ConfigError("without anchoring, stage A needs a picture other than rgb; add one")
    return trained


def check_protocol(protocol: DataConfig) -> None:
    """Raise ConfigError if the protocol excludes pixels or bands that pictures show."""
    if protocol.pca is not None or {protocol.normalisation_scope, protocol.unlabelled} != {"scene"}:
        raise ConfigError(
            f"pca {protocol.pca}, normalisation_scope {protocol.normalisation_scope}, unlabelled {protocol.unlabelled}:"
            " pictures show raw bands of the whole scene; set pca to none and both others to scene"
        )


def scene_pictures(config: AdaptationConfig, data: SceneDataModule) -> ScenePictures:
    """The pictures of a scene that ``config`` selects.

    Raises:
        ConfigError: If the pseudo-RGB is missing but necessary; see also `check_protocol`, `select_pictures`,
            `picture_rows` and `training_names`.
        DataError: See `sensor_images`.
    """
    check_protocol(data.config)
    found = select_pictures(
        data.complete.scene, data.modalities, config.pictures, data.absent, tile=config.tile, stride=config.stride
    )
    if config.backbone == "tiny" and ANCHOR not in found.images:
        raise ConfigError(
            f"the pictures are {', '.join(found.images)}, but the backbone tiny is trained on the pseudo-RGB; add rgb "
            "to pictures and hsi to the modalities, or use the backbone imagenet"
        )
    if config.adaptation != "none":
        training_names(found.images, anchored=config.anchored)
    picture_rows([*found.images], config.network().classes)
    return found


def hashed_pictures(images: dict[str, Tensor], grid: TileGrid) -> ScenePictures:
    """Pictures (h, w, 3) by name, with their hash."""
    digest = hashlib.sha256()
    for name, image in images.items():
        digest.update(f"{name} {[*image.shape]} ".encode())
        digest.update(image.numpy().tobytes())
    return ScenePictures(images, grid, digest.hexdigest())


def drift_numbers(grid: TileGrid) -> Tensor:
    """Numbers (n,) of the tiles that measure drift: at most `DRIFT_TILES`, spread evenly over the scene."""
    return torch.linspace(0, len(grid) - 1, min(len(grid), DRIFT_TILES)).round().long()


def augmented(tiles: Tensor, zoom: float, random: SampleRandom) -> Tensor:
    """Tiles that are randomly enlarged, cropped to their size and flipped from left to right, each independently.

    Args:
        tiles: (n, c, s, s) on any device.
        zoom: Largest enlargement. Enlargements are uniform from 1 to this, positions of the crop are uniform.
        random: On the CPU; draws enlargements, then corners, then flips.

    Returns:
        (n, c, s, s).

    Reference: UniDiff, released code: the short side becomes 64 to 80 pixels, of which 64 are cropped.
    Deviation: enlargements and corners are not rounded to whole pixels.
    """
    n, side = len(tiles), tiles.shape[-1]
    share = 1 / (1 + (zoom - 1) * random.uniform(n, 1))  # side of the crop / side of the tile
    corner = (1 - share) * random.uniform(n, 2)  # row and column / side of the tile
    mirrored = 1 - 2 * random.integers(2, n, 1)
    # Pixel centres in (-1, 1), as in grid_sample; torch's affine_grid would round them under bf16-mixed.
    centres = (2 * torch.arange(side) + 1) / side - 1
    rows = 2 * corner[:, :1] + share - 1 + share * centres  # (n, s)
    columns = 2 * corner[:, 1:] + share - 1 + share * mirrored * centres
    shape = (n, side, side)
    places = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    return functional.grid_sample(tiles, places.to(tiles), padding_mode="border", align_corners=False)


def _kind(name: str) -> str:
    """The name of a picture without the number of its raster."""
    return name.rstrip("0123456789")
