"""Records on disk: round trip, corrupt files, migration, failures; and signatures of protocols."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.new_process import in_new_process
from helpers.synthetic_records import make_protocol, make_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.results import metrics
from mmrs_bench.evaluation.results import records as store
from mmrs_bench.evaluation.results.metrics import METRICS, Metric, metric_value, scores
from mmrs_bench.evaluation.results.records import (
    load_failures,
    load_record,
    load_records,
    record_path,
    save_record,
)
from mmrs_bench.evaluation.results.schema import Record, Scores
from mmrs_bench.io import content_hash, write_json


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    hits=st.lists(st.integers(0, 200), min_size=3, max_size=3),
    draw=st.integers(0, 200),
    method_config=st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    ),
)
def test_round_trip(tmp_path: Path, hits: list[int], draw: int, method_config: dict[str, Any]) -> None:
    record = make_record("rf", hits, draw=draw, method_config=method_config)
    path = save_record(tmp_path, record)
    assert load_record(path) == record


def interrupted(action: Callable[[], object], moment: int) -> bool:
    """Whether an action ends with KeyboardInterrupt if that is raised in its ``moment``-th call of a Python function.

    It is False if there are not so many calls; any other end is an error. The garbage collector is off: its callbacks
    are functions in Python too, and Python only reports what they raise.
    """
    calls = -1

    def on_call(*_event: object) -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            sys.settrace(None)
            raise KeyboardInterrupt

    before = sys.gettrace()
    gc.disable()
    sys.settrace(on_call)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    assert calls < moment, "the interrupt was lost"
    return False


@pytest.mark.parametrize("action", ["load", "write", "key"])
def test_an_interrupt_at_any_moment_stays_an_interrupt(tmp_path: Path, action: str) -> None:
    """pydantic replaces an exception within a serializer in Python by one of its own."""
    record = make_record("rf")
    path = save_record(tmp_path, record)
    actions: dict[str, Callable[[], object]] = {
        "load": lambda: load_record(path),
        "write": lambda: save_record(tmp_path, record),
        "key": lambda: record.protocol.model_copy().with_data(record.protocol.data, 1).key,
    }
    moments = 0
    while interrupted(actions[action], moments):
        moments += 1
    assert moments > 5
    assert load_record(path) == record


def test_the_path_names_the_cell_and_is_unique(tmp_path: Path) -> None:
    protocol = make_protocol("cnn", variant="no-lidar", draw=3, seed=1, shots=5, split="block-v1", scene="trento-r1")
    path = record_path(tmp_path, protocol)
    assert path.relative_to(tmp_path).as_posix() == (
        f"records/trento-r1/cnn-no-lidar/paper-block-v1-5shot-draw03-seed1-{protocol.key}.json"
    )
    other = make_protocol("cnn", variant="no-lidar", draw=3, seed=1, shots=5, split="block-v1", method_version=2)
    assert record_path(tmp_path, other) != path
    odd = record_path(tmp_path, make_protocol("cnn", variant="../../x y"))
    assert odd.resolve().is_relative_to(tmp_path.resolve() / "records" / "town-r1")


def test_equal_records_give_equal_bodies_and_files(tmp_path: Path) -> None:
    one = save_record(tmp_path / "a", make_record()).read_bytes()
    other = save_record(tmp_path / "b", make_record()).read_bytes()
    assert one == other
    slow = make_record(seconds=99.0)
    assert slow != make_record()
    assert slow.body() == make_record().body()


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "is an empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is not valid JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00garbage"), "cannot be read"),
        (lambda path: path.write_text("[1, 2]"), "contains a JSON list"),
        (edited(lambda f: f.pop("schema")), "has schema None"),
        (edited(lambda f: f.pop("confusion")), "confusion is missing"),
        (edited(lambda f: f["scores"].update(oa=0.999)), "its oa does not follow from its confusion matrix"),
        (edited(lambda f: f.update(n_query=601)), "counts 600 pixels, but n_query is 601"),
        (edited(lambda f: f.update(class_names=["water"])), "not 1 x 1"),
        (edited(lambda f: f["protocol"]["data"].update(shots=5)), "is not that of its protocol"),
        (edited(lambda f: f.update(labels_used=206)), "ranked although it used 206 labels instead of 6"),
        (edited(lambda f: f.update(n_support=5)), "n_support is 5"),
        (edited(lambda f: f.update(class_names=["roof", "water", "trees"])), "was edited after it was written"),
        (edited(lambda f: f["leakage"].update(shared_window=0.0)), "was edited after it was written"),
        (edited(lambda f: f.update(split_sha256="00" * 32)), "was edited after it was written"),
        (
            edited(lambda f: f.update(pixel_bounds=[{"modalities": ["hsi"], "accuracy": 0.5, "standard_error": 0.0}])),
            "was edited after it was written",
        ),
        (edited(lambda f: f.update(sha256=1)), "was edited after it was written"),
        (lambda path: path.rename(path.with_name(path.name.replace("draw00", "draw07"))), "record that belongs in"),
    ],
)
def test_a_corrupt_record_is_named_with_its_fault_and_advice(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save_record(tmp_path, make_record(draw=1))
    path = save_record(tmp_path, make_record(draw=0))
    damage(path)
    with pytest.raises(RecordError, match=message) as caught:
        load_records(tmp_path)
    text = str(caught.value)
    assert str(path.parent) in text
    assert text.endswith("delete the file or move it away, and the next run computes its cell again")
    assert "\n" not in text


def test_a_record_without_checksum_and_a_record_with_other_measurements_are_read(tmp_path: Path) -> None:
    path = save_record(tmp_path, make_record(bounds=((("hsi",), 0.7, 0.0),)))
    assert json.loads(path.read_text())["sha256"] == content_hash(make_record(bounds=((("hsi",), 0.7, 0.0),)).body())
    edited(lambda f: f["measured"].update(host="renamed"))(path)
    assert load_record(path).measured.host == "renamed"
    edited(lambda f: f.pop("sha256"))(path)
    edited(lambda f: f.update(class_names=["a", "b", "c"]))(path)
    assert load_record(path).class_names == ("a", "b", "c")
    assert "sha256" not in load_record(path).body()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        before = os.getcwd()
        os.chdir(path.parent)  # the path of a socket has at most 107 bytes
        try:
            opened.bind(path.name)
        finally:
            os.chdir(before)


def link_to_another_record(path: Path) -> None:
    other = save_record(path.parents[4] / "elsewhere", make_record())
    path.symlink_to(other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is not a regular file"),
        (make_socket, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (link_to_another_record, "is a symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "is a symbolic link"),
        (lambda path: path.symlink_to(path), "is a symbolic link"),
        (lambda path: path.symlink_to("/dev/zero"), "is a symbolic link"),
    ],
)
@pytest.mark.parametrize("folder", ["records", "failures"])
def test_what_is_named_like_a_record_but_is_no_file_is_refused(
    folder: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = (
        tmp_path / "results" / folder / record_path(tmp_path, make_record().protocol).relative_to(tmp_path / "records")
    )
    path.parent.mkdir(parents=True)
    make(path)
    load = load_records if folder == "records" else load_failures
    with pytest.raises(RecordError, match=message) as caught:
        load(tmp_path / "results")
    assert str(path) in str(caught.value)


def test_a_link_to_a_folder_is_refused_and_the_results_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    path = save_record(tmp_path / "real", make_record())
    (tmp_path / "results").symlink_to("real")
    assert len(load_records(tmp_path / "results")) == 1
    path.parents[1].joinpath("more").symlink_to(tmp_path)
    with pytest.raises(RecordError, match="more: is a symbolic link"):
        load_records(tmp_path / "results")


def test_hidden_files_are_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_record(tmp_path, make_record())
    stray = path.with_name(f"._{path.name}")
    stray.write_bytes(b"\0\5\x16\7Mac OS X")
    path.with_name(".x\x1b[31m.json").mkdir()
    path.with_name("notes.txt").write_text("not named like a record")
    assert len(load_records(tmp_path)) == 1
    assert f"{stray}: is a hidden file" in caplog.text
    assert "\\x1b[31m.json: is a hidden file" in caplog.text
    assert "\x1b" not in caplog.text


def test_the_first_three_corrupt_files_are_named(tmp_path: Path) -> None:
    paths = [save_record(tmp_path, make_record(draw=draw)) for draw in range(5)]
    for path in paths[1:]:
        path.write_text("")
    with pytest.raises(RecordError, match="and 1 more files") as caught:
        load_records(tmp_path)
    assert [str(path) in str(caught.value) for path in paths] == [False, True, True, True, False]


def test_a_record_of_a_newer_suite_is_not_called_corrupt(tmp_path: Path) -> None:
    path = save_record(tmp_path, make_record())
    edited(lambda f: f.update(schema=2))(path)
    newer = r"written by a newer mmrs-bench \(schema 2; this one reads up to 1\)"
    with pytest.raises(RecordError, match=newer) as caught:
        load_record(path)
    assert "delete" not in str(caught.value)


def test_old_schemas_are_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record()
    path = save_record(tmp_path, record)

    def age(fields: dict[str, Any]) -> None:
        fields["schema"] = -1
        del fields["sha256"]  # old records have none
        fields["classes"] = fields.pop("class_names")

    edited(age)(path)
    with pytest.raises(RecordError, match="has schema -1, for which there is no migration"):
        load_record(path)
    steps: list[int] = []

    def step(number: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def migrate(fields: dict[str, Any]) -> dict[str, Any]:
            steps.append(number)
            if number == 0:
                fields["class_names"] = fields.pop("classes")
            return fields

        return migrate

    monkeypatch.setattr(store, "MIGRATIONS", {-1: step(-1), 0: step(0)})
    assert load_record(path) == record
    assert steps == [-1, 0]


def test_an_inconsistent_record_is_not_written(tmp_path: Path) -> None:
    wrong = make_record().model_copy(update={"n_query": 1})
    with pytest.raises(RecordError, match="was not written: its confusion matrix counts 600"):
        save_record(tmp_path, wrong)
    assert not list(tmp_path.rglob("*"))


def test_a_file_that_differs_from_what_was_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_record(seconds=7.0).model_dump(mode="json", by_alias=True)
    monkeypatch.setattr(store, "write_json", lambda path, value: write_json(path, other))
    with pytest.raises(RecordError, match="its content differs from what was written"):
        save_record(tmp_path, make_record())


class ScoresWithError(Scores):
    error: float | None = None


def test_a_stored_metric_is_one_row_and_one_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New records contain the metric and are checked; for older ones it is computed from the confusion matrix."""
    old = make_record(hits=(100, 100, 100))
    old_path = save_record(tmp_path, old)
    metric = Metric("error", "Error", lambda c: 1 - sum(c.correct) / sum(c.true), higher_is_better=False)
    monkeypatch.setitem(METRICS, "error", metric)
    monkeypatch.setattr(metrics, "Scores", ScoresWithError)

    class NewRecord(Record):
        scores: ScoresWithError

    monkeypatch.setattr(store, "Record", NewRecord)
    new = NewRecord.model_validate({**make_record(draw=1).model_dump(by_alias=True), "scores": scores(old.confusion)})
    new = new.model_copy(update={"confusion": old.confusion, "n_query": old.n_query})
    new_path = save_record(tmp_path, new)
    assert json.loads(new_path.read_text())["scores"]["error"] == metric_value(new, "error") == 0.5
    assert metric_value(load_record(old_path), "error") == 0.5
    edited(lambda f: f["scores"].update(error=0.25))(new_path)
    with pytest.raises(RecordError, match="its error does not follow from its confusion matrix"):
        load_record(new_path)


def test_results_are_read_without_heavy_imports() -> None:
    code = (
        "import sys\n"
        "import mmrs_bench.evaluation.regression\n"
        "from mmrs_bench.evaluation.report import comparison, curves, leaderboard, maps\n"
        "print([m for m in ('torch', 'scipy', 'matplotlib', 'sklearn', 'lightning', 'rich') if m in sys.modules])"
    )
    assert in_new_process(code) == "[]"


def test_an_unreadable_file_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_record(tmp_path, make_record())

    def fail(path: Path, **_: Any) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(RecordError, match=r"cannot be read .*; check its rights and the disk first, else"):
        load_records(tmp_path)
