"""The document behind the page: its numbers are those of the leaderboard and of the records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.pages import document_of, rows_of, unpacked
from helpers.synthetic_records import fixed_set, fixed_tables, make_record, varied_hits

from mmrs_bench.errors import RecordError
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.page.cards import family_of
from mmrs_bench.evaluation.report.page.sources import merged_records
from mmrs_bench.evaluation.report.ranks.scene_ranks import rank_over_scenes
from mmrs_bench.evaluation.report.tables import Estimate
from mmrs_bench.evaluation.results.metrics import METRICS
from mmrs_bench.methods.catalogue import method_cards


def test_every_row_has_the_numbers_of_the_leaderboard() -> None:
    found = rows_of(document_of(*fixed_set()))
    expected = [row for table in fixed_tables() if table.in_csv for row in table.rows]
    assert len(found) == len(expected) == 12
    for row, other in zip(found, expected, strict=True):
        assert (row["label"], row["rank"], row["unranked"]) == (other["label"], other["group"], other["unranked"])
        assert (row["draws"], row["labels"]) == (other["draws"], other["labels_used"])
        for name, estimate in zip(METRICS, row["estimates"], strict=True):
            value = other[name]
            assert isinstance(value, Estimate)
            assert estimate == list(value), "rounded once, by the page"
        assert row["seconds"] == pytest.approx(other["seconds"], abs=1e-4)


def test_titles_notes_and_cards_are_those_of_the_leaderboard() -> None:
    records, failures = fixed_set()
    document = document_of(records, failures)
    tables = [table for table in fixed_tables() if table.in_csv]
    assert [(g["title"], g["notes"]) for g in document["groups"]] == [(t.title, list(t.notes)) for t in tables]
    assert any("no *convergence*" in note for group in document["groups"] for note in group["notes"])
    simulated, trento = document["protocols"]
    assert dict(map(tuple, [(label, texts[0][1]) for label, texts in simulated["card"]])) == dict(tables[0].card)
    lines = dict(trento["card"])
    assert len(lines["input"]) == 1, "a line that is equal for all shots stands there once"
    assert [shots for shots, _ in lines["labels"]] == ["2 shots", "5 shots"]
    assert [text for _, text in lines["labels"]] == [dict(table.card)["labels"] for table in tables[1:]]


def test_an_opened_row_has_the_scores_of_its_records() -> None:
    records, failures = fixed_set()
    by_key = {record.key: record for record in records}
    seen = set()
    for row in rows_of(document_of(records, failures)):
        details = unpacked(row["details"])
        confusion = np.zeros((3, 3), int)
        for summary, shown in zip(row["records"], details["records"], strict=True):
            record = by_key[shown["key"]]
            assert summary[:3] == [record.protocol.data.draw, record.protocol.seed, record.key]
            assert summary[3] == pytest.approx(100 * record.scores.oa, abs=1e-4)
            assert shown["confusion"] == [list(counts) for counts in record.confusion]
            for name, values in zip(("recall", "f1", "iou"), shown["classes"], strict=True):
                assert values == pytest.approx([100 * v for v in getattr(record.scores, name)], abs=0.05)
            assert shown["leakage"] == pytest.approx([10.1, 3.3, 69.6])
            confusion += np.array(record.confusion)
            seen.add(record.key)
        assert details["confusion"] == confusion.tolist()
        recalls = np.array([record["classes"][0] for record in details["records"]])
        for number, entry in enumerate(details["classes"]):
            assert entry[2] == pytest.approx(
                [recalls[:, number].mean(), recalls[:, number].min(), recalls[:, number].max()], abs=0.11
            )
    assert seen == by_key.keys()


def test_scores_of_a_class_without_query_pixels_are_undefined() -> None:
    records = [
        make_record("rf", confusion=[[4, 0, 0], [0, 0, 0], [1, 0, 3]], draw=0),
        make_record("rf", confusion=[[4, 0, 0], [0, 1, 1], [1, 0, 3]], draw=1),
        make_record("svm", confusion=[[4, 0, 0], [0, 0, 0], [1, 0, 3]], draw=0),
    ]
    rf, svm = sorted(
        (unpacked(row["details"]) for row in rows_of(document_of(records))), key=lambda d: -len(d["records"])
    )
    assert [record["classes"][0] for record in rf["records"]] == [[100.0, None, 75.0], [100.0, 50.0, 75.0]]
    assert rf["classes"][1][1:] == [1.0, [50.0, 50.0, 50.0], [66.7, 66.7, 66.7], [50.0, 50.0, 50.0]]
    assert svm["classes"][1][1:] == [0.0, None, None, None]


def test_ranks_are_those_over_scenes() -> None:
    records = [
        make_record(method, varied_hits(quality, draw), draw=draw, scene=f"{scene}-r1")
        for scene in ("muufl", "trento")
        for method, quality in (("rf", 150), ("svm", 120))
        for draw in range(2)
    ]
    (expected,) = rank_over_scenes(group_records(records))
    (found,) = document_of(records)["ranks"]
    assert found["methods"] == [["rf", 1.0, 1.0, 1.0, [1.0, 1.0]], ["svm", 2.0, 2.0, 2.0, [2.0, 2.0]]]
    assert (found["title"], found["note"]) == (expected.title, expected.note)


def test_reported_results_are_apart_and_of_measured_scenes() -> None:
    records, failures = fixed_set()
    (reported,) = document_of(records, failures)["reported"]
    assert reported["scene"] == "trento"
    assert [row[0] for row in reported["rows"]] == ["MFT", "DiffCLIP"]
    assert document_of([make_record()])["reported"] == []


def test_methods_have_their_family_and_card() -> None:
    document = document_of([make_record("svm"), make_record("cnn"), make_record("unknown-method")])
    methods = {method["name"]: method for method in document["methods"]}
    assert {name: method["family"] for name, method in methods.items()} == {
        "svm": "classical",
        "cnn": "cnn",
        "unknown-method": "other",
    }
    assert methods["unknown-method"]["card"] is None
    card = document["cards"][methods["svm"]["card"]]
    assert (card["name"], card["reference"]) == ("svm", method_cards()["svm"].reference)


@pytest.mark.parametrize(
    ("class_path", "family"),
    [
        ("mmrs_bench.methods.clip.method:Clip", "clip"),
        ("some_package.methods:Theirs", "some_package"),
        ("/home/me/mine.py:Mine", "other"),
    ],
)
def test_the_family_of_a_method_is_its_folder_or_package(class_path: str, family: str) -> None:
    assert family_of(method_cards()["svm"].model_copy(update={"class_path": class_path})) == family


def test_results_of_several_folders_are_merged_and_a_contradiction_names_both() -> None:
    one, other = make_record(draw=0), make_record(draw=1)
    merged = merged_records([(Path("a"), [one]), (Path("b"), [one, other])])
    assert merged == [one, other]
    changed = make_record(hits=(10, 10, 10), draw=1)
    with pytest.raises(RecordError, match=r"a and b have different results of the cell .*; give one of"):
        merged_records([(Path("a"), [other]), (Path("b"), [changed])])
