"""Pages of constructed records, and what they contain."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Sequence
from typing import Any

from helpers.synthetic_records import REPORTED, make_record, varied_hits

from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.leaderboard import ranking
from mmrs_bench.evaluation.report.page.document import build_document
from mmrs_bench.evaluation.report.page.page import render_page
from mmrs_bench.evaluation.results.schema import FailureRecord, Record
from mmrs_bench.methods.catalogue import method_cards

#: Names that would do something if a format took them for more than text.
HOSTILE = {
    "script": "</script><script>window.hit = 1</script>",
    "image": "<img src=x onerror='window.hit = 1'>",
    "comment": "<!-- <script>",
    "latex": r"\input{/etc/passwd} $x^2$",
    "formula": "=cmd|' /C calc'!A0",
    "terminal": "\x1b]0;title\x07\x1b[31mred",
    "quotes": "\"'`${window.hit = 1}&amp;",
    "direction": "abc‮def",
}


def document_of(records: Sequence[Record], failures: Sequence[FailureRecord] = ()) -> dict[str, Any]:
    """The document of some records, with the shipped cards."""
    groups = group_records(records, failures)
    return build_document(groups, [ranking(group) for group in groups], REPORTED, method_cards())


def page_of(records: Sequence[Record], failures: Sequence[FailureRecord] = ()) -> str:
    """The page of some records."""
    return render_page(document_of(records, failures))


def hostile_records() -> list[Record]:
    """Records whose titles, methods, classes, notes and hosts are all of `HOSTILE`."""
    records = []
    for text in HOSTILE.values():
        for draw in range(2):
            record = make_record(text, varied_hits(150, draw), draw=draw, title=text, scene="town-r1", unranked=text)
            changes = {"class_names": (text, "b", "c"), "notes": (text,), "external_data": text}
            measured = record.measured.model_copy(update={"host": text})
            records.append(record.model_copy(update={**changes, "measured": measured}))
    return records


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a document by field."""
    return [dict(zip(document["fields"], row, strict=True)) for row in document["rows"]]


def unpacked(text: str) -> Any:
    """What `mmrs_bench.evaluation.report.page.details.packed` packed."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def data_in(page: str) -> dict[str, Any]:
    """The document that a page contains."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document
