"""The campaign's own instruments: what they count, and that they put everything back."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.fake_cells import fake_record, make_cells
from rich.console import Console
from torture.campaign import report
from torture.corruption import MANNERS, TARGETS, damage, files_of, plant_claims, plant_failures, put_back, unwritable
from torture.faults import running_faults
from torture.rounds import Campaign
from torture.watch import Tally, Watch

from mmrs_bench.evaluation.results.records import load_failures, record_path, save_record


@pytest.fixture
def arena(tmp_path: Path) -> Any:
    """Folders with three fake records."""
    results = tmp_path / "disk" / "results"
    for cell in make_cells(3):
        save_record(results, fake_record(cell))
    (tmp_path / "precious.txt").write_text("precious\n")
    return SimpleNamespace(
        root=tmp_path,
        disk=tmp_path / "disk",
        results=results,
        cache=tmp_path / "cache",
        precious=tmp_path / "precious.txt",
    )


@pytest.fixture
def watch(arena: Any) -> Watch:
    """A watch that has seen the three records."""
    watch = Watch(arena, {cell.key: fake_record(cell).body() for cell in make_cells(3)}, Tally())
    watch.poll("start")
    assert (len(watch.whole), watch.tally.finished, watch.tally.findings) == (3, 3, [])
    return watch


def kinds(watch: Watch) -> list[str]:
    watch.poll("test")
    return [kind for kind, _ in watch.tally.findings]


def test_a_record_that_vanishes_or_breaks_is_lost(watch: Watch) -> None:
    one, other, _ = watch.whole
    one.unlink()
    other.write_text("{")
    assert kinds(watch) == ["lost", "lost"]
    assert len(watch.whole) == 1


def test_a_record_that_is_written_again_was_computed_twice(watch: Watch, arena: Any) -> None:
    save_record(arena.results, fake_record(make_cells(1)[0]))
    assert kinds(watch) == ["twice"]


def test_records_that_were_computed_again_while_hidden_are_accepted_if_they_are_right(watch: Watch, arena: Any) -> None:
    right, wrong, _ = (fake_record(cell) for cell in make_cells(3))
    save_record(arena.results, right)
    save_record(arena.results, wrong.model_copy(update={"split_sha256": "1" * 64}))
    watch.accept_again("test")
    assert kinds(watch)[0] == "wrong"
    assert "twice" not in [
        kind for kind, text in watch.tally.findings if record_path(arena.results, right.protocol).name in text
    ]


def test_a_record_with_another_body_is_wrong(watch: Watch, arena: Any) -> None:
    record = fake_record(make_cells(1)[0])
    watch.forget(record_path(arena.results, record.protocol))
    save_record(arena.results, record.model_copy(update={"split_sha256": "1" * 64}))
    assert kinds(watch) == ["wrong"]


def test_records_that_the_campaign_harms_are_not_counted(watch: Watch) -> None:
    path = watch.whole[0]
    watch.forget(path)
    path.write_text("{")
    assert kinds(watch) == []


def test_only_deadly_findings_fail_the_campaign() -> None:
    console = Console(quiet=True)
    assert report(Tally(findings=[("twice", "")]), console) == 0
    for kind in ("lost", "wrong", "hang", "traceback"):
        assert report(Tally(findings=[(kind, "")]), console) == 1


def test_only_files_that_an_error_line_says_to_remove_are_removed(arena: Any) -> None:
    campaign = Campaign(arena, {}, Tally(), random.Random(0), patience=1)
    one, other, third = files_of(arena, "record")
    campaign.follow_advice(f"error: {one}: is damaged; delete the file\nerror: cannot write {other}: no space\n")
    campaign.follow_advice(f"{arena.results}: remove what is in the way\n")
    assert [path.exists() for path in (one, other, third)] == [False, True, True]


@pytest.mark.parametrize("manner", MANNERS)
def test_damage_changes_one_file_and_nothing_else(arena: Any, manner: str) -> None:
    before = {path: path.read_bytes() for path in files_of(arena, "record")}
    path = damage(arena, "record", manner, random.Random(3))
    assert path in before
    assert not path.is_file() or path.is_symlink() or path.read_bytes() != before.pop(path)
    assert all(other.read_bytes() == content for other, content in before.items() if other != path)
    assert arena.precious.read_text() == "precious\n"


def test_claims_and_failures_are_planted(arena: Any) -> None:
    plant_failures(arena)
    plant_claims(arena, ["one"])
    assert len(files_of(arena, "failure")) == 2
    assert files_of(arena, "claim") == [arena.results / "locks" / "one.claim"]
    assert load_failures(arena.results) == []  # both cells have records
    assert damage(arena, "features", "emptied", random.Random(0)) is None


def test_a_folder_that_was_moved_away_comes_back_beside_what_was_written_meanwhile(tmp_path: Path) -> None:
    place, away = tmp_path / "place", tmp_path / "away"
    (away / "both").mkdir(parents=True)
    (away / "both" / "old").write_text("old")
    (away / "file").write_text("old")
    (place / "both").mkdir(parents=True)
    (place / "both" / "new").write_text("new")
    (place / "file").write_text("new")
    put_back(away, place)
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == ["both", "both/new", "both/old", "file"]
    assert (place / "file").read_text() == "new"
    assert not away.exists()


def test_an_unwritable_folder_is_writable_again_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    with unwritable(folder) as worked:
        if not worked:
            pytest.skip("this user or file system cannot make a folder unwritable")
        with pytest.raises(OSError, match=r"not permitted|denied"):
            (folder / "inner" / "file").write_text("")
    (folder / "inner" / "file").write_text("")
    assert os.access(folder, os.W_OK)


def test_faults_have_distinct_names() -> None:
    names = list(running_faults())
    assert len(names) > 40
    assert not set(names) & {f"{target} {manner}" for target in TARGETS for manner in MANNERS}
