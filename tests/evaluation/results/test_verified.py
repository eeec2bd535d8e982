"""Record files that were checked are read faster, and never without checks once anything about them changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.synthetic_records import make_record

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.results import records as store
from mmrs_bench.evaluation.results import verified
from mmrs_bench.evaluation.results.records import load_records, save_record
from mmrs_bench.paths import cache_root


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three record files that were read once, as if they were many."""
    monkeypatch.setattr(verified, "_WORTHWHILE", 3)
    paths = [save_record(tmp_path / "results", make_record(draw=draw)) for draw in range(3)]
    load_records(tmp_path / "results")
    return paths


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content is checked."""
    found: list[Path] = []
    misplaced = store._misplaced

    def check(record: Any, path: Path) -> str:
        found.append(path)
        return misplaced(record, path)

    monkeypatch.setattr(store, "_misplaced", check)
    return found


def test_checked_files_give_the_same_records_without_checks(
    checked: list[Path], checks: list[Path], tmp_path: Path
) -> None:
    assert load_records(tmp_path / "results") == [make_record(draw=draw) for draw in range(3)]
    assert checks == []


def test_a_new_file_is_checked(checked: list[Path], checks: list[Path], tmp_path: Path) -> None:
    save_record(tmp_path / "results", make_record(draw=3))
    checks.clear()
    assert len(load_records(tmp_path / "results")) == 4
    assert [path.name[:22] for path in checks] == ["paper-random-v1-2shot-"]


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap(b"180", b"181"), "does not follow from its confusion matrix|counts 601 pixels"),
        (swap(b'"Town"', b'"City"'), "was edited after it was written"),
        (lambda content: content[:-20] + b" " * 20, "is not valid JSON"),
        (lambda content: content[: len(content) // 2], "is not valid JSON"),
        (lambda content: b"", "is an empty file"),
        (swap(b'"unranked": ""', b'"unranked": "",\n "unranked": ""'), "given twice"),
    ],
)
def test_a_changed_file_of_the_same_size_and_time_is_checked(
    damage: Callable[[bytes], bytes], message: str, checked: list[Path], tmp_path: Path
) -> None:
    path = checked[1]
    before = path.stat()
    path.write_bytes(damage(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RecordError, match=message):
        load_records(tmp_path / "results")


def test_a_file_at_another_place_is_checked(checked: list[Path], tmp_path: Path) -> None:
    checked[1].rename(checked[1].with_name(checked[1].name.replace("draw01", "draw07")))
    with pytest.raises(RecordError, match="record that belongs in"):
        load_records(tmp_path / "results")


def test_all_files_are_checked_if_the_hashes_are_damaged_or_the_code_changed(
    checked: list[Path], checks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hashes,) = (cache_root() / "verified").iterdir()
    for content in (b"\xff\0", hashes.read_bytes().replace(b"a", b"b"), b""):
        hashes.write_bytes(content)
        load_records(tmp_path / "results")
        assert len(checks) >= 2
        checks.clear()
    monkeypatch.setattr(verified, "_code_hash", lambda: "other code")
    load_records(tmp_path / "results")
    assert len(checks) == 3


def test_a_results_folder_of_others_contains_no_hashes(checked: list[Path], tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"records"}


def test_the_hashes_cover_every_module_that_checks_records() -> None:
    package = Path(verified.__file__).parents[2]
    assert all((package / name).is_file() for name in verified._CHECKS)
    for module in ("accuracy", "config", "io", "reading", "evaluation.results.metrics", "evaluation.results.schema"):
        assert f"{module.replace('.', '/')}.py" in verified._CHECKS


def test_records_are_read_where_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_WORTHWHILE", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMRS_BENCH_CACHE", str(tmp_path / "file"))
    save_record(tmp_path / "results", make_record())
    assert len(load_records(tmp_path / "results")) == 1


def test_names_that_are_no_unicode_are_no_problem(checked: list[Path], tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "odd-") + b"\xff"))
    (tmp_path / "results").rename(odd)
    assert len(load_records(odd)) == 3
    (odd / "records" / "town-r1").rename(odd / "records" / os.fsdecode(b"\xff"))
    with pytest.raises(RecordError, match="record that belongs in"):
        load_records(odd)
