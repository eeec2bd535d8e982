"""Reports which files of a scene are present, and checks them against the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import file_sha256
from mmrs_bench.scenes.files.fetch import manual_steps, scene_folder
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.manifest import Manifest, Source, SourceMember
from mmrs_bench.scenes.manifest_files import MANUAL_ARCHIVES
from mmrs_bench.scenes.scene import FloatArray, Scene

#: Smallest values that usually mark missing ones.
USUAL_FILL = (-9999.0, -99999.0, -32768.0, -32767.0, -999.0)


@dataclass(frozen=True)
class VerifyRow:
    """One check of `verify`: a file or a statement of the manifest, the expected and the found value.

    ``remedy`` is what the user should do; empty if nothing. Both it and ``expected`` are empty if ``found`` states it.
    """

    file: str
    expected: str
    found: str
    ok: bool
    remedy: str = ""


@dataclass(frozen=True)
class SceneStatus:
    """Which files of a scene are present; ``missing`` lists the others, optional ones last."""

    state: Literal["simulated", "absent", "incomplete", "present"]
    missing: tuple[str, ...]


def status(manifest: Manifest) -> SceneStatus:
    """Which files of a scene are present, without hashing or reading them."""
    folder = scene_folder(manifest)
    sources = sorted(manifest.sources, key=lambda source: source.optional)
    files = [(member.path, source.optional) for source in sources for member in source.files]
    missing = [(path, optional) for path, optional in files if not (folder / path).is_file()]
    names = tuple(path for path, _ in missing)
    if manifest.simulated:
        return SceneStatus("simulated", names)
    if all(optional for _, optional in missing):
        return SceneStatus("present", names)
    return SceneStatus("incomplete" if len(missing) < len(files) else "absent", names)


def verify(manifest: Manifest) -> list[VerifyRow]:
    """Check a scene's files against its manifest: hashes, shapes, values, classes and official split.

    Returns:
        One row per file. If all files are right, also one row per image, ground truth and official split, or one row
        with the first fault found while reading them.
    """
    folder = scene_folder(manifest)
    rows = [_verify_file(manifest, source, member) for source in manifest.sources for member in source.files]
    if manifest.simulated or not all(row.ok for row in rows):
        return rows
    try:
        scene = read_scene(manifest, folder)
    except (DataError, ConfigError) as error:
        kept = any(source.urls and member.sha256 is None for source in manifest.sources for member in source.files)
        remedy = "a file without sha256 is fetched again only after you delete it" if kept else ""
        return [*rows, VerifyRow("contents", "", str(error), False, remedy)]
    size = f"{manifest.height}x{manifest.width}"
    checked: dict[str, str] = {
        m.name: f"{size}x{m.bands}, finite, no constant band; {_values(scene.images[m.name])}"
        for m in manifest.modalities
    }
    labelled = f"{len(manifest.classes)} classes, {len(scene.labelled_pixels):,} pixels"
    if not scene.empty_classes:
        checked["ground truth"] = labelled
    elif manifest.labelled:
        rows.append(_without_pixels(scene, labelled))
    if scene.official is not None:
        checked["official split"] = " / ".join(f"{len(part):,}" for part in scene.official) + " train / test pixels"
    return rows + [VerifyRow(name, found, found, True) for name, found in checked.items()]


def _values(image: FloatArray) -> str:
    """The range of an image's values, and whether its smallest one looks like a mark of missing values."""
    low, high = float(image.min()), float(image.max())
    text = f"{low:g} to {high:g}"
    if low in USUAL_FILL and (count := int(np.count_nonzero(image == low))) < image.size:
        rest = float(image[image != low].min())
        if rest - low > high - rest:
            text += f" ({count:,} values are {low:g}; if they mean no value, fill them)"
    return text


def _without_pixels(scene: Scene, labelled: str) -> VerifyRow:
    found = f"no pixel is of class {', '.join(scene.empty_classes)}"
    remedy = (
        "correct the values: of the classes (if the file counts them from 0, [0] for the first one, [1] for the "
        "second, ...), or remove the class"
    )
    return VerifyRow("ground truth", labelled, found, False, remedy)


def _verify_file(manifest: Manifest, source: Source, member: SourceMember) -> VerifyRow:
    path, expected = scene_folder(manifest) / member.path, member.sha256 or "any content"
    if not path.is_file():
        if source.optional:
            return VerifyRow(member.path, expected, "absent (optional)", True)
        return VerifyRow(member.path, expected, "absent", False, _provide(manifest, source))
    try:
        found = file_sha256(path)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        return VerifyRow(member.path, expected, reason, False, "check the file's rights, and the disk")
    if member.sha256 in (None, found):
        return VerifyRow(member.path, expected, found, True)
    if manifest.data_dir is not None:
        remedy = f"replace the file, or correct the hash in {manifest.path} if you changed the file on purpose"
    else:
        remedy = _provide(manifest, source)
    return VerifyRow(member.path, expected, found, False, remedy)


def _provide(manifest: Manifest, source: Source) -> str:
    """What helps against an absent or wrong file of a source."""
    if source.urls and not source.file.lower().endswith(MANUAL_ARCHIVES):
        return f"run: mmrs-bench data fetch {manifest.dataset_name}"
    return manual_steps(manifest, source)
