"""A cache in which folders, FIFOs and symlinks have the names of files: named at once, never followed, never a hang."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmrs_bench.errors import BenchError
from mmrs_bench.io import write_text
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit.feature_cache import load_or_extract
from mmrs_bench.methods.toolkit.pretraining_cache import load_or_pretrain
from mmrs_bench.paths import cache_root


def put(path: Path, thing: str, precious: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if thing == "folder":
        path.mkdir()
    elif thing == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(precious)


@pytest.fixture
def use(tmp_path: Path) -> Callable[[str], None]:
    """Reads or fills one of the two caches."""
    context = RunContext(seed=0, draw=0, work_dir=tmp_path / "work")
    rows = np.arange(4)

    def run(cache: str) -> None:
        if cache == "pretraining":
            load_or_pretrain({}, lambda: torch.nn.Linear(2, 2), lambda module, shared: None, context)
        else:
            values = {"x": (2,)}
            load_or_extract({}, rows, values, lambda part: {"x": torch.ones(len(part), 2)}, context).read(rows)

    return run


@pytest.mark.parametrize("thing", ["folder", "FIFO", "symlink"])
@pytest.mark.parametrize(
    ("cache", "pattern", "gone"),
    [
        ("pretraining", "*.safetensors", None),
        ("pretraining", "*.lock", "*.safetensors"),
        ("features", "*/*.h5", None),
        ("features", "*.lock", "*/*.h5"),
    ],
)
def test_what_has_the_name_of_a_cached_file_is_named(
    use: Callable[[str], None], tmp_path: Path, cache: str, pattern: str, gone: str | None, thing: str
) -> None:
    use(cache)
    folder = cache_root() / cache
    for path in folder.glob(gone) if gone else ():
        path.unlink()
    (path,) = folder.glob(pattern)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    put(path, thing, precious)
    with pytest.raises(BenchError, match="remove") as found:
        use(cache)
    assert str(path) in str(found.value)
    assert precious.read_text() == "precious"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    use(cache)


@pytest.mark.parametrize("cache", ["pretraining", "features"])
def test_a_file_in_place_of_a_folder_is_named(use: Callable[[str], None], cache: str) -> None:
    for folder in (cache_root(), cache_root() / cache):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.touch()
        with pytest.raises(BenchError, match=f"{folder.name} is not a folder; move it away"):
            use(cache)
        folder.unlink()


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.json").mkdir()
    with pytest.raises(BenchError, match=r"file\.json is a folder, expected a file; move it away"):
        write_text(tmp_path / "file.json", "")
    (tmp_path / "plain").write_text("")
    with pytest.raises(BenchError, match="plain is not a folder; move it away"):
        write_text(tmp_path / "plain" / "file.json", "")
