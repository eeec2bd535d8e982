"""What UniDiff sees of a scene: pictures of its sensors, and tiles of them.

Letters: n tiles, s side of a tile, h w rows and columns of the scene.

Reference: UniDiff (Hu & Prasad, WACV 2026, arXiv 2512.00261) and its released code.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmrs_bench.errors import ConfigError, unknown_name
from mmrs_bench.methods.unidiff.config import AdaptationConfig
from mmrs_bench.scenes.datamodule import SceneDataModule
from mmrs_bench.scenes.pictures.sensor_images import GREY, sensor_images
from mmrs_bench.scenes.pictures.tiles import TileGrid

#: The picture that anchors.
ANCHOR = "rgb"
#: Rows of the class embedding by picture; those of several rasters count on from here.
ROWS = {"rgb": 1, "pca": 2, "sar": 3, "dsm": 4, "lidar": 4}
#: Tiles at most on which drift is measured.
DRIFT_TILES = 32


class ScenePictures(NamedTuple):
    """What the network sees of a scene.

    Attributes:
        images: Pictures (h, w, 3) float32 in [-1, 1] by name, on the CPU.
        grid: The tiles that they are cut into.
        sha256: Of names and pictures.
    """

    images: dict[str, Tensor]
    grid: TileGrid
    sha256: str


def picture_row(name: str) -> int:
    """The row of the class embedding that stands for a picture.

    Rows start from what the checkpoint knows as these classes of ImageNet.

    Reference: UniDiff, released code: pseudo-RGB 1, PCA 2, SAR 3, DSM 4.
    Deviation: LiDAR, which the paper's scenes do not have, counts as DSM, and further rasters of either count on
        (``lidar0`` is 4, ``lidar1`` 5).

    Args:
        name: As in `mmrs_bench.scenes.pictures.sensor_images.sensor_images`.

    Raises:
        ConfigError: If there is no such picture.
    """
    kind = _kind(name)
    if kind not in ROWS or (name != kind and kind not in GREY):
        raise unknown_name("picture", name, ROWS)
    return ROWS[kind] + int(name[len(kind) :] or 0)


def scene_pictures(config: AdaptationConfig, data: SceneDataModule) -> ScenePictures:
    """The pictures of a scene that the network sees.

    Raises:
        ConfigError: If the protocol hides pixels or bands that pictures show, a kind in ``pictures`` is not there, the
            pseudo-RGB is needed and not seen, anchoring is left out and leaves nothing, pictures share a row of
            the class embedding or are more than it has, or tiles do not fit the scene. See also `sensor_images`.
        DataError: See `sensor_images`.
    """
    protocol, scene = data.config, data.scene.manifest.id
    if protocol.pca is not None or {protocol.normalisation_scope, protocol.unlabelled} != {"scene"}:
        raise ConfigError(
            f"pca {protocol.pca}, normalisation_scope {protocol.normalisation_scope}, unlabelled {protocol.unlabelled}:"
            " pictures show raw bands of the whole scene; set pca to none and both others to scene"
        )
    shown = sensor_images(data.scene, data.modalities)
    for wanted in config.pictures:
        if not any(wanted in (name, _kind(name)) for name in shown):
            raise unknown_name(f"picture of scene {scene}", wanted, {*shown, *map(_kind, shown)})
    images = {
        name: torch.from_numpy(image)
        for name, image in shown.items()
        if not config.pictures or name in config.pictures or _kind(name) in config.pictures
    }
    seen, adapts = ", ".join(images), config.adaptation != "none"
    if ANCHOR not in images and (config.backbone == "tiny" or (config.anchored and adapts)):
        raise ConfigError(
            f"scene {scene}: the network sees {seen}, but anchoring and the backbone tiny need the pseudo-RGB too; add "
            "rgb to pictures and hsi to the modalities, or set anchored to false with backbone imagenet"
        )
    if adapts and not config.anchored and set(images) == {ANCHOR}:
        raise ConfigError(f"scene {scene}: without anchoring no picture but rgb is seen; add others, or anchor")
    rows, classes = [picture_row(name) for name in images], config.network().classes
    if len(set(rows)) < len(rows) or max(rows) >= classes:
        raise ConfigError(
            f"scene {scene}: {seen} would be rows {rows} of the class embedding, expected different ones below "
            f"{classes}; name fewer in pictures"
        )
    return hashed_pictures(images, TileGrid(data.scene.height, data.scene.width, config.tile, config.stride))


def hashed_pictures(images: dict[str, Tensor], grid: TileGrid) -> ScenePictures:
    """Pictures (h, w, 3) by name, with their hash."""
    digest = hashlib.sha256()
    for name, image in images.items():
        digest.update(f"{name} {[*image.shape]} ".encode())
        digest.update(image.numpy().tobytes())
    return ScenePictures(images, grid, digest.hexdigest())


def anchor_tiles(pictures: ScenePictures) -> Tensor:
    """Pseudo-RGB tiles (n, 3, s, s) on which drift is measured: at most `DRIFT_TILES`, spread evenly over the scene."""
    count = len(pictures.grid)
    numbers = torch.linspace(0, count - 1, min(count, DRIFT_TILES)).round().long()
    return pictures.grid.cut(pictures.images[ANCHOR], numbers)


def augmented(tiles: Tensor, zoom: float, generator: torch.Generator) -> Tensor:
    """Tiles enlarged, cropped to their size again, and flipped from left to right, each at random by itself.

    Args:
        tiles: (n, c, s, s) on any device.
        zoom: Enlargements are uniform from 1 to this, places of the crop and coins for the flip uniform.
        generator: On the CPU; draws enlargements, then corners, then flips.

    Returns:
        (n, c, s, s).

    Reference: UniDiff, released code: the short side becomes 64 to 80 pixels, of which 64 are cropped.
    Deviation: enlargements and corners are not rounded to whole pixels.
    """
    n, side = len(tiles), tiles.shape[-1]
    share = 1 / (1 + (zoom - 1) * torch.rand(n, 1, generator=generator))  # the crop's side, of the tile's
    corner = (1 - share) * torch.rand(n, 2, generator=generator)  # row and column, likewise
    mirrored = 1 - 2 * torch.randint(2, (n, 1), generator=generator)
    # Middles of pixels in (-1, 1), as grid_sample takes them; its affine_grid would round them under bf16-mixed.
    middles = (2 * torch.arange(side) + 1) / side - 1
    rows = 2 * corner[:, :1] + share - 1 + share * middles  # (n, s)
    columns = 2 * corner[:, 1:] + share - 1 + share * mirrored * middles
    shape = (n, side, side)
    places = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    return functional.grid_sample(tiles, places.to(tiles), padding_mode="border", align_corners=False)


def _kind(name: str) -> str:
    """A picture's name without the number of its raster."""
    return name.rstrip("0123456789")
