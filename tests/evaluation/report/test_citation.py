"""``mmrs-bench cite``: BibTeX of suite, scenes and methods, and the protocol in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from helpers.pages import hostile_records
from helpers.synthetic_records import make_record

from mmrs_bench.cli import main
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.paper.citation import SUITE, bibtex, methods_paragraph
from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.methods.catalogue import method_cards
from mmrs_bench.paths import REPOSITORY
from mmrs_bench.scenes.catalogue import load_manifest

RECORDS = [
    make_record(method, draw=draw, shots=shots, scene=f"{scene}-r1", title=scene.title(), selection=rule)
    for scene in ("trento", "muufl")
    for shots in (2, 5)
    for method, rule in (("svm", "support-cv"), ("cnn", "last"))
    for draw in range(3)
]


def test_entries_are_those_of_the_suite_the_scenes_and_the_methods() -> None:
    text = bibtex(group_records(RECORDS), method_cards())
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert keys[0] == "mmrs-bench"
    assert keys[-1] == "mmrs-bench-svm", "the card of cnn names no paper"
    assert len(keys) == len(set(keys)) == 5, "MUUFL asks for two entries"
    for name in ("trento", "muufl"):
        assert all(line in text for line in load_manifest(name).citation.splitlines())
    assert text.count("{") == text.count("}")


def test_scenes_of_one_paper_share_its_entry() -> None:
    text = bibtex(group_records(make_record(scene=f"{scene}-r1") for scene in ("augsburg", "berlin")), method_cards())
    assert text.count("@article{hong2021s2fl,") == 1


def test_the_entry_of_the_suite_has_the_title_of_its_citation_file() -> None:
    fields = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert fields["title"] in SUITE
    assert fields["version"] in SUITE


def test_the_paragraph_states_the_protocol_and_cites_every_entry() -> None:
    groups = group_records(RECORDS)
    text = methods_paragraph(groups, method_cards())
    keys = set(re.findall(r"^@\w+\{([^,]+),", bibtex(groups, method_cards()), re.MULTILINE))
    assert set(",".join(re.findall(r"\\cite\{(.*?)\}", text)).split(",")) == keys
    for part in (
        "cnn and svm~",
        "trained on 2 and 5 labelled pixels of each class of Muufl (muufl)~",
        "split random-v1, windows of 11 x 11 pixels, budget paper",
        "over 3 draws",
        "all query pixels were scored",
        "the rule last or support-cv",
        r"10.1\,\% of the query windows",
    ):
        assert part in text, part


def test_hostile_names_are_inert(tmp_path: Path) -> None:
    records = [record.model_copy(update={"unranked": ""}) for record in hostile_records()]
    text = methods_paragraph(group_records(records), method_cards())
    assert r"\input" not in text
    assert "@" not in text
    assert not any(character in text for character in "\x1b\x07‮")


def test_cite_prints_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in RECORDS[:3]:
        save_record(tmp_path, record)
    assert main(["cite", "--results", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("@software{mmrs-bench,")
    assert "Results were computed with mmrs-bench" in text
