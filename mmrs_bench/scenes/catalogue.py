"""Scenes by name or path: reads manifests, knows the shipped ones, makes the simulated twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrs_bench.errors import ManifestError, unknown_name
from mmrs_bench.paths import MANIFEST_DIR
from mmrs_bench.plugins import entry_point_paths
from mmrs_bench.reading import read_yaml, validated
from mmrs_bench.scenes.manifest import Generator, GroundTruth, Manifest

if TYPE_CHECKING:
    from mmrs_bench.scenes.scene import Scene

SCENE_GROUP = "mmrs_bench.scenes"
SIMULATED_PREFIX = "sim-"


def read_manifest(path: Path) -> Manifest:
    """Read and validate one manifest file.

    Raises:
        ManifestError: If the file is absent, is not YAML, or a field is wrong; file, field and fix are named.
    """
    fields = read_yaml(path, error=ManifestError, advice="give the path of a manifest (.yaml)")
    return validated(Manifest, fields, where=path, error=ManifestError).at(path)


def _manifest_paths() -> dict[str, Path]:
    shipped = {p.stem: p for p in sorted(MANIFEST_DIR.glob("*.yaml")) if p.stem != "weights"}
    added = dict(entry_point_paths(SCENE_GROUP))
    for name in sorted(added.keys() & shipped.keys()):
        raise ManifestError(f"{added[name]}: an installed package registers {name!r}, a shipped scene; rename it")
    return {**shipped, **added}


def shipped_names() -> list[str]:
    """Names of all scenes that need no path: shipped ones, a simulated twin of each real one, installed ones.

    Raises:
        ManifestError: If an installed package registers a shipped name.
    """
    stems = sorted(p.stem for p in MANIFEST_DIR.glob("*.yaml") if p.stem != "weights")
    # A dash marks another release of a scene (houston2013-original), which has the same twin.
    twins = [SIMULATED_PREFIX + stem for stem in stems if stem != "simulated" and "-" not in stem]
    return [*stems, *twins, *sorted(_manifest_paths().keys() - set(stems))]


def load_manifest(dataset: str) -> Manifest:
    """The manifest of a shipped scene, of its simulated twin (``sim-trento``), or at a path.

    Args:
        dataset: A name of `shipped_names`, or the path of a manifest file (recognised by ``.yaml`` / ``.yml``).

    Raises:
        ConfigError: If the name is unknown; the nearest names are suggested.
        ManifestError: If the manifest is faulty.
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
    """A simulated scene with the raster size, bands, classes, class counts and modalities of a real one."""
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
            "notes": "Simulated: sizes, classes and class counts of the real scene, contents of the simulator.",
            "variants": (),
            "modalities": tuple(m.model_copy(update={"parts": ()}) for m in real.modalities),
        }
    ).at(real.path)


def load_scene(dataset: str | Manifest, *, progress: Callable[[str], Any] | None = None) -> Scene:
    """Load a scene: simulate it if its manifest has a generator, else fetch, verify and read its files.

    Args:
        dataset: A shipped name, the path of a manifest, or a manifest.
        progress: Called with one line per step (fetching, reading); None is silent.

    Raises:
        ConfigError: If the name is unknown.
        ManifestError: If the manifest is faulty.
        DataError: If files are missing and cannot be fetched, or disagree with the manifest. A real scene is never
            replaced by a simulated one.
    """
    manifest = dataset if isinstance(dataset, Manifest) else load_manifest(dataset)
    if manifest.generator is not None:
        from mmrs_bench.scenes.simulator.simulated import simulate

        return simulate(manifest)
    from mmrs_bench.scenes.files.fetch import ensure_files, missing_official
    from mmrs_bench.scenes.files.readers import read_scene

    scene = read_scene(manifest, ensure_files(manifest, progress=progress))
    return scene if scene.official is not None else replace(scene, official_missing=missing_official(manifest))
