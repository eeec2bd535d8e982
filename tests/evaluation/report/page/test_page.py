"""The page as text: it loads nothing, hostile names stay text, and it is small."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.pages import HOSTILE, data_in, hostile_records, page_of, rows_of, unpacked
from helpers.synthetic_records import fixed_set, make_record

from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import build_leaderboard, ranking
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.page.page import render_page
from mmrs_bench.evaluation.report.render import render
from mmrs_bench.texts import printable


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_nothing_and_has_no_address_of_another_place() -> None:
    page = page_of(*fixed_set())
    code = re.sub(r"'sha256-[^']+'", "", page.partition('id="data">')[0])
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bimport\b|fetch\(|XMLHttp", code)
    assert not re.search(r"https?:|\bimport\(|[^.]fetch\(|XMLHttp|WebSocket|innerHTML|outerHTML|eval\(", page)
    elements = Elements(page).found
    assert {tag for tag, _ in elements} & {"link", "img", "iframe", "object", "embed", "base"} == set()
    assert [attributes.get("href") for _, attributes in elements if "href" in attributes] == ["#main"]
    assert not any("src" in attributes for _, attributes in elements)


def test_only_the_script_and_the_style_of_the_page_are_allowed_to_run() -> None:
    page = page_of([make_record()])
    policy = next(a["content"] or "" for tag, a in Elements(page).found if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


def test_hostile_names_add_no_element_and_end_no_script() -> None:
    records = hostile_records()
    page, harmless = page_of(records), page_of([make_record()])
    assert [tag for tag, _ in Elements(page).found] == [tag for tag, _ in Elements(harmless).found]
    document = data_in(page)
    assert {row["label"] for row in rows_of(document)} == {printable(text) for text in HOSTILE.values()}
    details = [unpacked(row["details"]) for row in rows_of(document)]
    assert {entry["classes"][0][0] for entry in details} == {printable(text) for text in HOSTILE.values()}
    assert not any(character in page for character in "\x1b\x07\u202e")


@pytest.mark.parametrize("fmt", ["terminal", "md", "csv", "tex", "html"])
def test_hostile_names_are_inert_in_the_other_formats(fmt: str) -> None:
    text = render(build_leaderboard(hostile_records()), fmt, width=200)
    assert not any(character in text for character in "\x1b\x07\u202e")
    if fmt in ("md", "html"):
        assert not re.search(r"(?<!\\)<(script|img|!--)", text.replace("<!DOCTYPE", ""))
    if fmt == "tex":
        assert r"\input" not in text
    if fmt == "csv":
        assert not re.search(r"(^|,)\"?[=+@]", text, re.MULTILINE)


def test_a_title_is_escaped() -> None:
    groups = group_records([make_record()])
    document = build_document(groups, [ranking(group) for group in groups])
    assert "<h1>&lt;b&gt;</h1>" in render_page(document, title="<b>")


def test_ten_thousand_records_of_fifteen_classes_are_less_than_ten_megabytes() -> None:
    """A hundredth of them, with a matrix that is full of large and different counts."""
    generator = np.random.default_rng(0)
    records = [make_record(method, draw=draw) for method in ("rf", "svm", "cnn", "clip", "bdgf") for draw in range(20)]
    wide = [
        record.model_copy(
            update={
                "confusion": tuple(map(tuple, generator.integers(0, 300, (15, 15)).tolist())),
                "class_names": tuple(f"class {number}" for number in range(15)),
                "scores": record.scores.model_copy(
                    update={name: tuple(generator.random(15).tolist()) for name in ("recall", "f1", "iou")}
                ),
            }
        )
        for record in records
    ]
    empty, full = len(page_of([make_record()])), len(page_of(wide))
    assert (full - empty) * 100 + empty < 10_000_000


def test_equal_records_give_equal_bytes() -> None:
    records, failures = fixed_set()
    assert page_of(records, failures) == page_of(records[::-1], failures)
