"""Failure records: kept until the cell succeeds, and hidden by later records of the same draw."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.synthetic_records import make_failure, make_protocol, make_record

from mmrs_bench.errors import RecordError, TrainingError
from mmrs_bench.evaluation.results.records import (
    failure_path,
    load_failures,
    load_records,
    remaining_failures,
    save_failure,
    save_record,
)
from mmrs_bench.evaluation.results.schema import FailureRecord, Record


def test_failures_are_kept_until_the_cell_succeeds(tmp_path: Path) -> None:
    record = make_record()
    try:
        raise TrainingError("the loss\nis NaN")
    except TrainingError as error:
        path = save_failure(tmp_path, record.protocol, error)
    assert path == failure_path(tmp_path, record.protocol)
    (failure,) = load_failures(tmp_path)
    assert (failure.key, failure.error, failure.message) == (record.key, "TrainingError", "the loss is NaN")
    assert "test_failures_are_kept" in failure.traceback
    assert load_records(tmp_path) == []
    save_record(tmp_path, record)
    assert load_failures(tmp_path) == []
    assert not path.exists()


def test_failures_of_cells_with_a_record_are_ignored(tmp_path: Path) -> None:
    record = make_record()
    save_record(tmp_path, record)
    save_failure(tmp_path, record.protocol, TrainingError("earlier"))
    save_failure(tmp_path, make_protocol(draw=1), TrainingError("still"))
    assert [failure.message for failure in load_failures(tmp_path)] == ["still"]


def test_a_corrupt_failure_record_is_named(tmp_path: Path) -> None:
    path = save_failure(tmp_path, make_protocol(), TrainingError("x"))
    path.write_text("{}")
    with pytest.raises(RecordError, match="has schema None"):
        load_failures(tmp_path)


def test_a_failure_remains_until_a_later_record_of_any_version_of_the_method() -> None:
    failure = make_failure("rf", method_config={"trees": 1}).model_copy(
        update={"failed_at": "2025-01-02T00:00:00+00:00"}
    )
    record = make_record("rf")

    def remaining(record: Record, *failures: FailureRecord) -> int:
        return len(remaining_failures([record], failures))

    later = record.model_copy(
        update={"measured": record.measured.model_copy(update={"finished_at": "2025-01-03T00:00:00+00:00"})}
    )
    assert remaining(record, failure, failure) == 1, "an older result of another version says nothing about this one"
    assert remaining(later, failure) == 0
    for change in (
        {"draw": 1},
        {"shots": 5},
        {"seed": 1},
        {"method": "svm"},
        {"variant": "other"},
        {"budget": "quick"},
    ):
        other = make_failure(**{"method": "rf", **change}).model_copy(update={"failed_at": failure.failed_at})
        assert remaining(later, other) == 1, change
    assert remaining(later.with_origin("Example Lab"), failure) == 1, (
        "results of others are no answer to a failure here"
    )
    assert remaining(record, make_failure("rf")) == 0, "the cell has a record"
