"""The feature cache: every row is computed once; interruptions lose one segment."""

# Child processes import this file first, and mmrs_bench has to be imported before lightning (_torchvision_guard.py).
import mmrs_bench  # isort: skip

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers.cache_helpers import PATIENCE_SECONDS, disk_full_after, wait_for
from helpers.feature_store import (
    ADDRESS,
    ROW_BYTES,
    SHAPES,
    Network,
    Tensors,
    cache,
    cell,
    check,
    extract,
    features,
    leftovers,
    never,
    segments,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.methods.toolkit import feature_cache, pretraining_cache
from mmrs_bench.methods.toolkit.feature_cache import WAITING, load_or_extract

# Every row once


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 11), unique=True, max_size=9), st.integers(1, 5), st.lists(st.integers(0, 99))
        ),
        min_size=1,
        max_size=3,
    )
)
def test_requests_return_the_computed_features_and_compute_each_row_once(
    requests: list[tuple[list[int], int, list[int]]],
) -> None:
    network, requested = Network(), set()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", folder)
        patch.setattr(os, "fsync", lambda descriptor: None)
        for rows, segment, picks in requests:
            before = len(network.calls)
            store = extract(rows, network, segment=segment)
            assert all(len(call) <= segment for call in network.calls[before:])
            check(store, rows)
            check(store, [rows[pick % len(rows)] for pick in picks if rows])  # some, in any order, with repeats
            requested.update(rows)
    assert sorted(network.rows) == sorted(requested)


def test_an_empty_request_computes_nothing() -> None:
    store = extract([], never)
    assert {name: [*tensor.shape] for name, tensor in store.read(np.empty(0, np.int64)).items()} == {
        "fine": [0, 2, 3],
        "coarse": [0],
        "deep": [0, 5],
    }
    assert not cache().exists()


def test_a_store_can_be_pickled() -> None:
    store = extract(range(6), Network())
    check(pickle.loads(pickle.dumps(store)), [5, 0, 3])  # noqa: S301


def test_compute_may_return_any_float_tensors_and_change_its_argument() -> None:
    def compute(rows: Any) -> Tensors:
        tensors = features(rows)
        rows[:] = -1
        return {
            "fine": tensors["fine"].transpose(1, 2).contiguous().transpose(1, 2).double(),
            "coarse": tensors["coarse"].half(),
            "deep": tensors["deep"].requires_grad_(),
        }

    rows = np.arange(5)
    store = load_or_extract(ADDRESS, rows, SHAPES, compute, cell())
    check(store, range(5))
    assert rows.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [65504.0, -65504.0, 6e-8, 0.0])
def test_extreme_values_of_half_precision_are_kept(value: float) -> None:
    store = extract([1], lambda rows: {"x": torch.tensor([value])}, shapes={"x": ()})
    assert store.read(np.array([1]))["x"].item() == torch.tensor(value).half().item()


def test_only_requested_rows_can_be_read_even_if_others_are_cached() -> None:
    extract([1, 2, 3], Network())
    store = extract([1, 3], never)
    with pytest.raises(DataError, match=r"^features of row 2 were not extracted, only those of 2 other rows"):
        store.read(np.array([3, 2]))


# The key


def test_the_key_contains_everything_that_the_features_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = Network()

    def request(count: int, **options: Any) -> None:
        check(extract([1, 2], network, **options), [2, 1])
        assert len(network.calls) == count == sum(path.is_dir() for path in cache().iterdir())

    request(1)
    request(2, address={**ADDRESS, "network": "0124"})
    request(3, address={**ADDRESS, "timesteps": [50]})
    request(4, execution=ExecutionConfig(precision="bf16-mixed"))
    request(5, execution=ExecutionConfig(device="cuda"))
    request(6, address={**ADDRESS, "precision": "32-true"})  # does not replace the precision that is added
    monkeypatch.setattr(pretraining_cache, "__version__", "0.0.0")
    request(7)
    monkeypatch.setattr(feature_cache, "FORMAT", feature_cache.FORMAT + 1)
    request(8)
    request(9, execution=ExecutionConfig(threads=2))
    store = extract([1], lambda rows: {"fine": torch.ones(1, 3)}, shapes={"fine": (3,)})
    assert store.read(np.array([1]))["fine"].tolist() == [[1, 1, 1]]


def test_the_key_contains_nothing_else() -> None:
    extract([1, 2], Network())
    execution = ExecutionConfig(device="cpu" if torch.cuda.is_available() else "auto", inference_batch=7)
    address, shapes = dict(reversed(ADDRESS.items())), dict(reversed(SHAPES.items()))
    extract([2], never, address=address, shapes=shapes, segment=1, seed=3, draw=5, execution=execution)


def test_a_folder_has_a_readable_description() -> None:
    extract(range(6), Network(), seed=3)
    (folder,) = (path for path in cache().iterdir() if path.is_dir())
    assert json.loads((folder / "about.json").read_text()) == {
        "key": folder.name,
        "what": ADDRESS,
        "shapes": {name: [*shape] for name, shape in SHAPES.items()},
        "format": feature_cache.FORMAT,
        "device": "cpu",
        "precision": "32-true",
        "code_version": mmrs_bench.__version__,
    }
    first, second = segments()
    assert {path.name for path in folder.iterdir()} == {"about.json", first.name, second.name}
    with h5py.File(second) as file:
        assert file["rows"][()].tolist() == [4, 5]
        for name, expected in features([4, 5]).items():
            level = file["levels"][name]
            assert (level.dtype, level.chunks) == (np.float16, (1, *SHAPES[name]))
            assert np.array_equal(level[()], expected.half().numpy())


# Progress


def test_progress_reports_size_and_then_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows of 120 kB in segments of four rows, one minute each: two and a half minutes."""
    reported: list[tuple[str, float]] = []
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(feature_cache, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def request(rows: Sequence[int], compute: Callable[[Any], Any]) -> None:
        extract(rows, compute, shapes={"x": (60000,)}, progress=lambda stage, done: reported.append((stage, done)))

    request(range(10), lambda rows: {"x": torch.zeros(len(rows), 60000)})
    stage = "features: 1.2 MB, about 3 min"
    assert reported == [("features: 1.2 MB", 0.0), (stage, 0.4), (stage, 0.8), (stage, 1.0)]
    reported.clear()
    request(range(5), never)
    assert reported == []


# Several processes, and killed ones


def extract_twice_and_die(folder: Path) -> None:
    """Extract rows 0 to 7 when another process waits for them; killed in the third segment of another extraction."""

    def slowly(rows: Any) -> Tensors:
        (folder / "started").touch()
        wait_for(folder / "expected")
        return features(rows)

    extract(range(8), slowly, address={"name": "shared"})
    synchronise, left = os.fsync, 3  # about.json and two segments

    def kill_at_third_segment(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        synchronise(descriptor)

    os.fsync = kill_at_third_segment
    extract(range(14), features, address={"name": "killed"})


def test_processes_share_rows_and_a_killed_one_loses_only_its_segment(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=extract_twice_and_die, args=(tmp_path,), daemon=True)
    child.start()
    reasons: list[str] = []

    def wait(reason: str) -> None:
        reasons.append(reason)
        (tmp_path / "expected").touch()

    wait_for(tmp_path / "started")
    network = Network()
    store = extract(range(4, 12), network, address={"name": "shared"}, wait=wait)
    assert reasons == [WAITING]
    assert network.rows == [8, 9, 10, 11]
    check(store, range(4, 12))

    child.join(PATIENCE_SECONDS)
    assert child.exitcode == -signal.SIGKILL
    (part,) = leftovers()
    assert part.suffix == ".tmp"
    finished = {path: path.read_bytes() for path in part.parent.glob("*.h5")}
    assert len(finished) == 2
    network = Network()
    store = extract(range(14), network, address={"name": "killed"})
    assert network.calls == [[8, 9, 10, 11], [12, 13]]
    check(store, range(14))
    assert not leftovers()
    assert {path: path.read_bytes() for path in finished} == finished


def test_ctrl_c_keeps_finished_segments_and_releases_the_lock() -> None:
    network = Network()

    def interrupted(rows: Any) -> Tensors:
        if network.calls:
            raise KeyboardInterrupt
        return network(rows)

    with pytest.raises(KeyboardInterrupt):
        extract(range(10), interrupted)
    check(extract(range(10), network), range(10))
    assert network.rows == [*range(10)]


# Disks


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_full_disk_keeps_finished_segments_only(writes: int) -> None:
    """There are four files: about.json and three segments."""
    network = Network()
    with disk_full_after(writes), pytest.raises(BenchError, match=r"No space left on device.*segments are kept; MMRS_"):
        extract(range(10), network)
    assert len(segments()) == max(writes - 1, 0)
    assert not leftovers()
    lost = network.calls[-1] if network.calls else []
    check(extract(range(10), network), range(10))
    assert sorted(network.rows) == sorted([*range(10), *lost])


def test_too_little_disk_space_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only missing rows count."""
    extract(range(10), Network())
    free = 5 * ROW_BYTES - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(BenchError, match=r"^features of 5 rows take 0\.0 MB, but .* has 0\.0 MB free\. .*MMRS_BENCH_C"):
        extract(range(15), never)
    free += 1
    check(extract(range(15), Network()), range(15))
    with pytest.raises(BenchError, match=r"^features of 1 rows take 2\.4 GB, but"):
        extract([1], Network(), shapes={"x": (1_200_000_000,)})
