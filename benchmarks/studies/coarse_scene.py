"""A scene with larger pixels: the means of squares of pixels, as an .npz file and its manifest.

    python benchmarks/studies/coarse_scene.py --dataset docs/examples/trento-lite.yaml --factor 4 --out DIR
    mmrs-bench data fetch DIR/trento-lite-x4.yaml --from DIR
    mmrs-bench run --datasets DIR/trento-lite-x4.yaml

A square has the label of the class that more than half of its pixels have, and none otherwise. Pixels that fill no
square at the right and lower edge are left out, and so are classes with few labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jsonargparse
import numpy as np
import yaml

from mmrs_bench.errors import BenchError, ConfigError
from mmrs_bench.io import atomic_write, file_sha256, write_text
from mmrs_bench.scenes.catalogue import load_scene
from mmrs_bench.scenes.manifest import SceneClass
from mmrs_bench.scenes.scene import Scene


def main(dataset: str, factor: int, out: Path, least: int = 15) -> None:
    """Write the file and the manifest.

    Args:
        dataset: Name or manifest of a scene.
        factor: Side of a square in pixels.
        out: Folder of the two files.
        least: Fewest labels of a class.

    Raises:
        ConfigError: If fewer than two classes would be left.
    """
    scene = load_scene(dataset)
    if not 1 < factor <= min(scene.height, scene.width):
        raise ConfigError(
            f"--factor {factor}: give a number from 2 to the scene's {min(scene.height, scene.width)} pixels"
        )
    height, width = scene.height // factor, scene.width // factor

    def squares(image: np.ndarray) -> np.ndarray:
        """(h, w, c) -> (height, width, pixels of a square, c)."""
        cut = image[: height * factor, : width * factor]
        cut = cut.reshape(height, factor, width, factor, -1).transpose(0, 2, 1, 3, 4)
        return cut.reshape(height, width, factor**2, -1)

    truth = squares(scene.ground_truth)[..., 0]
    counts = np.stack([(truth == c.id).sum(axis=2) for c in scene.manifest.classes], axis=2)
    major = np.where(2 * counts.max(axis=2) > factor**2, counts.argmax(axis=2) + 1, 0)
    kept = [c for c in scene.manifest.classes if (major == c.id).sum() >= least]
    if len(kept) < 2:
        raise ConfigError(
            f"--factor {factor} leaves {len(kept)} classes with at least {least} labels; give a smaller one"
        )
    labels = np.zeros(major.shape, dtype=np.uint8)
    for new, old in enumerate(kept, 1):
        labels[major == old.id] = new
    images = {name: squares(image).mean(axis=2, dtype=np.float64) for name, image in scene.images.items()}
    name = f"{scene.manifest.id}-x{factor}"
    file, manifest = out / f"{name}.npz", out / f"{name}.yaml"
    arrays = {**{m: image.astype(np.float32) for m, image in images.items()}, "gt": labels}
    atomic_write(file, lambda stream: np.savez(stream, **arrays))
    write_text(manifest, yaml.safe_dump(described(scene, kept, labels, file, factor), sort_keys=False))
    print(manifest)


def described(scene: Scene, kept: list[SceneClass], labels: np.ndarray, file: Path, factor: int) -> dict[str, object]:
    """The fields of the manifest."""
    old, name = scene.manifest, file.stem
    mark = "SIMULATED: " if old.simulated else ""
    kinds = {"sensor", "bands", "channel_names", "wavelengths_nm", "wavelengths_note"}
    return {
        "schema": 1,
        "id": name,
        "revision": "r1",
        "title": f"{mark}{old.title}, means of {factor} x {factor} pixels",
        "height": labels.shape[0],
        "width": labels.shape[1],
        "gsd_m": old.gsd_m and old.gsd_m * factor,
        "modalities": [
            {
                "name": m.name,
                **m.model_dump(mode="json", include=kinds, exclude_defaults=True),
                "parts": [{"file": file.name, "key": m.name, "axes": "hwc"}],
            }
            for m in old.modalities
        ],
        "ground_truth": {"parts": [{"file": file.name, "key": "gt", "axes": "hw"}]},
        "classes": [
            {"id": number, "name": c.name, "color": c.color, "count": int((labels == number).sum())}
            for number, c in enumerate(kept, 1)
        ],
        "sources": [
            {
                "file": file.name,
                "sha256": file_sha256(file),
                "bytes": file.stat().st_size,
                "manual": f"Made from {old.id} by benchmarks/studies/coarse_scene.py.",
            }
        ],
        "terms": old.terms,
        "citation": old.citation,
        "notes": f"Means of {factor} x {factor} pixels of {old.id}. {old.notes}",
    }


if __name__ == "__main__":
    try:
        jsonargparse.auto_cli(main, as_positional=False)
    except BenchError as error:
        sys.exit(f"coarse_scene: error: {error}")
