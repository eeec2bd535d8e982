"""What a scene's folder holds: a quick status, and a full check against the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmrs_bench.errors import ConfigError, DataError
from mmrs_bench.io import file_sha256
from mmrs_bench.scenes.files.fetch import scene_folder
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.manifest import Manifest, SourceMember


@dataclass(frozen=True)
class VerifyRow:
    """One line of `verify`: a file or a claim of the manifest, what was expected, what was found."""

    file: str
    expected: str
    found: str
    ok: bool


@dataclass(frozen=True)
class SceneStatus:
    """One line of ``data list``.

    ``state`` is ``simulated`` (needs no files), ``absent`` (none is there), ``incomplete``, or ``present`` (all
    required ones are there; `verify` says whether they are right). ``missing`` names absent files, optional ones last.
    """

    name: str
    title: str
    state: Literal["simulated", "absent", "incomplete", "present"]
    folder: Path
    missing: tuple[str, ...]


def status(manifest: Manifest) -> SceneStatus:
    """Whether a scene's files are there, without hashing or reading them."""
    folder = scene_folder(manifest)
    ordered = sorted(manifest.sources, key=lambda source: source.optional)
    absent = [(m.path, s.optional) for s in ordered for m in s.files if not (folder / m.path).is_file()]
    required = [path for path, optional in absent if not optional]
    there = sum(len(source.files) for source in ordered) - len(absent)
    state: Literal["simulated", "absent", "incomplete", "present"]
    if manifest.simulated:
        state = "simulated"
    elif not required:
        state = "present"
    else:
        state = "incomplete" if there else "absent"
    return SceneStatus(manifest.dataset_name, manifest.title, state, folder, tuple(path for path, _ in absent))


def verify(manifest: Manifest) -> list[VerifyRow]:
    """Check a scene's files against its manifest: hashes anew, then shapes, values, classes and official split.

    Nothing is fetched, moved or changed.

    Returns:
        One row per file, and once all files are right one per image, the ground truth and the official split; or one
        row with the first fault that reading them found.
    """
    folder = scene_folder(manifest)
    rows = [_verify_file(folder / m.path, m, s.optional) for s in manifest.sources for m in s.files]
    if manifest.simulated or not all(row.ok for row in rows):
        return rows
    size = f"{manifest.height}x{manifest.width}"
    try:
        scene = read_scene(manifest, folder)
    except (DataError, ConfigError) as error:
        return [*rows, VerifyRow("contents", f"{size} pixels as the manifest describes", str(error), False)]
    for modality in manifest.modalities:
        shape = f"{size}x{modality.bands}, finite, no constant band"
        rows.append(VerifyRow(modality.name, shape, shape, True))
    labels = f"{len(manifest.classes)} classes, {len(scene.labelled_pixels):,} pixels"
    rows.append(VerifyRow("ground truth", labels, labels, True))
    if scene.official is not None:
        parts = " / ".join(f"{len(part):,}" for part in scene.official) + " train / test pixels"
        rows.append(VerifyRow("official split", parts, parts, True))
    return rows


def _verify_file(path: Path, member: SourceMember, optional: bool) -> VerifyRow:
    expected = member.sha256 or "any content"
    if not path.is_file():
        return VerifyRow(member.path, expected, "absent (optional)" if optional else "absent", optional)
    found = file_sha256(path)
    return VerifyRow(member.path, expected, found, member.sha256 in (None, found))
