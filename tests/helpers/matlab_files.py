"""Writes MATLAB files of both generations from nested Python values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

Writer = Callable[[Path, dict[str, Any]], Path]


def write_matlab5(path: Path, values: dict[str, Any]) -> Path:
    """A MATLAB v5 file: a dict becomes a struct, a list a cell array, a list of dicts a struct array."""
    scipy.io.savemat(path, {name: _matlab5_value(value) for name, value in values.items()}, do_compression=True)
    return path


def _matlab5_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _matlab5_value(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    structs = isinstance(value[0], dict)
    array = np.empty((1, len(value)), dtype=[(name, object) for name in value[0]] if structs else object)
    for i, item in enumerate(value):
        array[0, i] = tuple(item.values()) if structs else item
    return array


def write_matlab73(path: Path, values: dict[str, Any]) -> Path:
    """A MATLAB v7.3 file: arrays with reversed axes, structs as groups, lists of structs and cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in values.items():
            _put(file, file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def _put(file: h5py.File, parent: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, list) and isinstance(value[0], dict):  # list of structs: a group of lists of references
        value = {key: [item[key] for item in value] for key in value[0]}
    if isinstance(value, dict):
        group = parent.create_group(name)
        for key, item in value.items():
            _put(file, group, key, item)
    elif isinstance(value, list):
        store = file.require_group("#refs#")
        references = np.empty((len(value), 1), dtype=h5py.ref_dtype)
        for i, item in enumerate(value):
            data = np.array([[ord(letter)] for letter in item], "u2") if isinstance(item, str) else np.asarray(item).T
            references[i, 0] = store.create_dataset(f"r{len(store)}", data=data).ref
        parent.create_dataset(name, data=references, dtype=h5py.ref_dtype)
    else:
        parent.create_dataset(name, data=np.asarray(value).T)


WRITERS: list[Writer] = [write_matlab5, write_matlab73]
