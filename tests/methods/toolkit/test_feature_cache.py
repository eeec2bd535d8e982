"""The feature cache: every row once, whole or absent whatever happens, strict about what it reads."""

# The children of this file import it first: mmrs_bench has to come before lightning (see its _torchvision_guard.py).
import mmrs_bench  # isort: skip

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrs_bench.config import ExecutionConfig
from mmrs_bench.errors import BenchError, DataError, TrainingError
from mmrs_bench.methods.base import RunContext
from mmrs_bench.methods.toolkit import feature_cache, pretraining_cache
from mmrs_bench.methods.toolkit.feature_cache import WAITING, FeatureStore, load_or_extract

Tensors = dict[str, torch.Tensor]

ADDRESS = {"scene": "tiny-r1", "network": "0123", "timesteps": [50, 150]}
SHAPES = {"fine": (2, 3), "coarse": (), "deep": (5,)}  # 24 bytes a row in half precision
ROW_BYTES = 24
PATIENCE_SECONDS = 120.0


def features(rows: Any) -> Tensors:
    """Float32 values that half precision rounds, different for every row, level and place."""
    values = torch.as_tensor(np.asarray(rows), dtype=torch.float32)
    return {
        "deep": torch.sin(values[:, None] + torch.arange(5) / 7),
        "fine": torch.cos(values[:, None, None] * 3 + torch.arange(6).reshape(2, 3) / 7),
        "coarse": -values / 3,
    }


class Network:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, rows: Any) -> Tensors:
        self.calls.append(rows.tolist())
        return features(rows)

    @property
    def rows(self) -> list[int]:
        return [row for call in self.calls for row in call]


def never(rows: Any) -> Tensors:
    raise AssertionError("computed again")


def cell(seed: int = 0, draw: int = 0, **options: Any) -> RunContext:
    return RunContext(seed=seed, draw=draw, work_dir=Path("never used"), **options)


def extract(
    rows: Sequence[int],
    compute: Callable[[Any], Any],
    *,
    address: dict[str, Any] = ADDRESS,
    shapes: Any = SHAPES,
    segment: int = 4,
    **options: Any,
) -> FeatureStore:
    return load_or_extract(address, np.array(rows, np.int64), shapes, compute, cell(**options), segment=segment)


def cache() -> Path:
    return Path(os.environ["MMRS_BENCH_CACHE"]) / "features"


def segments() -> list[Path]:
    """Oldest first."""
    return sorted(cache().rglob("*.h5"), key=lambda path: path.stat().st_mtime_ns)


def leftovers() -> list[Path]:
    return list(cache().rglob(".*"))


def check(store: FeatureStore, rows: Sequence[int]) -> None:
    found = store.read(np.array(rows, np.int64))
    expected = features(np.array(rows, np.int64))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.device.type) == (torch.float16, "cpu")
        assert torch.equal(tensor, expected[name].half()), name


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
def test_any_requests_give_what_computing_gives_and_compute_each_row_once(
    requests: list[tuple[list[int], int, list[int]]],
) -> None:
    network, asked = Network(), set()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", folder)
        patch.setattr(os, "fsync", lambda descriptor: None)
        for rows, segment, picks in requests:
            before = len(network.calls)
            store = extract(rows, network, segment=segment)
            assert all(len(call) <= segment for call in network.calls[before:])
            check(store, rows)
            check(store, [rows[pick % len(rows)] for pick in picks if rows])  # some, in any order, with repeats
            asked.update(rows)
    assert sorted(network.rows) == sorted(asked)


def test_segments_reach_the_disk_one_by_one() -> None:
    present: list[int] = []

    def compute(rows: Any) -> Tensors:
        present.append(len(segments()))
        return features(rows)

    extract(range(10), compute)
    assert present == [0, 1, 2]
    assert [len(h5py.File(path)["rows"]) for path in segments()] == [4, 4, 2]


def test_other_draws_add_their_rows() -> None:
    network = Network()
    extract([7, 3, 5], network, draw=0)
    store = extract([5, 9, 3, 1], network, draw=1, seed=1)
    assert network.calls == [[3, 5, 7], [1, 9]]
    check(store, [9, 3, 1, 5])


def test_no_rows_are_no_work() -> None:
    store = extract([], never)
    assert {name: [*tensor.shape] for name, tensor in store.read(np.empty(0, np.int64)).items()} == {
        "fine": [0, 2, 3],
        "coarse": [0],
        "deep": [0, 5],
    }
    assert not cache().exists()


def test_a_store_can_be_sent_to_other_processes() -> None:
    store = extract(range(6), Network())
    check(pickle.loads(pickle.dumps(store)), [5, 0, 3])  # noqa: S301 - our own bytes


def test_what_a_network_returns_may_be_of_any_kind_and_work_in_place() -> None:
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
def test_the_ends_of_half_precision_are_kept(value: float) -> None:
    store = extract([1], lambda rows: {"x": torch.tensor([value])}, shapes={"x": ()})
    assert store.read(np.array([1]))["x"].item() == torch.tensor(value).half().item()


def test_reading_a_row_that_was_not_asked_for_is_an_error_even_if_it_lies_there() -> None:
    extract([1, 2, 3], Network())
    store = extract([1, 3], never)
    with pytest.raises(DataError, match=r"^features of row 2 were not extracted, only those of 2 other rows"):
        store.read(np.array([3, 2]))


# The key


def test_what_decides_the_features_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()

    def ask(count: int, **options: Any) -> None:
        check(extract([1, 2], network, **options), [2, 1])
        assert len(network.calls) == count == sum(path.is_dir() for path in cache().iterdir())

    ask(1)
    ask(2, address={**ADDRESS, "network": "0124"})
    ask(3, address={**ADDRESS, "timesteps": [50]})
    ask(4, execution=ExecutionConfig(precision="bf16-mixed"))
    ask(5, execution=ExecutionConfig(device="cuda"))
    ask(6, address={**ADDRESS, "precision": "32-true"})  # cannot pass for what is added
    monkeypatch.setattr(pretraining_cache, "__version__", "0.0.0")
    ask(7)
    monkeypatch.setattr(feature_cache, "FORMAT", feature_cache.FORMAT + 1)  # segments of older suites are left alone
    ask(8)
    store = extract([1], lambda rows: {"fine": torch.ones(1, 3)}, shapes={"fine": (3,)})
    assert store.read(np.array([1]))["fine"].tolist() == [[1, 1, 1]]


def test_what_only_decides_the_way_is_not_in_the_key() -> None:
    extract([1, 2], Network())
    execution = ExecutionConfig(device="cpu" if torch.cuda.is_available() else "auto", threads=2, inference_batch=7)
    address, shapes = dict(reversed(ADDRESS.items())), dict(reversed(SHAPES.items()))
    extract([2], never, address=address, shapes=shapes, segment=1, seed=3, draw=5, execution=execution)


def test_people_can_read_what_a_folder_holds() -> None:
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


def test_size_and_then_time_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows of 120 kB by four, a minute for each four: two and a half minutes."""
    heard: list[tuple[str, float]] = []
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(feature_cache, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def ask(rows: Sequence[int], compute: Callable[[Any], Any]) -> None:
        extract(rows, compute, shapes={"x": (60000,)}, progress=lambda stage, done: heard.append((stage, done)))

    ask(range(10), lambda rows: {"x": torch.zeros(len(rows), 60000)})
    stage = "features: 1.2 MB, about 3 min"
    assert heard == [("features: 1.2 MB", 0.0), (stage, 0.4), (stage, 0.8), (stage, 1.0)]
    heard.clear()
    ask(range(5), never)
    assert heard == []


# Several processes, and their ends


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def extract_twice_and_die(folder: Path) -> None:
    """A child's life: rows 0 to 7 once another process says that it waits; SIGKILL while the third segment of others
    is being written."""

    def slowly(rows: Any) -> Tensors:
        (folder / "begun").touch()
        wait_for(folder / "awaited")
        return features(rows)

    extract(range(8), slowly, address={"name": "shared"})
    synchronise, left = os.fsync, 3  # about.json and two segments

    def deadly(descriptor: int) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        synchronise(descriptor)

    os.fsync = deadly
    extract(range(14), features, address={"name": "killed"})


def test_processes_share_rows_and_a_killed_one_loses_only_its_segment(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=extract_twice_and_die, args=(tmp_path,), daemon=True)
    child.start()
    stages: list[str] = []

    def progress(stage: str, done: float) -> None:
        stages.append(stage)
        (tmp_path / "awaited").touch()

    wait_for(tmp_path / "begun")
    network = Network()
    store = extract(range(4, 12), network, address={"name": "shared"}, progress=progress)
    assert stages[0] == WAITING
    assert stages.count(WAITING) == 1
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


def test_ctrl_c_keeps_what_is_finished_and_frees_the_lock() -> None:
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
def test_a_full_disk_keeps_finished_segments_and_no_part_of_one(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """about.json and three segments, of which so many fit."""
    done, network = 0, Network()

    def full(descriptor: int) -> None:
        nonlocal done
        done += 1
        if done > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BenchError, match=r"No space left on device.*segments are kept; MMRS_BENCH_CACHE sets"):
            extract(range(10), network)
    assert len(segments()) == max(writes - 1, 0)
    assert not leftovers()
    lost = network.calls[-1] if network.calls else []
    check(extract(range(10), network), range(10))
    assert sorted(network.rows) == sorted([*range(10), *lost])


def test_what_cannot_fit_is_refused_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte, and only missing rows count."""
    extract(range(10), Network())
    free = 5 * ROW_BYTES - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(BenchError, match=r"^features of 5 rows take 0\.0 MB, but .* has 0\.0 MB free\. .*MMRS_BENCH_C"):
        extract(range(15), never)
    free += 1
    check(extract(range(15), Network()), range(15))
    with pytest.raises(BenchError, match=r"^features of 1 rows take 2\.4 GB, but"):
        extract([1], Network(), shapes={"x": (1_200_000_000,)})


def test_a_cache_that_cannot_be_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BenchError, match=r"cannot write to .*file/features: .*set MMRS_BENCH_CACHE"):
        extract([1], never)


# What is refused


def edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """A damage done with HDF5's own means."""

    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return damage


def set_item(name: str, place: Any, value: Any) -> Callable[[Path], None]:
    return edit(lambda file: file[name].__setitem__(place, value))


def flip_a_bit_of_row_6(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.find(features([6])["deep"].half().numpy().tobytes())
    assert place > 0
    content[place] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["rows"] = np.arange(4)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "cannot be read"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("no features " * 99), "cannot be read"),
    "foreign": (foreign, "cannot be read"),
    "flipped bit": (flip_a_bit_of_row_6, "row 6 is not what was written"),
    "other values": (set_item("levels/coarse", 1, 7), "row 5 is not what was written"),
    "other rows": (set_item("rows", 1, 99), "the content is not what its name says"),
    "other seals": (set_item("seals", (1, 1), 0), "the content is not what its name says"),
    "level removed": (edit(lambda file: file["levels"].pop("deep")), "cannot be read"),
    "rows removed": (edit(lambda file: file.pop("rows")), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_segments_are_neither_used_nor_replaced(damage: str) -> None:
    extract(range(12), Network())
    _, segment, _ = segments()
    spoil, message = DAMAGES[damage]
    spoil(segment)
    content = segment.read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match=rf"^.*{segment.name}: .*{message}.*; remove this file to extract its rows"):
            extract(range(12), never).read(np.arange(12))
    assert segment.read_bytes() == content
    segment.unlink()  # what the message says cures it
    network = Network()
    check(extract(range(12), network), range(12))
    assert network.calls == [[4, 5, 6, 7]]


def test_only_the_rows_that_are_read_are_looked_at() -> None:
    extract(range(12), Network())
    flip_a_bit_of_row_6(segments()[1])
    check(extract(range(12), never), [5, 7, 0])


def test_a_segment_that_went_away_is_an_error() -> None:
    store = extract(range(8), Network())
    gone = segments()[1]
    gone.unlink()
    check(store, [3, 1])
    with pytest.raises(DataError, match=f"{gone.name}: cannot be read"):
        store.read(np.array([5]))


def test_a_segment_of_another_folder_or_name_is_refused() -> None:
    network = Network()
    extract([1, 2], network)
    (one,) = segments()
    extract([1, 2], network, address={**ADDRESS, "network": "0124"})
    (two,) = {*segments()} - {one}
    assert one.name != two.name

    shutil.copy(one, two)
    with pytest.raises(DataError, match=f"{two.name}: holds features of another network, scene or setting"):
        extract([1], never, address={**ADDRESS, "network": "0124"})
    copied = one.with_name(f"{'0' * 64}.h5")
    shutil.copy(one, copied)
    with pytest.raises(DataError, match=f"{copied.name}: the content is not what its name says"):
        extract([1], never)


def test_a_row_in_two_segments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody merges two caches: neither is more right."""
    root = os.environ["MMRS_BENCH_CACHE"]
    extract([1, 2], Network())
    (one,) = segments()
    monkeypatch.setenv("MMRS_BENCH_CACHE", root + "-other")
    extract([2, 3], Network())
    (other,) = segments()
    shutil.copy(other, one.parent)
    monkeypatch.setenv("MMRS_BENCH_CACHE", root)
    with pytest.raises(DataError, match=r"row 2 is also in [0-9a-f]+\.h5; remove this file"):
        extract([1], never)


@pytest.fixture(scope="module")
def segment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", str(folder))
        extract([5, 3, 9], Network())
        (path,) = segments()
    return path


def test_nothing_lies_in_the_heap_that_hdf5_does_not_seal(segment_file: Path) -> None:
    """A flipped bit in a heap of texts of any length can keep HDF5 busy forever, which nothing can interrupt."""
    assert b"GCOL" not in segment_file.read_bytes()
    with h5py.File(segment_file) as file:
        assert file.attrs.get_id("key").dtype.kind == "S"


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0), flip=st.integers(1, 255))
def test_no_flipped_byte_gives_other_values(segment_file: Path, place: int, flip: int) -> None:
    """Some bytes of an HDF5 file mean nothing; any other is noticed."""
    whole = bytearray(segment_file.read_bytes())
    spoilt = whole.copy()
    spoilt[place % len(whole)] ^= flip
    refusal = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRS_BENCH_CACHE", str(segment_file.parents[2]))
        segment_file.write_bytes(spoilt)
        try:
            check(extract([5, 3, 9], never), [9, 3, 5])
        except DataError as error:
            refusal = str(error)
    segment_file.write_bytes(whole)
    assert not refusal or segment_file.name in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "NaN or infinite"),
        (float("-inf"), "NaN or infinite"),
        (7e4, "beyond ±65504, the range of half precision"),
        (-1e30, "beyond ±65504, the range of half precision"),
    ],
)
def test_values_that_half_precision_cannot_hold_are_refused(value: float, message: str) -> None:
    def compute(rows: Any) -> Tensors:
        tensors = features(rows)
        tensors["fine"][rows == 6, 1, 2] = value
        return tensors

    for _ in range(2):
        with pytest.raises(TrainingError, match=f"^features: level 'fine' has values that are {message}, .* in row 6;"):
            extract(range(12), compute)
        assert len(segments()) == 1
    network = Network()
    check(extract(range(12), network), range(12))
    assert network.rows == [*range(4, 12)]


@pytest.mark.parametrize(
    "change",
    [
        {"deep": None},
        {"more": torch.zeros(3)},
        {"deep": torch.zeros(3, 4)},
        {"deep": torch.zeros(2, 5)},
        {"fine": torch.zeros(3, 6)},
        {"coarse": torch.zeros(3, 1)},
        {"coarse": torch.zeros(3, dtype=torch.int64)},
    ],
)
def test_a_network_that_returns_something_else_is_a_defect(change: dict[str, torch.Tensor | None]) -> None:
    def compute(rows: Any) -> Any:
        tensors = {**features(rows), **change}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    with pytest.raises(ValueError, match=r"^compute returned \{.*'fine': \[3, 2, 3\]"):
        extract([1, 2, 3], compute)
    assert not segments()


@pytest.mark.parametrize(
    ("rows", "shapes", "segment", "message"),
    [
        (np.array([1, 2, 1]), SHAPES, 4, "distinct"),
        (np.array([1, -2]), SHAPES, 4, "not negative"),
        (np.array([1.0, 2.0]), SHAPES, 4, r"integers in one dimension, not float64 \[2\]"),
        (np.array([True, False]), SHAPES, 4, "not bool"),
        (np.array([[1, 2]]), SHAPES, 4, r"not int64 \[1, 2\]"),
        (np.array([1, 2]), SHAPES, 0, "segment must be at least 1, not 0"),
        (np.array([1, 2]), {}, 4, "levels need names"),
        (np.array([1, 2]), {"a/b": (1,)}, 4, "levels need names, without a slash"),
        (np.array([1, 2]), {"": (1,)}, 4, "levels need names"),
        (np.array([1, 2]), {"a": (1, 0)}, 4, "at least 1"),
    ],
)
def test_senseless_requests_are_refused(rows: Any, shapes: Any, segment: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_or_extract(ADDRESS, rows, shapes, never, cell(), segment=segment)
    assert not cache().exists()


@pytest.mark.parametrize("rows", [np.array([1.0]), np.array([[1]]), np.array([True])])
def test_senseless_readings_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="integers in one dimension"):
        extract([1], Network()).read(rows)
