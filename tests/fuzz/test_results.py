"""Damaged records, failures, splits, baselines, reported numbers: the error of the reader, or the written content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.mutations import check_message, mutated_bytes, mutated_fields, mutated_json
from helpers.synthetic_records import make_record
from helpers.tiny import striped_map, tiny_scene

from mmrs_bench.errors import ConfigError, RecordError, SplitError, TrainingError
from mmrs_bench.evaluation.regression import BASELINES, load_baselines
from mmrs_bench.evaluation.report.reported import REPORTED, load_reported
from mmrs_bench.evaluation.results.records import load_failure, load_record, save_failure, save_record
from mmrs_bench.io import content_hash
from mmrs_bench.scenes.splits import split_files
from mmrs_bench.scenes.splits.split_files import committed_order, write_split_file

Fuzz = Any


def test_records(fuzz: Fuzz, tmp_path: Path) -> None:
    record = make_record(bounds=((("hsi",), 0.7, 0.001),))
    path = save_record(tmp_path, record)
    valid = json.loads(path.read_text())

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = load_record(path)
        except RecordError as error:
            check_message(error, path.name)
        else:
            assert found.body() == record.body() or "sha256" not in json.loads(content)

    fuzz(check, mutated_json(valid))


def test_failures(fuzz: Fuzz, tmp_path: Path) -> None:
    path = save_failure(tmp_path, make_record().protocol, TrainingError("the loss is NaN"))

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            load_failure(path)
        except RecordError as error:
            check_message(error, path.name)

    fuzz(check, mutated_json(json.loads(path.read_text())))


@pytest.mark.parametrize("sealed", [True, False])
def test_splits(sealed: bool, fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_files, "SPLIT_DIR", tmp_path)
    scene = tiny_scene(striped_map(60, 60, 3, field=10))
    path = write_split_file(scene, "block-v1", draws=2, shots=3)
    valid = json.loads(path.read_text())
    order = committed_order(scene, "block-v1", shots=2, draw=1, window=11)
    assert order is not None

    def check(content: Any) -> None:
        if sealed:  # someone who edits the file also corrects its hash
            fields = {name: value for name, value in content.items() if name != "sha256"}
            content = json.dumps({**fields, "sha256": content_hash(fields)}).encode()
        path.write_bytes(content)
        split_files._read_verified.cache_clear()
        try:
            found = committed_order(scene, "block-v1", shots=2, draw=1, window=11)
        except SplitError as error:
            check_message(error, path.name)
        else:
            if found is not None and not sealed:
                assert all(map(np.array_equal, found.pixels, order.pixels))

    fuzz(check, mutated_fields(valid) if sealed else mutated_bytes(path.read_bytes()))


@pytest.mark.parametrize("kind", ["baselines", "reported"])
def test_committed_numbers(kind: str, fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    if kind == "baselines":
        valid = json.loads(BASELINES.read_text())
        valid["rows"] = valid["rows"][:2]
    else:
        valid = yaml.safe_load(REPORTED.read_text())[:3]

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            (load_baselines if kind == "baselines" else load_reported)(path)
        except ConfigError as error:
            check_message(error, path.name)

    fuzz(check, mutated_json(valid))
