"""Files are whole or absent; hashes mean the same everywhere."""

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


def test_a_write_that_fails_keeps_the_old_content_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    io.write_json(path, {"a": 1})

    def full(file: IO[bytes]) -> NoReturn:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(BenchError, match="No space left on device"):
        io.atomic_write(path, full)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(file: IO[bytes]) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.atomic_write(tmp_path / "table.json", stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_exist_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write") as caught:
        io.write_text(tmp_path / "file" / "below.txt", "text")
    assert "\n" not in str(caught.value)


def test_files_get_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        io.write_text(tmp_path / "shared.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared.txt").stat().st_mode) == 0o640


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "x.json", {"oa": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(JSON_VALUES)
def test_a_content_hash_survives_a_round_trip_through_json(value: object) -> None:
    assert io.content_hash(json.loads(json.dumps(value))) == io.content_hash(value)


def test_a_content_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert io.content_hash({"a": 1, "b": 2}) == io.content_hash({"b": 2, "a": 1})
    assert io.content_hash({"a": 1, "b": 2}) == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()


def test_file_hash(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert io.file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_addresses_are_fixed_forever() -> None:
    """Splits of published tables hang on these streams; the values must never change."""
    assert derive_seed("support", 3, 1) == 586225545808359285
    assert numpy_generator("support", 3, 1).integers(0, 1000, 4).tolist() == [928, 143, 697, 179]


def test_addresses_do_not_run_into_each_other() -> None:
    addresses: list[tuple[str | int, ...]] = [("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a", 1, 0), ("a", 10), ()]
    assert len({derive_seed(*address) for address in addresses}) == len(addresses)


def test_torch_streams_are_addressed_too() -> None:
    assert torch_generator("x", 1).initial_seed() == derive_seed("x", 1)


def test_csv_has_names_rows_and_quotes(tmp_path: Path) -> None:
    io.write_csv(tmp_path / "new" / "t.csv", ("name", "value"), [("a, b", 1), ('c "d"', 0.1), ("", None)])
    assert (tmp_path / "new" / "t.csv").read_text() == 'name,value\n"a, b",1\n"c ""d""",0.1\n,\n'


def test_png_has_the_pixels_that_were_asked_for(tmp_path: Path) -> None:
    io.write_png(tmp_path / "f.png", Figure(figsize=(2.0, 1.0)), dpi=50)
    assert imread(tmp_path / "f.png").shape == (50, 100, 4)
