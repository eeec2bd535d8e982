"""Class maps: a figure beside image, ground truth and errors (PNG, PDF), or a raster (GeoTIFF)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import atomic_write
from mmrs_bench.scenes.scene import FloatArray, IntArray, Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".pdf")
RASTER_SUFFIXES = (".tif", ".tiff")

#: Wavelengths of red, green and blue in nm, for scenes whose band centres are known.
RGB_NM = (650.0, 550.0, 470.0)
#: Percentiles that a pseudo-colour image is stretched between.
STRETCH = (2.0, 98.0)

_UNLABELLED = (1.0, 1.0, 1.0)
_RIGHT = (0.82, 0.82, 0.82)
_WRONG = (0.80, 0.10, 0.10)
_SUPPORT = (0.0, 0.0, 0.0)


def write_map(path: Path, scene: Scene, targets: IntArray, *, support: IntArray | None = None, title: str = "") -> None:
    """Write the map of a method, atomically, in the format of the path's suffix.

    Args:
        path: ``.png`` or ``.pdf`` for a figure, ``.tif`` for a GeoTIFF of class ids.
        scene: The scene.
        targets: Predicted targets (height * width,) in 0..K-1, one for each pixel of the scene.
        support: Flat indices of the pixels that were learned from; drawn black and left out of the errors.
        title: Heading of the figure.

    Raises:
        ConfigError: If the suffix is of no known format, or a GeoTIFF is asked for without the extra ``geo``.
        DataError: If the predictions do not fit the scene.
        BenchError: If the file cannot be written.
    """
    classes = _class_raster(scene, targets)
    suffix = path.suffix.lower()
    if suffix in RASTER_SUFFIXES:
        content = _geotiff(scene, classes)
        atomic_write(path, lambda file: file.write(content))
        return
    if suffix not in FIGURE_SUFFIXES:
        known = ", ".join(FIGURE_SUFFIXES + RASTER_SUFFIXES)
        raise ConfigError(f"{path}: {suffix or 'a path without suffix'} is no map format; use one of {known}")
    figure = map_figure(scene, targets, support=support, title=title)
    atomic_write(path, lambda file: figure.savefig(file, format=suffix[1:], dpi=200))


def _class_raster(scene: Scene, targets: IntArray) -> IntArray:
    """Class ids 1..K as a raster (height, width)."""
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
    """A picture of the scene's first modality.

    Three bands are stretched between their 2nd and 98th percentiles: those nearest to red, green and blue where band
    centres are known, the three there are, or three spread evenly; a modality of fewer bands is shown in grey.

    Returns:
        The image (height, width, 3) in [0, 1], and in words what it shows.
    """
    modality = scene.manifest.modalities[0]
    image = scene.images[modality.name]
    if modality.wavelengths_nm is not None:
        centres = np.asarray(modality.wavelengths_nm)
        bands = [int(np.abs(centres - nm).argmin()) for nm in RGB_NM]
        words = " ".join(f"{centres[band]:.0f}" for band in bands) + " nm"
    elif modality.bands == 3:
        bands, words = [0, 1, 2], "3 bands"
    elif modality.bands > 3:
        bands = [round(modality.bands * part) for part in (5 / 6, 3 / 6, 1 / 6)]
        words = "bands " + " ".join(str(band + 1) for band in bands)
    else:
        bands, words = [0, 0, 0], "band 1"
    picked = image[:, :, bands]
    low, high = np.percentile(picked, STRETCH, axis=(0, 1))
    stretched = (picked - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
    return np.clip(stretched, 0, 1).astype(np.float32), f"{modality.name}, {words}"


def map_figure(scene: Scene, targets: IntArray, *, support: IntArray | None = None, title: str = "") -> Figure:
    """Pseudo-colour image, ground truth, class map and errors of a scene with the legend of its classes.

    Args:
        scene: The scene.
        targets: Predicted targets (height * width,) in 0..K-1.
        support: Flat indices of the pixels that were learned from; drawn black and left out of the errors.
        title: Heading.

    Raises:
        DataError: If the predictions do not fit the scene.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    classes = _class_raster(scene, targets)
    entries = scene.manifest.classes
    palette = np.array([_UNLABELLED, *(to_rgb(entry.color) for entry in entries)])
    picture, words = pseudo_colour(scene)
    errors, share = _errors(scene, classes, support)
    panels: tuple[tuple[str, NDArray[np.floating]], ...] = (
        (f"image ({words})", picture),
        ("ground truth", palette[scene.ground_truth]),
        ("class map", palette[classes]),
        (f"errors ({share:.1f} % of labelled pixels)", errors),
    )
    aspect = scene.width / scene.height
    # Long scenes are stacked, tall ones stand side by side, the rest makes a square of four.
    rows, columns = (4, 1) if aspect > 2 else (1, 4) if aspect < 0.5 else (2, 2)
    panel_width = 9.0 if rows == 4 else 2.6 if rows == 1 else 4.5
    height = rows * (panel_width / aspect + 0.35) + 0.6
    figure = Figure(figsize=(columns * panel_width + 2.2, height), layout="constrained")
    places = list(figure.subplots(rows, columns).flat)
    for axes, (name, image) in zip(places, panels, strict=True):
        _show(axes, name, image)
    if support is not None:
        # One pixel is too small to be seen on a large scene.
        places[-1].plot(support % scene.width, support // scene.width, ".", color=_SUPPORT, markersize=3)
    handles = [Patch(facecolor=entry.color, edgecolor="black", linewidth=0.4, label=entry.name) for entry in entries]
    handles += [
        Patch(facecolor=colour, edgecolor="black", linewidth=0.4, label=label)
        for colour, label in ((_UNLABELLED, "unlabelled"), (_RIGHT, "right"), (_WRONG, "wrong"))
    ]
    if support is not None:
        handles.append(Patch(facecolor=_SUPPORT, label="support"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8)
    simulated = "SIMULATED: " if scene.manifest.simulated else ""
    heading = " · ".join(part for part in (f"{simulated}{scene.manifest.title}", title) if part)
    figure.suptitle(heading, fontsize=10)
    return figure


def _errors(scene: Scene, classes: IntArray, support: IntArray | None) -> tuple[NDArray[np.float64], float]:
    """The error panel (height, width, 3), and the share of wrong ones among labelled pixels, in percent."""
    truth = scene.ground_truth
    scored = truth > 0
    if support is not None:
        scored = scored & ~np.isin(np.arange(truth.size), support).reshape(truth.shape)
    wrong = scored & (classes != truth)
    image = np.tile(np.array(_UNLABELLED), (*truth.shape, 1))
    image[scored] = _RIGHT
    image[wrong] = _WRONG
    if support is not None:
        image.reshape(-1, 3)[support] = _SUPPORT
    return image, 100 * float(wrong.sum()) / max(1, int(scored.sum()))


def _show(axes: Axes, name: str, image: NDArray[np.floating]) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(name, fontsize=9, loc="left")
    axes.set_xticks([])
    axes.set_yticks([])


def _geotiff(scene: Scene, classes: IntArray) -> bytes:
    """A GeoTIFF of class ids with colours and names; without coordinates, which the benchmark files do not hold."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.io import MemoryFile
    except ImportError as error:
        raise ConfigError(
            "a GeoTIFF needs rasterio, which is not installed; run `pip install 'mmrs-bench[geo]'`, or write a .png"
        ) from error
    if scene.num_classes > np.iinfo(np.uint8).max:
        raise ConfigError(f"{scene.num_classes} classes do not fit a GeoTIFF of bytes (255 at most); write a .png")
    colours = {0: (255, 255, 255, 0)}
    for entry in scene.manifest.classes:
        red, green, blue = bytes.fromhex(entry.color[1:])
        colours[entry.id] = (red, green, blue, 255)
    with warnings.catch_warnings():
        # A plain pixel grid is what is meant: the files of the benchmark scenes carry no coordinates.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(
                driver="GTiff",
                height=scene.height,
                width=scene.width,
                count=1,
                dtype=rasterio.uint8,
                nodata=0,
                compress="deflate",
            ) as raster:
                raster.write(classes.astype(np.uint8), 1)
                raster.write_colormap(1, colours)
                raster.set_band_description(1, f"class of {scene.manifest.tag}")
                raster.update_tags(1, **{f"CLASS_{entry.id}": entry.name for entry in scene.manifest.classes})
            return bytes(memory.read())
