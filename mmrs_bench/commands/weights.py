"""``weights list | fetch``."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

from mmrs_bench.commands.output import say, say_columns, say_progress
from mmrs_bench.errors import FetchError
from mmrs_bench.io import file_sha256
from mmrs_bench.models.weights import Weights, all_weights, weights_named
from mmrs_bench.paths import cache_root
from mmrs_bench.scenes.files.transfer import disk_error, download, quarantine

#: Address that huggingface_hub uses in place of https://huggingface.co, for networks that only reach a mirror.
MIRROR_VARIABLE = "HF_ENDPOINT"


def list_weights() -> int:
    """Print every checkpoint with its state on this machine and its terms of use."""
    rows = [("checkpoint", "file", "title", "terms of use")]
    for entry in all_weights():
        rows.append((entry.name, "complete" if entry.local_file() else "absent", entry.title, entry.licence))
    say_columns(rows)
    say(f"fetched files lie in {cache_root() / 'weights'}; mmrs-bench weights fetch NAME fetches one")
    return 0


def fetch(*, name: str) -> int:
    """Fetch a checkpoint, verify it, and print its path."""
    entry = weights_named(name)
    folder = entry.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{entry.file}.lock"):
            _fetch(entry)
    except OSError as error:
        raise disk_error(entry.path, error) from error
    return 0


def _fetch(entry: Weights) -> None:
    """Fetch an entry unless its file is here; a file with a wrong hash is moved away first."""
    present = entry.local_file()
    if present is not None:
        sha256 = file_sha256(present)
        fault = _content_fault(present)
        if not fault and entry.sha256 in (None, sha256):
            say_progress(f"{entry.name}: is here, SHA-256 {sha256}{_stated(entry)}")
            say(str(present))
            return
        fault = fault or f"SHA-256 is {sha256}, expected {entry.sha256}"
        say_progress(f"{entry.name}: {fault}; fetching it again")
        if present == entry.path:
            say_progress(f"{entry.name}: moved the wrong file to {quarantine(present, sha256)}")
    url = entry.url
    if mirror := os.environ.get(MIRROR_VARIABLE):
        url = url.replace("https://huggingface.co", mirror.rstrip("/"))
    say_progress(f"{entry.name}: fetching {entry.file} from {url}")
    try:
        download(url, entry.path, entry.sha256, None)
    except FetchError as error:
        raise FetchError(
            f"{entry.name} could not be fetched ({url}: {error}). To provide it manually: put the file at {entry.path}"
        ) from error
    sha256 = file_sha256(entry.path)
    if fault := _content_fault(entry.path):
        raise FetchError(
            f"{entry.name}: {fault}, expected a checkpoint; kept as {quarantine(entry.path, sha256)}. Open {url} in a "
            f"browser, or set {MIRROR_VARIABLE} to another server, and fetch it again"
        )
    say_progress(f"{entry.name}: SHA-256 {sha256}{_stated(entry)}")
    say(str(entry.path))


def _content_fault(path: Path) -> str:
    """Why a file is no checkpoint: it is empty, or a web page, such as that of a login; empty if it may be one."""
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    return "the file is empty" if not start else "the file is a web page" if start.startswith(b"<") else ""


def _stated(entry: Weights) -> str:
    return ", as expected" if entry.sha256 else "; its publisher states none"
