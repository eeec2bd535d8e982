"""Files that are damaged at rest, or while a run is on: which files, and in which manner."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torture.arena import Arena

from mmrs_bench.errors import BenchError, TrainingError
from mmrs_bench.evaluation.results.records import load_record, save_failure

#: Patterns of the files of a kind, below the folder of results and cache.
TARGETS = {
    "record": "results/records/*/*/[!.]*.json",
    "failure": "results/failures/*/*/[!.]*.json",
    "lock": "results/locks/*.lock",
    "claim": "results/locks/*.claim",
    "pretrained": "cache/pretraining/*.safetensors",
    "description": "cache/pretraining/*.json",
    "cache lock": "cache/**/*.lock",
    "features": "cache/features/*/*.h5",
    "stamp": "cache/verified/*.json",
    "checkpoint": "cache/pretraining/*/work/checkpoints/*/*.ckpt",
    "worker log": "results/logs/*.log",
}


def truncate(path: Path, arena: Arena, rng: random.Random) -> None:
    """Cut a file off."""
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def flip(path: Path, arena: Arena, rng: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def noise(path: Path, arena: Arena, rng: random.Random) -> None:
    """Overwrite a part with random bytes."""
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) + 1)
    content[start : start + 64] = rng.randbytes(64)
    path.write_bytes(bytes(content))


def empty(path: Path, arena: Arena, rng: random.Random) -> None:
    """Leave no content."""
    os.truncate(path, 0)


def folder(path: Path, arena: Arena, rng: random.Random) -> None:
    """Put a folder with a file in its place."""
    path.unlink()
    path.mkdir()
    (path / "stray").write_text("stray")


def fifo(path: Path, arena: Arena, rng: random.Random) -> None:
    """Put a FIFO in its place, which blocks everyone who opens it."""
    path.unlink()
    os.mkfifo(path)


def symlink(path: Path, arena: Arena, rng: random.Random) -> None:
    """Put a symlink to a file of the user in its place."""
    path.unlink()
    path.symlink_to(arena.precious)


def dangling(path: Path, arena: Arena, rng: random.Random) -> None:
    """Put a symlink to nothing in its place."""
    path.unlink()
    path.symlink_to(arena.root / "absent" / "file")


MANNERS: dict[str, Callable[[Path, Arena, random.Random], None]] = {
    "truncated": truncate,
    "bit flipped": flip,
    "overwritten": noise,
    "emptied": empty,
    "a folder": folder,
    "a FIFO": fifo,
    "a symlink": symlink,
    "a dangling symlink": dangling,
}


def files_of(arena: Arena, target: str) -> list[Path]:
    """Regular files of a kind."""
    found = [path for path in sorted(arena.disk.glob(TARGETS[target])) if path.is_file() and not path.is_symlink()]
    if target == "lock":
        return [path for path in found if path.name != "writable"]
    return [path for path in found if path.name != "about.json"]


def damage(arena: Arena, target: str, manner: str, rng: random.Random) -> Path | None:
    """Damage one file of a kind; returns its path, or None if there is no such file."""
    found = files_of(arena, target)
    if not found:
        return None
    path = rng.choice(found)
    try:
        MANNERS[manner](path, arena, rng)
    except OSError:  # a run has removed it in this moment
        return None
    return path


def plant_failures(arena: Arena) -> None:
    """Write a failure record beside two records, and one in place of a record, as failed runs leave them."""
    for path in files_of(arena, "record")[:2]:
        with suppress(BenchError):
            save_failure(arena.results, load_record(path).protocol, TrainingError("planted by the campaign"))


def plant_claims(arena: Arena, keys: list[str]) -> None:
    """Write claims of a run that was killed."""
    folder = arena.results / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    for key in keys:
        if not os.path.lexists(folder / f"{key}.claim"):
            (folder / f"{key}.claim").write_text("0123456789abcdef0123456789abcdef")


@contextmanager
def unwritable(folder: Path) -> Iterator[bool]:
    """Make a folder and those in it unwritable within a block; yields whether that is possible."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())] if folder.is_dir() else []
    if os.geteuid() == 0:
        if shutil.which("chattr") is None or not folders:
            yield False
            return
        names = [str(path) for path in folders]
        worked = subprocess.run(["chattr", "+i", *names], check=False, capture_output=True).returncode == 0
        try:
            yield worked
        finally:
            subprocess.run(["chattr", "-i", *names], check=False, capture_output=True)
        return
    modes = {path: path.stat().st_mode for path in folders}
    for path in folders:
        path.chmod(0o555)
    try:
        yield bool(folders)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def put_back(away: Path, place: Path) -> None:
    """Move a folder back; what was created meanwhile in its place stays."""
    if not os.path.lexists(place):
        away.rename(place)
        return
    if not place.is_dir() or place.is_symlink() or not away.is_dir():
        place.unlink()
        away.rename(place)
        return
    for path in away.iterdir():
        other = place / path.name
        if path.is_dir() or not os.path.lexists(other):
            put_back(path, other)
    shutil.rmtree(away, ignore_errors=True)
