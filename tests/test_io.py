"""Atomic writes, hashes and random streams."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import IO, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from mmrs_bench import io
from mmrs_bench.errors import BenchError
from mmrs_bench.randomness import derive_seed, numpy_generator, torch_generator

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_failed_write_keeps_the_old_content_and_removes_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    io.write_json(path, {"a": 1})

    def full(file: IO[bytes]) -> NoReturn:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BenchError, match="No space left on device"):
        io.atomic_write(path, full)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_removes_the_temporary_file(tmp_path: Path) -> None:
    def stop(file: IO[bytes]) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.atomic_write(tmp_path / "table.json", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write"):
        io.write_text(tmp_path / "file" / "below.txt", "text")


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        io.write_text(tmp_path / "shared.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared.txt").stat().st_mode) == 0o640


def test_nan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "x.json", {"oa": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(JSON_VALUES)
def test_a_content_hash_is_the_same_after_a_json_round_trip(value: object) -> None:
    assert io.content_hash(json.loads(json.dumps(value))) == io.content_hash(value)


def test_a_content_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert io.content_hash({"a": 1, "b": 2}) == io.content_hash({"b": 2, "a": 1})
    assert io.content_hash({"a": 1, "b": 2}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()


def test_the_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert io.file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_streams_of_addresses_never_change() -> None:
    """Splits of published tables depend on these values."""
    assert derive_seed("support", 3, 1) == 586225545808359285
    assert numpy_generator("support", 3, 1).integers(0, 1000, 4).tolist() == [928, 143, 697, 179]


def test_different_addresses_have_different_seeds() -> None:
    addresses: list[tuple[str | int, ...]] = [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a", 1, 0), ("a", 10), ()]
    assert len({derive_seed(*address) for address in addresses}) == len(addresses)


def test_torch_generators_use_the_seed_of_the_address() -> None:
    assert torch_generator("x", 1).initial_seed() == derive_seed("x", 1)


def test_csv_has_column_names_rows_and_quotes(tmp_path: Path) -> None:
    io.write_csv(tmp_path / "new" / "t.csv", ("name", "value"), [("a, b", 1), ('c "d"', 0.1), ("", None)])
    assert (tmp_path / "new" / "t.csv").read_text() == 'name,value\n"a, b",1\n"c ""d""",0.1\n,\n'


def test_png_has_the_requested_size(tmp_path: Path) -> None:
    io.write_png(tmp_path / "f.png", Figure(figsize=(2.0, 1.0)), dpi=50)
    assert imread(tmp_path / "f.png").shape == (50, 100, 4)
