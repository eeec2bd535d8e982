"""The process that reads files: whatever happens in it is an error of the file, and the next file is read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmrs_bench.errors import BenchError, DataError
from mmrs_bench.scenes.files.decoders import guard


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    guard.stop()
    monkeypatch.setattr(guard, "CHILD", "helpers.faulty_child")
    yield tmp_path / "file"
    guard.stop()


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("crash", r"crashed on it: SIGSEGV\); it is damaged"),
        ("loop", "was not read within 1 seconds"),
        ("allocate", "declares more data than a file of its size contains"),
    ],
)
def test_a_fault_in_the_process_is_an_error_and_the_next_file_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, message: str
) -> None:
    if reader == "loop":
        monkeypatch.setattr(guard, "BASE_SECONDS", 1.0)
    with pytest.raises(DataError, match=message):
        guard.read_guarded(reader, path, 100)
    monkeypatch.undo()
    monkeypatch.setattr(guard, "CHILD", "helpers.faulty_child")
    raster = guard.read_guarded("ones", path, 100)
    np.testing.assert_array_equal(raster.array, np.ones((3, 2)))
    assert not raster.array.flags.writeable


def test_one_process_serves_many_files_and_an_idle_one_is_replaced(path: Path) -> None:
    guard.read_guarded("ones", path, 100)
    first = guard.child_pid()
    guard.read_guarded("ones", path, 100)
    assert guard.child_pid() == first
    guard.read_guarded("idle", path, 100)
    assert guard.child_pid() not in (first, None)


def test_a_process_that_was_killed_between_two_files_is_replaced(path: Path) -> None:
    guard.read_guarded("ones", path, 100)
    pid = guard.child_pid()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert guard.read_guarded("ones", path, 100).array.shape == (3, 2)


def test_an_interrupt_leaves_no_answer_for_the_next_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    guard.read_guarded("ones", path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(guard.select, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            guard.read_guarded("ones", path, 100)
    assert guard.child_pid() is None
    assert guard.read_guarded("idle", path, 100).array.shape == (3, 2)


def test_a_process_that_does_not_start_gives_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CHILD", "helpers.no_such_module")
    with pytest.raises(BenchError, match=r"did not start: .*No module named"):
        guard.read_guarded("ones", path, 100)


def test_a_forked_process_leaves_the_reader_of_its_parent_alone(path: Path) -> None:
    guard.read_guarded("ones", path, 100)
    first = guard.child_pid()
    pid = os.fork()
    if pid == 0:  # as a worker that inherits the exit handlers
        guard.stop()
        same = guard.read_guarded("ones", path, 100).array.shape == (3, 2) and guard.child_pid() != first
        guard.stop()
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0
    guard.read_guarded("ones", path, 100)
    assert guard.child_pid() == first
