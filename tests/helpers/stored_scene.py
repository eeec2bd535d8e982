"""A tiny scene in files, with and without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml

from mmrs_bench.methods.conformance import tiny_scene

#: Bands by modality of the scene.
BANDS = {"hsi": 6, "lidar": 1}


def store_scene(
    folder: Path, *, bands: Mapping[str, int] = BANDS, labelled: bool = True, geotiff: str | None = None
) -> Path:
    """Write the scene of the conformance tests to files, and return the path of its manifest.

    Args:
        folder: A new folder.
        bands: Bands by modality.
        labelled: Whether the manifest has ground truth and classes.
        geotiff: A CRS (``EPSG:32632``) with which the HSI is a GeoTIFF.
    """
    folder.mkdir(parents=True)
    scene = tiny_scene(bands)
    arrays = {**scene.images, "gt": scene.ground_truth.astype(np.uint8)}
    np.savez(folder / "scene.npz", **arrays)
    fields = scene.manifest.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"generator"})
    parts = {name: {"file": "scene.npz", "key": name, "axes": "hwc"} for name in bands}
    sources = [{"file": "scene.npz"}]
    if geotiff is not None:
        import rasterio

        size = {"height": scene.height, "width": scene.width, "count": bands["hsi"], "dtype": "float32"}
        place = {"crs": geotiff, "transform": rasterio.Affine(2.5, 0, 600000, 0, -2.5, 5100000)}
        with rasterio.open(folder / "hsi.tif", "w", driver="GTiff", **size, **place) as raster:
            raster.write(scene.images["hsi"].transpose(2, 0, 1))
        parts["hsi"] = {"file": "hsi.tif", "axes": "chw"}
        sources.append({"file": "hsi.tif"})
    for modality in fields["modalities"]:
        modality["parts"] = [parts[modality["name"]]]
    fields |= {"id": "stored", "sources": sources, "data_dir": "."}
    if labelled:
        fields["ground_truth"] = {"parts": [{"file": "scene.npz", "key": "gt", "axes": "hw"}]}
    else:
        fields.pop("ground_truth", None)
        fields.pop("classes")
    path = folder / "stored.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path
