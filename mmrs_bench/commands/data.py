"""``data list | fetch | verify | where``."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mmrs_bench.commands.output import say, say_columns, say_progress
from mmrs_bench.errors import ConfigError
from mmrs_bench.paths import data_root
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.scenes.files.fetch import fetch as fetch_files
from mmrs_bench.scenes.files.fetch import scene_folder
from mmrs_bench.scenes.files.verify import status
from mmrs_bench.scenes.files.verify import verify as verify_files

EXIT_FAILED = 1
#: Number of characters of the terms of use in the list.
TERMS_WIDTH = 80


def list_scenes() -> int:
    """Print every scene with the state of its files and the start of its terms of use."""
    rows = [("dataset", "size", "classes", "files", "terms of use")]
    for name in shipped_names():
        manifest = load_manifest(name)
        size = f"{manifest.height} x {manifest.width}"
        terms = textwrap.shorten(manifest.terms, TERMS_WIDTH, placeholder="...")
        rows.append((name, size, str(len(manifest.classes)), status(manifest).state, terms))
    say_columns(rows)
    say(f"files lie in {data_root()}")
    return 0


def fetch(*, name: str, source: str | None) -> int:
    """Fetch and verify a scene's files."""
    if source == "":
        raise ConfigError("--from is empty; name the folder that contains your files")
    source_dir = Path(source).expanduser() if source else None
    say(str(fetch_files(load_manifest(name), source_dir=source_dir, progress=say_progress)))
    return 0


def verify(*, name: str) -> int:
    """Verify a scene's files against its manifest; return 1 if anything is wrong."""
    manifest = load_manifest(name)
    rows = verify_files(manifest)
    for row in rows:
        expected = f", expected {row.expected}" if row.expected and not row.ok else ""
        remedy = f"; {row.remedy}" if row.remedy else ""
        say(f"{'ok' if row.ok else 'WRONG':7}{row.file}: {row.found}{expected}{remedy}")
    wrong = sum(not row.ok for row in rows)
    if manifest.simulated:
        say(f"{name} is simulated: there are no files to verify")
    elif wrong:
        say(f"{wrong} of {len(rows)} checks failed in {scene_folder(manifest)}")
    return EXIT_FAILED if wrong else 0


def where(*, name: str | None) -> int:
    """Print the folder of a scene's files, or of all scenes."""
    say(str(scene_folder(load_manifest(name)) if name else data_root()))
    return 0
