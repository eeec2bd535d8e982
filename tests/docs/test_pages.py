"""The documentation: links, make targets and the example card are valid."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from site_generator.pages import RESULTS, generated_files

from mmrs_bench.config import MethodSpec, method_label
from mmrs_bench.evaluation.report.entries import group_records
from mmrs_bench.evaluation.report.tables import Column, format_value
from mmrs_bench.evaluation.results.costs import typical_seconds
from mmrs_bench.evaluation.results.records import load_records
from mmrs_bench.methods.catalogue import CARD_DIR, method_card, method_cards
from mmrs_bench.paths import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
MAKEFILE = (REPOSITORY / "Makefile").read_text()


@cache
def generated() -> set[Path]:
    """Pages and files that only the site has."""
    return {REPOSITORY / "docs" / place for place in generated_files()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            path = (page.parent / target).resolve()
            assert path.exists() or path in generated(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for target in re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert target in targets, f"{page.name} calls make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_contain_no_paths_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp)/", page.read_text())


def test_the_example_card_is_a_valid_card() -> None:
    text = (REPOSITORY / "docs" / "adding-a-method.md").read_text()
    fields = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert MethodSpec.model_validate(fields).variants["as-released"].unranked
    assert set(fields) >= set(MethodSpec.model_fields) - {"needs_weights", "part_of"}, "the example has every field"


#: A line of a card: ``#   clip-vectors on trento-lite (reduced HSI, 10 draws), 2 5 shots: 92.2 ± 3.8, 94.1 ± 2.2``.
EXPECTED = re.compile(r"#   (?:([\w-]+) on )?([\w-]+) \([\w ]+, (\d+) draws\), ([\d ]+) shots: ([\d.± ,]+)")


def expected_values(card: MethodSpec) -> list[tuple[tuple[str, str, str, int], tuple[str, int]]]:
    """What the comment of a card expects: method, scene, budget and shots; mean ± sd, and draws."""
    text = (CARD_DIR / f"{card.name}.yaml").read_text()
    found = re.search(
        r"^# Expect OA in percent \(.*, random-v1, budget (\w+)\):\n((?:#   .*\n)+)# from: ", text, re.MULTILINE
    )
    if found is None:
        assert "±" not in text, f"{card.name}: write what to expect as in the card cnn"
        return []
    values = []
    for line in found[2].splitlines():
        parts = EXPECTED.fullmatch(line)
        assert parts is not None, f"{card.name}: {line}"
        method = method_label(card.name, parts[1] or "default")
        for shots, value in zip(parts[4].split(), parts[5].split(", "), strict=True):
            values.append(((method, parts[2], found[1], int(shots)), (value, int(parts[3]))))
    return values


def test_what_cards_expect_is_what_the_committed_records_contain() -> None:
    records = [r for r in load_records(RESULTS) if r.protocol.method_version == method_card(r.protocol.method).version]
    measured = {}
    for group in group_records(records):
        usual = set(group.fields) == {"scene", "split", "shots", "win", "unlab", "sel", "budget", "version"}
        for entry in group.entries if usual and group.fields["split"] == "random-v1" else ():
            if entry.method_id.selection != "paper-val":
                name = (entry.method_id.name, group.scene_id, group.fields["budget"], group.shots)
                value = entry.estimate("oa")
                measured[name] = (format_value(value, Column("oa", digits=1)), len(entry.draws))
    expected = dict(value for card in method_cards().values() for value in expected_values(card))
    committed = expected.keys() & measured.keys()
    assert len(committed) > 50
    assert {name: expected[name] for name in committed} == {name: measured[name] for name in committed}


def test_the_table_of_published_lengths_is_that_of_the_measured_file() -> None:
    text = (REPOSITORY / "docs" / "performance.md").read_text()
    section = text.partition("## Published lengths on a CPU\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z][\w-]+) \| ([\d.]+) \| ([\d.–]+) \| (\d+) \|$", section, re.MULTILINE)
    found = {name: costs["paper"] for name, costs in typical_seconds().seconds.items() if "paper" in costs}
    expected = {
        name: (f"{cost.own:.1f}", f"{hours:.1f}" if hours else "–", f"{cost.memory_mib:.0f}")
        for name, cost in found.items()
        if (hours := sum(cost.pretraining.values()) / 3600) or cost.own >= 6
    }
    assert {name: tuple(values) for name, *values in rows} == expected
