"""The folders of a campaign: a small scene in files, results, a cache, and the command that runs on them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmrs_bench.evaluation.results.records import load_records

REPOSITORY = Path(__file__).resolve().parents[2]
CARD = Path(__file__).with_name("card.yaml")
METHODS = ("majority", "nearest-prototype", "svm", "rf", str(CARD))
SIDE, FIELD, CLASSES, BANDS = 48, 12, 4, 5
DISK_BYTES = 32 << 20


class Arena:
    """Folders in which runs may be disturbed.

    Args:
        root: Folder that contains everything; created.
        draws: Draws per method, which set the number of cells.
        disk: Mount a small file system for results and cache, so that it can be filled.
    """

    def __init__(self, root: Path, *, draws: int, disk: bool = False) -> None:
        self.root, self.draws = root, draws
        self.disk = root / "disk"
        self.disk.mkdir(parents=True)
        self.mounted = disk and mount(self.disk)
        self.results, self.cache = self.disk / "results", self.disk / "cache"
        self.output = root / "output"
        self.output.mkdir()
        self.precious = root / "precious.txt"  # the target of symlinks; no run may change it
        self.precious.write_text("precious\n")
        self.manifest = write_scene(root)

    @property
    def cells(self) -> int:
        """Number of cells of the command."""
        return len(METHODS) * self.draws

    def command(self, *more: str) -> list[str]:
        """The command line of a run."""
        suite = ["--datasets", str(self.manifest), "--methods", *METHODS, "--draws", str(self.draws), "--window", "7"]
        options = ["--shots", "2", "--budget", "smoke", "--results", str(self.results)]
        return [str(Path(sys.executable).with_name("mmrs-bench")), "run", *suite, *options, *more]

    def environment(self) -> dict[str, str]:
        """Environment variables of a run."""
        python_path = [REPOSITORY / "tests", REPOSITORY / "docs" / "templates", os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "MMRS_BENCH_DATA": str(self.root / "data"),
            "MMRS_BENCH_CACHE": str(self.cache),
            "PYTHONPATH": os.pathsep.join(str(path) for path in python_path if str(path)),
            "COLUMNS": "400",
        }

    def bodies(self) -> dict[str, dict[str, Any]]:
        """The bodies of all records, by key."""
        return {record.key: record.body() for record in load_records(self.results)}

    def clear(self) -> None:
        """Remove results and cache."""
        for folder in (self.results, self.cache):
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Unmount the file system and remove everything."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
        shutil.rmtree(self.root, ignore_errors=True)


class QuickArena(Arena):
    """Folders for runs of `torture.quick_run`; ``draws`` is the number of cells."""

    @property
    def cells(self) -> int:
        """Number of cells of the command."""
        return self.draws

    def command(self, *more: str) -> list[str]:
        """The command line of a run."""
        return [sys.executable, "-m", "torture.quick_run", str(self.results), str(self.draws), *more]


def mount(folder: Path) -> bool:
    """Mount a small file system in memory; returns whether that is possible."""
    if shutil.which("mount") is None:
        return False
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "torture", str(folder)]
    return subprocess.run(["mount", *options], check=False, capture_output=True).returncode == 0


def write_scene(root: Path) -> Path:
    """Write a scene of square fields; returns its manifest."""
    rows, columns = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    truth = (rows // FIELD + columns // FIELD) % CLASSES + 1
    rng = np.random.default_rng(0)
    means = rng.normal(size=(CLASSES + 1, BANDS + 1))
    images = (means[truth] + rng.normal(size=(SIDE, SIDE, BANDS + 1))).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, hsi=images[..., :BANDS], lidar=images[..., BANDS:], gt=truth.astype(np.uint8))
    content = buffer.getvalue()
    file = root / "data" / "torture-r1" / "scene.npz"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    manifest = root / "torture.yaml"
    manifest.write_text(yaml.safe_dump(_manifest(content)), encoding="utf-8")
    return manifest


def _manifest(content: bytes) -> dict[str, Any]:
    bands = {"hsi": BANDS, "lidar": 1}
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "schema": 1,
        "id": "torture",
        "revision": "r1",
        "title": "Fields",
        "height": SIDE,
        "width": SIDE,
        "modalities": [
            {"name": name, "sensor": "none", "bands": count, "parts": [{"file": "scene.npz", "key": name}]}
            for name, count in bands.items()
        ],
        "ground_truth": {"parts": [{"file": "scene.npz", "key": "gt", "axes": "hw"}]},
        "classes": [{"id": k, "name": f"class {k}", "color": f"#{k:06x}"} for k in range(1, CLASSES + 1)],
        "sources": [{"file": "scene.npz", "sha256": sha256, "bytes": len(content)}],
        "terms": "none",
        "citation": "none",
    }
