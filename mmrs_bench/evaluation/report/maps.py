"""Class maps: a figure (PNG, PDF), or class ids as a GeoTIFF or an array (.npy)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.plugins import import_optional
from mmrs_bench.scenes.pictures.pseudo_rgb import STRETCH, stretch
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene
from mmrs_bench.texts import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".pdf")
RASTER_SUFFIXES = (".tif", ".tiff")
ARRAY_SUFFIX = ".npy"

#: Wavelengths of red, green and blue in nm.
RGB_NM = (650.0, 550.0, 470.0)

_NO_GEOTIFF = "a GeoTIFF cannot be written (a .png can)"
_UNLABELLED = (1.0, 1.0, 1.0)
_CORRECT = (0.82, 0.82, 0.82)
_WRONG = (0.80, 0.10, 0.10)
_SUPPORT = (0.0, 0.0, 0.0)


def write_map(path: Path, scene: Scene, targets: IntArray, *, support: IntArray | None = None, title: str = "") -> None:
    """Write a class map in the format of the path's suffix.

    Args:
        path: ``.png`` or ``.pdf`` for a figure, ``.tif`` for a GeoTIFF of class ids (bytes, nodata 0), ``.npy`` for
            an array (height, width) of class ids.
        scene: The scene.
        targets: Predicted target in 0..K-1 of each pixel (height * width,).
        support: Flat indices of the support pixels, which are not scored.
        title: Heading of the figure.

    Raises:
        ConfigError: If the suffix is unknown, or rasterio (the extra ``geo``) is missing for a GeoTIFF.
        DataError: If the predictions do not fit the scene.
        BenchError: If the file cannot be written.
    """
    suffix = path.suffix.lower()
    check_map_path(path)
    if suffix in RASTER_SUFFIXES:
        content = _geotiff(scene, _class_raster(scene, targets))
        atomic_write(path, lambda file: file.write(content))
    elif suffix == ARRAY_SUFFIX:
        classes = _class_raster(scene, targets)
        atomic_write(path, lambda file: np.save(file, classes, allow_pickle=False))
    else:
        figure = map_figure(scene, targets, support=support, title=title)
        atomic_write(path, lambda file: figure.savefig(file, format=suffix[1:], dpi=200))


def check_map_path(path: Path) -> None:
    """Raise a `ConfigError` if `write_map` has no format for a path, or the format needs a package that is missing."""
    suffix = path.suffix.lower()
    known = (*FIGURE_SUFFIXES, *RASTER_SUFFIXES, ARRAY_SUFFIX)
    if suffix not in known:
        found = suffix or "a path without suffix"
        raise ConfigError(f"{path}: {found} is not a map format; use one of {', '.join(known)}")
    if suffix in RASTER_SUFFIXES:
        import_optional("rasterio", _NO_GEOTIFF)


def _class_raster(scene: Scene, targets: IntArray) -> IntArray:
    """Class ids 1..K (height, width)."""
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


def pseudo_colour(scene: Scene) -> tuple[FloatArray, str]:
    """An image (height, width, 3) in [0, 1] of the scene's first modality, and a description of its bands.

    The bands are those nearest to red, green and blue if the wavelengths are known, else evenly spaced ones.
    """
    modality = scene.manifest.modalities[0]
    if modality.wavelengths_nm is not None:
        centres = np.asarray(modality.wavelengths_nm)
        bands = [int(np.abs(centres - nm).argmin()) for nm in RGB_NM]
        shown = " ".join(f"{centres[band]:.0f}" for band in bands) + " nm"
    elif modality.bands == 3:
        bands, shown = [0, 1, 2], "3 bands"
    elif modality.bands > 3:
        bands = [round(modality.bands * part) for part in (5 / 6, 3 / 6, 1 / 6)]
        shown = "bands " + " ".join(str(band + 1) for band in bands)
    else:
        bands, shown = [0, 0, 0], "band 1"
    image = scene.images[modality.name][:, :, bands].astype(np.float64)
    image = stretch(image, *np.percentile(image, STRETCH, axis=(0, 1)))
    return image.astype(np.float32), f"{modality.name}, {shown}"


def map_figure(scene: Scene, targets: IntArray, *, support: IntArray | None = None, title: str = "") -> Figure:
    """Image, ground truth, class map and errors; without labels only image and map. Arguments as in `write_map`."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    from mmrs_bench.evaluation.report.figures import ShownFigure

    classes = _class_raster(scene, targets)
    entries = scene.manifest.classes
    palette = np.array([_UNLABELLED, *(to_rgb(entry.color) for entry in entries)])
    image, shown = pseudo_colour(scene)
    panels: dict[str, NDArray[np.floating]] = {f"image ({shown})": image, "class map": palette[classes]}
    patches: list[tuple[Any, str]] = [(entry.color, figure_text(entry.name)) for entry in entries]
    if labelled := bool(scene.ground_truth.any()):
        errors, wrong_percent = _errors(scene, classes, support)
        panels = {
            f"image ({shown})": image,
            "ground truth": palette[scene.ground_truth],
            "class map": palette[classes],
            f"errors ({wrong_percent:.1f} % of labelled pixels)": errors,
        }
        patches += [(_UNLABELLED, "unlabelled"), (_CORRECT, "correct"), (_WRONG, "wrong")]
    aspect = scene.width / scene.height
    if aspect > 2:  # wide scene: panels below each other
        rows, columns, panel_width = len(panels), 1, 9.0
    elif aspect < 0.5 or not labelled:  # tall scene: panels beside each other
        rows, columns, panel_width = 1, len(panels), 2.6 if aspect < 0.5 else 4.5
    else:
        rows, columns, panel_width = 2, 2, 4.5
    height = rows * (panel_width / aspect + 0.35) + 0.6
    figure = ShownFigure(figsize=(columns * panel_width + 2.2, height), layout="constrained")
    for axes, (name, panel) in zip(figure.subplots(rows, columns).flat, panels.items(), strict=True):
        axes.imshow(panel, interpolation="nearest")
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
    if labelled and support is not None:
        # Dots on the last panel, because a single pixel is invisible on a large scene.
        axes.plot(support % scene.width, support // scene.width, ".", color=_SUPPORT, markersize=3)
        patches.append((_SUPPORT, "support"))
    handles = [Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=label) for colour, label in patches]
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    heading = f"{'SIMULATED: ' if scene.manifest.simulated else ''}{scene.manifest.title}"
    figure.suptitle(figure_text(f"{heading} · {title}" if title else heading), fontsize=10)
    return figure


def _errors(scene: Scene, classes: IntArray, support: IntArray | None) -> tuple[NDArray[np.float64], float]:
    """The error panel (height, width, 3), and the percentage of wrong pixels among the scored ones."""
    scored = scene.ground_truth > 0
    if support is not None:
        scored.flat[support] = False
    wrong = scored & (classes != scene.ground_truth)
    image = np.tile(np.array(_UNLABELLED), (*wrong.shape, 1))
    image[scored] = _CORRECT
    image[wrong] = _WRONG
    if support is not None:
        image.reshape(-1, 3)[support] = _SUPPORT
    return image, 100 * float(wrong.sum()) / max(1, int(scored.sum()))


def _geotiff(scene: Scene, classes: IntArray) -> bytes:
    """A GeoTIFF of class ids with colours and names, and the scene's coordinates if its files contain them."""
    rasterio = import_optional("rasterio", _NO_GEOTIFF)
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
