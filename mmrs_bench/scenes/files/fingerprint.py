"""The fingerprint of a scene, which covers the content of its files even where the manifest gives no hash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mmrs_bench.io import content_hash
from mmrs_bench.scenes.files.fetch import scene_folder
from mmrs_bench.scenes.files.stamps import Stamps
from mmrs_bench.scenes.manifest import Manifest

#: Endings of the two files of an ENVI raster, of which a manifest may name only one.
ENVI_HEADER = ".hdr"
ENVI_DATA = ("", ".dat", ".img", ".raw", ".bin", ".bsq", ".bil", ".bip", ".cube")


def depends_on_files(manifest: Manifest) -> bool:
    """Whether the fingerprint covers the content of files, because the manifest does not state all their hashes."""
    return next(_unhashed(manifest), None) is not None


def scene_fingerprint(manifest: Manifest) -> str:
    """SHA-256 of everything that can change a number on a scene.

    It is the manifest's fingerprint if the manifest states the hash of every file. Otherwise it also covers the content
    of those other files that are present. A file is hashed once, and again when it changes.

    Raises:
        DataError: If a file cannot be read.
    """
    unhashed = sorted(set(_unhashed(manifest)))
    if not unhashed:
        return manifest.fingerprint
    stamps = Stamps(scene_folder(manifest))
    contents = {path: stamps.sha256(path) for path in unhashed}
    present = {path: sha256 for path, sha256 in contents.items() if sha256 is not None}
    stamps.save(lambda _line: None)
    if not present:
        return manifest.fingerprint
    return content_hash({"manifest": manifest.fingerprint, "contents": present})


def _unhashed(manifest: Manifest) -> Iterator[str]:
    """Paths of the files without a hash in the manifest."""
    files = {member.path: member.sha256 for source in manifest.sources for member in source.files}
    for path, sha256 in files.items():
        if sha256 is None:
            yield path
    folder = scene_folder(manifest)
    for ref in manifest.scene_refs + manifest.official_refs if files else []:
        for companion in _companions(ref.file):
            if companion not in files and (folder / companion).is_file():
                yield companion


def _companions(file: str) -> Iterator[str]:
    """Paths of the other file of an ENVI raster."""
    path = PurePosixPath(file)
    ending = Path(file).suffix.lower()
    if ending == ENVI_HEADER:
        stem = path.with_suffix("")
        yield from (f"{stem}{data}" for data in ENVI_DATA)
    elif ending in ENVI_DATA:
        yield from (f"{file}{ENVI_HEADER}", str(path.with_suffix(ENVI_HEADER)))
