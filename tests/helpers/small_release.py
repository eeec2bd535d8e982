"""A small scene in the formats of real releases, and a local web server for it that can misbehave."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmrs_bench.scenes.catalogue import read_manifest
from mmrs_bench.scenes.files.archive import extract_members
from mmrs_bench.scenes.files.readers import read_scene
from mmrs_bench.scenes.manifest import Manifest, SourceMember
from mmrs_bench.scenes.scene import Scene

HEIGHT, WIDTH, BANDS = 6, 9, 4
CLASS_COUNTS = (12, 9, 6)
TRAIN_COUNTS = (3, 2, 1)

Answer = bytes | Callable[[BaseHTTPRequestHandler], None]


def small_arrays() -> dict[str, np.ndarray]:
    """Images and labels of the small scene: ``hsi lidar gt train test``; no two axes have the same length."""
    rng = np.random.default_rng(5)
    gt = np.zeros(HEIGHT * WIDTH, dtype=np.uint8)
    train = np.zeros_like(gt)
    start = 2
    for k, (count, taken) in enumerate(zip(CLASS_COUNTS, TRAIN_COUNTS, strict=True), start=1):
        gt[start : start + count] = k
        train[start : start + taken] = k
        start += count + 1
    gt, train = gt.reshape(HEIGHT, WIDTH), train.reshape(HEIGHT, WIDTH)
    return {
        "hsi": rng.normal(size=(HEIGHT, WIDTH, BANDS)).astype(np.float32),
        "lidar": rng.normal(size=(HEIGHT, WIDTH, 2)).astype(np.float32),
        "gt": gt,
        "train": train,
        "test": np.where(train == 0, gt, 0).astype(np.uint8),
    }


def npz_bytes(**arrays: np.ndarray) -> bytes:
    """An .npz file in memory."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def zip_bytes(members: dict[str, bytes]) -> bytes:
    """A .zip file in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    """Hash in hex digits."""
    return hashlib.sha256(content).hexdigest()


def plain_source(content: bytes, *urls: str, file: str = "scene.npz", **more: Any) -> dict[str, Any]:
    """A source that is one plain file."""
    return {"file": file, "urls": list(urls), "sha256": sha256(content), "bytes": len(content), **more}


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """A valid manifest of the small scene in one .npz file, as a mapping that tests may change."""
    fields: dict[str, Any] = {
        "schema": 1,
        "id": "small",
        "revision": "r1",
        "title": "Small scene",
        "height": HEIGHT,
        "width": WIDTH,
        "modalities": [
            modality("hsi", BANDS, {"file": "scene.npz", "key": "hsi"}),
            modality("lidar", 2, {"file": "scene.npz", "key": "lidar"}),
        ],
        "ground_truth": {"parts": [{"file": "scene.npz", "key": "gt", "axes": "hw"}]},
        "classes": [
            {"id": k, "name": name, "color": color, "count": count}
            for k, name, color, count in zip(
                (1, 2, 3), ("Grass", "Road", "Water"), ("#00ff00", "#808080", "#0000ff"), CLASS_COUNTS, strict=True
            )
        ],
        "sources": [{"file": "scene.npz"}],
        "terms": "none",
        "citation": "none",
    }
    return fields | changes


def official_fields(**changes: Any) -> dict[str, Any]:
    """The official split of the small scene's .npz file."""
    fields: dict[str, Any] = {
        "train": {"file": "scene.npz", "key": "train", "axes": "hw"},
        "test": {"file": "scene.npz", "key": "test", "axes": "hw"},
        "train_counts": list(TRAIN_COUNTS),
        "test_counts": [a - b for a, b in zip(CLASS_COUNTS, TRAIN_COUNTS, strict=True)],
    }
    return fields | changes


def write_manifest(folder: Path, fields: dict[str, Any]) -> Path:
    """Write a manifest file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


def modality(name: str, bands: int, *parts: dict[str, Any]) -> dict[str, Any]:
    """A modality of a manifest."""
    return {"name": name, "sensor": "none", "bands": bands, "parts": list(parts)}


def small_manifest(folder: Path, **changes: Any) -> Manifest:
    """Write and read a manifest of the small scene with changed fields."""
    return read_manifest(write_manifest(folder, manifest_fields(**changes)))


def archive_manifest(folder: Path, file: str, *urls: str, archive_sha256: str, **member: Any) -> Manifest:
    """A manifest of the small scene as the file ``Release/scene.npz`` of an archive."""
    ref = {"file": "Release/scene.npz"}
    members = [{"path": ref["file"], **member}]
    return small_manifest(
        folder,
        modalities=[modality("hsi", BANDS, ref | {"key": "hsi"}), modality("lidar", 2, ref | {"key": "lidar"})],
        ground_truth={"parts": [ref | {"key": "gt", "axes": "hw"}]},
        sources=[{"file": file, "urls": list(urls), "sha256": archive_sha256, "members": members}],
    )


def extract(folder: Path, content: bytes, *members: SourceMember, name: str = "a.zip") -> Path:
    """Extract members of an archive that is put into a folder; returns the folder of the extracted files."""
    (folder / name).write_bytes(content)
    extract_members(folder / name, members, folder / "out")
    return folder / "out"


def scene_of_arrays(folder: Path, arrays: dict[str, np.ndarray], **changes: Any) -> Scene:
    """Read the small scene from an .npz file with these arrays, and with changed fields of its manifest."""
    (folder / "scene").mkdir(exist_ok=True)
    np.savez(folder / "scene" / "scene.npz", **(small_arrays() | arrays))
    return read_scene(small_manifest(folder, **changes), folder / "scene")


def files_below(folder: Path) -> set[str]:
    """Paths of all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def roi_text(labels: np.ndarray, *, inline: bool) -> str:
    """ENVI's text export of regions; ``inline`` puts each description before its region, as some versions do."""
    names = [
        f"; ROI name: class_{k}\n; ROI rgb value: {{0, {k}, 0}}\n; ROI npts: {np.count_nonzero(labels == k)}\n"
        for k in range(1, labels.max() + 1)
    ]
    columns = ";   ID    X    Y       Map X       Map Y         Lat         Lon     B1\n"
    text = f"; ENVI Output of ROIs (4.8) [Mon Apr  1 2013]\n; Number of ROIs: {len(names)}\n"
    text += f"; File Dimension: {labels.shape[1]} x {labels.shape[0]}\n;\n"
    text += "" if inline else "".join(names) + columns
    for k, name in enumerate(names, start=1):
        text += name + columns if inline else ""
        for i, (row, column) in enumerate(np.argwhere(labels == k), start=1):
            text += f"{i:6d} {column + 1:5d} {row + 1:5d}   271460.75  3290891.25   29.72   -95.36  512\n"
        text += "\n"
    return text


class LocalServer(ThreadingHTTPServer):
    """A web server on 127.0.0.1 with one answer per path; ``requests`` lists the requested paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def serve(self, path: str, answer: Answer) -> str:
        """Answer a path with bytes or a function of the handler; returns the address."""
        self.answers[path] = answer
        return self.url(path)


class Handler(BaseHTTPRequestHandler):
    """The answers of a `LocalServer`."""

    server: LocalServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
        elif callable(answer):
            answer(self)
        else:
            send(self, answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def send(handler: BaseHTTPRequestHandler, content: bytes, *, announced: int | None = None) -> None:
    """Answer 200 with a body; ``announced`` is the length in the header."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if announced is None else announced))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """A running `LocalServer`; ends hanging answers at the end."""
    with LocalServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
