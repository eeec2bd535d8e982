"""Folders and files that are replaced while a run is on end it with one error; finished records are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fake_cells import make_cells, run_fakes

from mmrs_bench.errors import BenchError
from mmrs_bench.evaluation.run.claims import Claim, cell_lock, exit_cause, is_locked, read_claim
from mmrs_bench.evaluation.run.executors import EXECUTORS

CELLS = make_cells(4)
LOCKS = [f"locks/{CELLS[2].key}.lock"]
CLAIMS = [f"locks/{CELLS[2].key}.claim"]


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, "in-process", "evaluation.run.test_executors:InProcessPool")


def run_with_fault(folder: Path, name: str, way: str, executor: str) -> str:
    """Run the cells with a fault at the second one; return the error, "" if all cells have a record."""
    (folder / "fault").write_text(f"{name} {way}")
    results = folder / "results"
    try:
        assert run_fakes(results, CELLS, "injects_fault_on_draw_1", workers=1, executor=executor) in (0, 1)
    except BenchError as error:
        return str(error)
    return ""


def kept_records(folder: Path) -> int:
    return len(list(folder.rglob("*draw00*.json")))


@pytest.mark.parametrize("way", ["file", "folder", "fifo", "removed"])
@pytest.mark.parametrize("name", [".", "locks", "records", "failures", "work"])
def test_a_replaced_folder_ends_the_run_in_one_line(tmp_path: Path, name: str, way: str) -> None:
    text = run_with_fault(tmp_path, name, way, "in-process")
    assert kept_records(tmp_path) == 1
    needed = name in (".", "locks") or (name in ("records", "failures") and way in ("file", "fifo"))
    assert bool(text) == needed, text
    assert "\n" not in text
    assert not text or str(tmp_path / "results") in text


@pytest.mark.parametrize("way", ["folder", "fifo", "symlink"])
@pytest.mark.parametrize("name", LOCKS + CLAIMS)
def test_a_replaced_lock_or_claim_ends_the_run_in_one_line(tmp_path: Path, name: str, way: str) -> None:
    text = run_with_fault(tmp_path, name, way, "in-process")
    assert str(tmp_path / "results" / name) in text
    assert kept_records(tmp_path) == 1
    assert not (tmp_path / "elsewhere").exists(), "a link was followed"


@pytest.mark.parametrize(("name", "way"), [(".", "removed"), ("locks", "folder"), ("logs", "fifo")])
def test_local_workers_end_when_a_folder_is_replaced(tmp_path: Path, name: str, way: str) -> None:
    text = run_with_fault(tmp_path, name, way, "local")
    assert bool(text) == (name != "logs"), text
    assert kept_records(tmp_path) == 1


def test_an_unusable_lock_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with pytest.raises(BenchError, match="locks"), cell_lock(tmp_path / "locks", "k"):
        pass
    with pytest.raises(BenchError, match="locks"):
        read_claim(tmp_path / "locks" / "k.claim")
    with pytest.raises(BenchError, match="locks"):
        Claim(tmp_path / "locks" / "k.claim").started("run", "worker")


def test_lack_of_memory_is_named_only_where_the_system_says_so() -> None:
    assert exit_cause(-9) == "killed by signal 9 (SIGKILL)"
    assert "lack of memory" in exit_cause(-9, out_of_memory=True)
    assert "lack of memory" not in exit_cause(-15, out_of_memory=True)
    assert exit_cause(-99) == "killed by signal 99"
    assert exit_cause(3) == "ended with exit code 3"


def test_a_lock_that_is_no_file_is_an_error_that_says_what_to_do_for_readers_too(tmp_path: Path) -> None:
    assert not is_locked(tmp_path, "run.owner")
    (tmp_path / "run.owner.lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BenchError, match=r"run\.owner\.lock: expected a regular file or none; delete it"):
        is_locked(tmp_path, "run.owner")
