"""Class ids as a GeoTIFF with a QGIS style beside it, or as an array (.npy)."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.plugins import import_optional
from mmrs_bench.scenes.scene import IntArray, Scene
from mmrs_bench.texts import printable

RASTER_SUFFIXES = (".tif", ".tiff")
ARRAY_SUFFIX = ".npy"
STYLE_SUFFIX = ".qml"

NO_GEOTIFF = "a GeoTIFF cannot be written (a .png can)"


def class_raster(scene: Scene, targets: IntArray) -> IntArray:
    """Class ids 1..K (height, width) of the targets (height * width,) of a whole scene.

    Raises:
        DataError: If the predictions do not fit the scene.
    """
    if targets.shape != (scene.height * scene.width,):
        raise DataError(
            f"predictions have shape {targets.shape}; a map of {scene.manifest.id} needs one for each of its "
            f"{scene.height} x {scene.width} pixels"
        )
    if targets.min() < 0 or targets.max() >= scene.num_classes:
        raise DataError(
            f"predictions span {targets.min()}..{targets.max()}; targets of {scene.manifest.id} are "
            f"0..{scene.num_classes - 1}"
        )
    return (targets + 1).reshape(scene.height, scene.width)


def write_raster(path: Path, scene: Scene, targets: IntArray) -> list[Path]:
    """Write the class ids of a map.

    Args:
        path: ``.tif`` for a GeoTIFF (bytes, nodata 0, colours, names, and the scene's coordinates if its files contain
            them), beside which a style with the same name is written, which QGIS reads with it; ``.npy`` for an array
            (height, width).
        scene: The scene.
        targets: Predicted target in 0..K-1 of each pixel (height * width,).

    Returns:
        The files.

    Raises:
        ConfigError: If rasterio (the extra ``geo``) is missing for a GeoTIFF, or there are too many classes.
        DataError: If the predictions do not fit the scene.
        BenchError: If a file cannot be written.
    """
    classes = class_raster(scene, targets)
    if path.suffix.lower() == ARRAY_SUFFIX:
        atomic_write(path, lambda file: np.save(file, classes, allow_pickle=False))
        return [path]
    content, style = _geotiff(scene, classes), qgis_style(scene)
    atomic_write(path, lambda file: file.write(content))
    atomic_write(path.with_suffix(STYLE_SUFFIX), lambda file: file.write(style))
    return [path, path.with_suffix(STYLE_SUFFIX)]


def missing_place(scene: Scene) -> str:
    """That GeoTIFFs of a scene have no coordinates, in one line; empty if they have."""
    if scene.transform is not None:
        return ""
    return f"the files of {scene.manifest.tag} have no coordinates, so a GeoTIFF of its map has none"


def qgis_style(scene: Scene) -> bytes:
    """A style of QGIS (3.0 or newer) for the raster of class ids: the colour and name of every class, as XML.

    Reference: QGIS user manual, "QML - The QGIS Style File Format"; ``QgsPalettedRasterRenderer``.
    """
    root = ET.Element("qgis", {"version": "3.0.0", "styleCategories": "Symbology"})
    pipe = ET.SubElement(root, "pipe")
    attributes = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    palette = ET.SubElement(ET.SubElement(pipe, "rasterrenderer", attributes), "colorPalette")
    for entry in scene.manifest.classes:
        values = {"value": str(entry.id), "color": entry.color, "alpha": "255", "label": printable(entry.name)}
        ET.SubElement(palette, "paletteEntry", values)
    ET.SubElement(root, "blendMode").text = "0"
    ET.indent(root)
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    body: bytes = ET.tostring(root, encoding="utf-8")
    return head + body + b"\n"


def _geotiff(scene: Scene, classes: IntArray) -> bytes:
    rasterio = import_optional("rasterio", NO_GEOTIFF)
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    if scene.num_classes > np.iinfo(np.uint8).max:
        raise ConfigError(f"{scene.num_classes} classes do not fit a GeoTIFF of bytes (255 at most); write a .png")
    colours = {0: (255, 255, 255, 0)}
    colours |= {entry.id: (*bytes.fromhex(entry.color[1:]), 255) for entry in scene.manifest.classes}
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": scene.height,
        "width": scene.width,
        "count": 1,
        "dtype": rasterio.uint8,
    }
    if scene.transform is not None:
        profile |= {"transform": rasterio.Affine(*scene.transform), "crs": scene.crs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(**profile, nodata=0, compress="deflate") as raster:
                raster.write(classes.astype(np.uint8), 1)
                raster.write_colormap(1, colours)
                raster.set_band_description(1, f"class of {scene.manifest.tag}")
                raster.update_tags(1, **{f"CLASS_{entry.id}": entry.name for entry in scene.manifest.classes})
            return bytes(memory.read())
