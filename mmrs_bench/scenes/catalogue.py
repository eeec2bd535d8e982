"""Finds scenes by name or path, reads their manifests and loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrs_bench.errors import ManifestError, unknown_name
from mmrs_bench.paths import MANIFEST_DIR, shipped_files
from mmrs_bench.plugins import entry_point_paths
from mmrs_bench.reading import read_yaml, validated
from mmrs_bench.scenes.manifest import Generator, GroundTruth, Manifest

if TYPE_CHECKING:
    from mmrs_bench.scenes.scene import Scene

SCENE_GROUP = "mmrs_bench.scenes"
#: Fields of a manifest that contain values of label rasters.
NAN_KEYS = ("unlabelled", "ignore", "values")
SIMULATED_PREFIX = "sim-"


def read_manifest(path: Path) -> Manifest:
    """Read and validate one manifest file; raises `ManifestError` with file, field and fix."""
    fields = read_yaml(path, error=ManifestError, advice="give the path of a manifest (.yaml)", nan_keys=NAN_KEYS)
    return validated(Manifest, fields, where=path, error=ManifestError).with_path(path)


def _shipped_paths() -> dict[str, Path]:
    paths = {path.stem: path for path in shipped_files(MANIFEST_DIR) if path.stem != "weights"}
    return dict(sorted(paths.items()))


def _manifest_paths() -> dict[str, Path]:
    shipped, installed = _shipped_paths(), dict(entry_point_paths(SCENE_GROUP))
    for name in sorted(installed.keys() & shipped.keys()):
        raise ManifestError(f"{installed[name]}: an installed package registers {name!r}, a shipped scene; rename it")
    return shipped | installed


def shipped_names() -> list[str]:
    """Names of all scenes: shipped ones, a simulated twin of each real one, installed ones."""
    shipped = _shipped_paths()
    # A dash marks another release of a scene (houston2013-original), which has the same twin.
    twins = [SIMULATED_PREFIX + name for name in shipped if name != "simulated" and "-" not in name]
    return [*shipped, *twins, *sorted(_manifest_paths().keys() - shipped.keys())]


def load_manifest(dataset: str) -> Manifest:
    """The manifest of a scene.

    Args:
        dataset: A name in `shipped_names`, or the path of a manifest file, recognised by ``.yaml`` or ``.yml``.

    Raises:
        ConfigError: If the name is unknown; the nearest names are suggested.
        ManifestError: If the manifest is invalid.
    """
    if dataset.endswith((".yaml", ".yml")):
        return read_manifest(Path(dataset))
    paths = _manifest_paths()
    if dataset in paths:
        return read_manifest(paths[dataset])
    if dataset in shipped_names():
        return simulated_twin(read_manifest(paths[dataset.removeprefix(SIMULATED_PREFIX)]))
    raise unknown_name("dataset", dataset, [*shipped_names(), "path/to/manifest.yaml"])


def simulated_twin(real: Manifest) -> Manifest:
    """A simulated scene with the raster size, modalities, bands, classes and class counts of a real one."""
    return real.model_copy(
        update={
            "id": SIMULATED_PREFIX + real.id,
            "title": f"Simulated twin of {real.title}",
            "sources": (),
            "ground_truth": GroundTruth(),
            "official_split": None,
            "generator": Generator(layout=real.id),
            "terms": "Simulated; no terms.",
            "citation": "Simulated data; cite the suite.",
            "notes": "Sizes, classes and class counts are those of the real scene; images and labels are simulated.",
            "variants": (),
            "modalities": tuple(m.model_copy(update={"parts": ()}) for m in real.modalities),
        }
    ).with_path(real.path)


def load_scene(dataset: str | Manifest, *, progress: Callable[[str], Any] | None = None) -> Scene:
    """Load a scene: simulate it, or fetch, verify and read its files.

    A real scene is never replaced by a simulated one.

    Args:
        dataset: A shipped name, the path of a manifest, or a manifest.
        progress: Called with one line per step (fetching, reading); None is silent.

    Raises:
        ConfigError: If the name is unknown.
        ManifestError: If the manifest is invalid.
        DataError: If files are missing and cannot be fetched, or contradict the manifest.
    """
    manifest = dataset if isinstance(dataset, Manifest) else load_manifest(dataset)
    if manifest.simulated:
        from mmrs_bench.scenes.simulator.simulated import simulate

        return simulate(manifest)
    from mmrs_bench.scenes.files.fetch import ensure_files, missing_official
    from mmrs_bench.scenes.files.readers import read_scene

    scene = read_scene(manifest, ensure_files(manifest, progress=progress))
    return replace(scene, official_missing=missing_official(manifest))
