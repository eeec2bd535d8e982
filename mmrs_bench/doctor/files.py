"""Which data and weights are on this machine, and the size of the cache."""

from __future__ import annotations

import os
from pathlib import Path

from mmrs_bench.doctor.part import Part, make_table, size_text
from mmrs_bench.evaluation.report.tables import Column, Value
from mmrs_bench.models.weights import all_weights
from mmrs_bench.paths import cache_root, data_root
from mmrs_bench.scenes.catalogue import load_manifest, shipped_names
from mmrs_bench.scenes.files.verify import status


def files() -> Part:
    """The files of real scenes and the checkpoints, without reading them, and the size of the cache."""
    rows: list[dict[str, Value]] = []
    for name in shipped_names():
        manifest = load_manifest(name)
        state = status(manifest).state
        if not manifest.simulated:
            command = None if state == "present" else f"mmrs-bench data fetch {name}"
            rows.append({"kind": "data", "name": name, "state": state, "command": command})
    for entry in all_weights():
        found = entry.local_file() is not None
        state = "present" if found else "absent"
        rows.append({"kind": "weights", "name": entry.name, "state": state, "command": None if found else entry.fetch})
    size, data = _size(cache_root()), _size(data_root())
    rows.append({"kind": "folder", "name": f"cache {cache_root()}", "state": size_text(size), "bytes": size})
    rows.append({"kind": "folder", "name": f"data {data_root()}", "state": size_text(data), "bytes": data})
    columns = (
        Column("kind", "kind", fixed=True),
        Column("name", "name"),
        Column("state", "state", fixed=True),
        Column("command", "fetch it with", fixed=True),
        Column("bytes", kind="number"),
    )
    return Part("files", make_table("Files", columns, rows))


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; 0 if it is absent."""
    paths = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths if path.exists())
