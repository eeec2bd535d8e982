"""``mmrs-bench cite``: BibTeX of suite, scenes and methods, and the protocol in words."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.pages import hostile_records
from helpers.synthetic_records import make_record

from mmrs_bench.cli import main
from mmrs_bench.errors import ConfigError
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.paper.citation import SUITE, bibtex, methods_paragraph
from mmrs_bench.evaluation.results.records import save_record
from mmrs_bench.methods.catalogue import method_cards, read_method_card
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
    assert keys[-2:] == ["melgani2004svm", "pedregosa2011scikit"], "the card of cnn names no paper"
    assert len(keys) == len(set(keys)) == 6, "MUUFL asks for two entries"
    assert "\nMethod svm: scikit-learn SVC; Melgani and Bruzzone, TGRS 2004\n" in text
    for name in ("trento", "muufl"):
        assert all(line in text for line in load_manifest(name).citation.splitlines())
    assert text.count("{") == text.count("}")


def test_scenes_of_one_paper_share_its_entry() -> None:
    text = bibtex(group_records(make_record(scene=f"{scene}-r1") for scene in ("augsburg", "berlin")), method_cards())
    assert text.count("@article{hong2021s2fl,") == 1


def test_methods_of_one_paper_share_its_entry() -> None:
    text = bibtex(group_records(make_record(name) for name in ("clip", "diffclip", "rf", "svm-emp")), method_cards())
    for key in ("zhang2025diffclip", "pedregosa2011scikit", "breiman2001forests", "benediktsson2005emp"):
        assert len(re.findall(rf"^@\w+\{{{key},", text, re.MULTILINE)) == 1


def test_every_card_cites_what_it_names_and_equal_keys_are_equal_entries() -> None:
    by_key: dict[str, str] = {}
    for card in method_cards().values():
        assert bool(card.citation) != card.reference.startswith("none"), card.name
        for entry in re.split(r"^(?=@)", card.citation, flags=re.MULTILINE)[1:]:
            assert re.search(r"^  year +=", entry, re.MULTILINE), entry
            assert by_key.setdefault(entry.partition(",")[0], entry.strip()) == entry.strip()
    assert len(by_key) == 23


def test_a_card_without_entries_is_cited_in_its_words() -> None:
    card = method_cards()["rf"].model_copy(update={"citation": "", "reference": "Doe & Roe, 100 % @home, 2024"})
    groups = group_records([make_record("rf")])
    text = bibtex(groups, {"rf": card})
    assert "@misc{mmrs-bench-rf," in text
    assert r"note  = {Doe \& Roe, 100 \%" in text
    assert r"\cite{mmrs-bench-rf}" in methods_paragraph(groups, {"rf": card})
    assert "Method rf: Doe & Roe, 100 % (at)home, 2024" in text, "an @ outside of entries would begin one"


@pytest.mark.parametrize(
    "citation",
    [
        "Doe 2024",
        "@misc{doe}",
        "@misc{doe,\n  title = {a}\n",
        "@misc{doe,\n  title = {a}}\n}\n@x",
        "@misc{a,\n  t = {{b}\n}",
    ],
)
def test_a_card_with_broken_bibtex_is_refused(citation: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "rf", "name": "mine", "citation": citation}))
    with pytest.raises(ConfigError, match=r"mine.yaml: citation"):
        read_method_card(path)


@pytest.mark.skipif(shutil.which("bibtex") is None, reason="needs bibtex")
def test_bibtex_reads_every_entry_without_a_warning(tmp_path: Path) -> None:
    records = [make_record(name) for name in method_cards()]
    records += [make_record(scene=f"{name}-r1") for name in ("trento", "muufl", "augsburg", "houston2013")]
    (tmp_path / "all.bib").write_text(bibtex(group_records(records), method_cards()), encoding="utf-8")
    (tmp_path / "all.aux").write_text("\\citation{*}\n\\bibdata{all}\n\\bibstyle{plain}\n")
    done = subprocess.run(["bibtex", "all"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Warning--" not in done.stdout, done.stdout


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


def test_the_paragraph_says_what_was_done_and_no_more() -> None:
    few = methods_paragraph(group_records(RECORDS), method_cards())
    assert "Wilcoxon" not in few, "three draws allow no test"
    many = [make_record(method, draw=draw) for method in ("svm", "cnn") for draw in range(8)]
    text = methods_paragraph(group_records(many), method_cards())
    assert "by the exact two-sided Wilcoxon signed-rank test" in text
    text = methods_paragraph(group_records([make_record("diffclip", variant="support-only", draw=0)]), method_cards())
    assert "diffclip:support-only~" in text
    assert "over 1 draw of" in text
    changes: list[dict[str, Any]] = [{}, {"drop": ("lidar",)}, {"pca": 10}]
    first, dropped, reduced = (methods_paragraph(group_records([make_record(**c)]), method_cards()) for c in changes)
    assert "without the modalities lidar" in dropped
    assert "reduced to 10 principal components" in reduced
    assert "modalities" not in first


def test_the_paragraph_tells_shots_of_methods_and_the_version_of_the_code_apart() -> None:
    records = [make_record("svm", shots=2), make_record("knn", shots=5), make_record("rf", shots=5)]
    records.append(make_record("svm", scene="city-r1", title="City"))
    text = methods_paragraph(group_records(records), method_cards())
    assert re.search(r"knn.* and rf.* were trained on 5 labelled pixels of each class of Town \(town\); svm", text)
    assert re.search(r"svm\S* was trained on 2 labelled pixels of each class of City \(city\) and Town \(town\) ", text)
    assert "with mmrs-bench 0.0.7~" in methods_paragraph(group_records([make_record(code_version="0.0.7")]), {})


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
    assert text.startswith("@misc{mmrs-bench,")
    assert "Results were computed with mmrs-bench" in text
